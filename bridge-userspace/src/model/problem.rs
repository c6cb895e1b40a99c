//! What is wrong, for people and for programs.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a problem is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Subject {
    /// The cluster as a whole, and the way to it.
    Cluster,
    /// An object of the cluster: kind and name.
    Object(String),
    /// A network interface, by name.
    Interface(String),
    /// The kernel's routes, neighbours and addresses.
    KernelNetwork,
    /// Tables and programs in the kernel.
    Datapath,
    /// The DNS relay.
    Dns,
    /// A task of the process, by name.
    Task(String),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster => f.write_str("cluster"),
            Self::Object(name) => f.write_str(name),
            Self::Interface(name) => write!(f, "interface {name}"),
            Self::KernelNetwork => f.write_str("kernel network"),
            Self::Datapath => f.write_str("datapath"),
            Self::Dns => f.write_str("dns"),
            Self::Task(name) => write!(f, "task {name}"),
        }
    }
}

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
