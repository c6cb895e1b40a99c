//! A step of the demonstration.

use std::time::{Duration, Instant};

use anyhow::Result;

/// One step and what came of it.
#[derive(Clone, Debug)]
pub struct Step {
    /// What the developer does.
    pub what: String,
    /// What the developer sees: a short result, or the error's whole chain.
    pub result: Result<String, String>,
    /// How long it took.
    pub elapsed: Duration,
}

impl Step {
    /// Does `work` and keeps what came of it, and how long it took.
    pub(super) fn take(what: impl Into<String>, work: impl FnOnce() -> Result<String>) -> Self {
        let started = Instant::now();
        let result = work().map_err(|error| format!("{error:#}"));
        Self {
            what: what.into(),
            result,
            elapsed: started.elapsed(),
        }
    }

    /// Whether it went well.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.result.is_ok()
    }
}
