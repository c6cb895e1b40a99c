//! The office developer's day, step by step, with what came of each step.

mod layers;
mod reach;
mod scaling;
mod screen;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::bridge::Bridge;
use crate::host::Host;
use crate::lab::Lab;

pub use screen::{addresses, flow_table, how_to_ask, how_to_enter, how_to_look, table};

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
    fn take(what: impl Into<String>, work: impl FnOnce() -> Result<String>) -> Self {
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

/// Plays the developer on `office-pc`, and meanwhile the one who scales a service.
#[must_use]
pub fn play(lab: &mut Lab, bridge: &Bridge) -> Vec<Step> {
    let mut steps = reach::steps(lab, bridge);
    steps.extend(scaling::steps(lab, bridge));
    steps.extend(layers::steps(lab, bridge));
    steps
}

/// The way from a host to a pod, which must end there.
fn trace(from: &Host, pod: Ipv4Addr, arguments: &[&str]) -> Result<String> {
    let hops = from.traceroute(pod, arguments)?;
    let shown: Vec<String> = hops
        .iter()
        .map(|hop| hop.map_or_else(|| "*".to_owned(), |address| address.to_string()))
        .collect();
    let shown = shown.join(" > ");
    ensure!(hops.last() == Some(&Some(pod)), "ends at {shown}");
    Ok(shown)
}
