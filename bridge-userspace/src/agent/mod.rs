//! `office-bridge run`.
//!
//! [`startup`] has `preflight` check everything, then loads, fills and attaches; [`event_loop`] follows [`inputs`] and has the [`forwarder`] apply
//! them; [`supervisor`] watches over every task that must live.

pub mod event_loop;
pub mod forwarder;
mod gc_task;
pub mod inputs;
pub mod listeners;
mod preflight;
mod signals;
pub mod startup;
pub mod supervisor;
mod uplink;

use anyhow::Context as _;
use nix::sys::signal::{SigSet, Signal};
use tracing::warn;

use crate::checks::judged_pins;
use crate::config::{Config, Environment, RunArgs};
use crate::kernel::descriptors::raise_to_hard_limit;

/// Runs until SIGTERM or SIGINT; links and tables stay.
///
/// # Errors
/// When the configuration is wrong (nothing was touched then) or the kernel refuses (what was new is removed).
pub fn run(args: RunArgs) -> anyhow::Result<()> {
    let (mut config, warnings) = Config::load(args, Environment::of_this_process())?;
    for warning in warnings {
        warn!("{warning}");
    }
    // Two names of one directory are one instance.
    judged_pins(&config.pin_path)?
        .root()
        .clone_into(&mut config.pin_path);
    raise_to_hard_limit();
    // Whoever started us may have held these back for itself, which a child inherits.
    SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM])
        .thread_unblock()
        .context("can't take signals")?;
    // Lives longer than the runtime.
    let mut held = None;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("can't start the runtime")?
        .block_on(startup::run(config, &mut held))
}
