//! What is wrong, for people and for programs.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Subject;

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Problem {
    /// What it is about.
    pub subject: Subject,
    /// What is wrong, in one sentence.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

impl Problem {
    /// A problem with its remedy.
    #[must_use]
    pub fn new(subject: Subject, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            subject,
            what: what.into(),
            remedy: remedy.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}
