//! `cargo xtask lab`: opens the lab for a person.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context as _, Result};
use lab::{Lab, LabOptions, demo};
use nix::sys::signal::{SigSet, Signal};

use crate::host;
use crate::process::{say, step};

/// Opens the lab and keeps it until Ctrl-C.
pub fn run() -> Result<()> {
    host::ready()?;
    let interrupt = Interrupt::expect()?;
    let lab = open(LabOptions::default())?;
    println!("\n{}\n{}", demo::addresses(&lab), demo::how_to_enter(&lab));
    println!("Any other host: the same with its namespace, as listed.\n");
    interrupt.wait()?;
    step("Closing the lab");
    drop(lab);
    Ok(())
}

pub fn open(options: LabOptions) -> Result<Lab> {
    let api_server = if options.api_server {
        "an API server, "
    } else {
        ""
    };
    step(&format!(
        "Opening the lab: an office, a router, {api_server}three cluster nodes and their pods, \
         in namespaces"
    ));
    Lab::open(options)
}

/// SIGINT, SIGTERM and SIGHUP, which are blocked until [`Interrupt::wait`], so that the lab is closed properly.
#[derive(Debug)]
pub struct Interrupt {
    signals: SigSet,
}

impl Interrupt {
    /// Blocks the signals. Call it before threads are started: they inherit the mask. The standard library resets it
    /// for child processes.
    pub fn expect() -> Result<Self> {
        let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
        signals.thread_block().context("hold back Ctrl-C")?;
        Ok(Self { signals })
    }

    /// A flag that becomes true when one of them arrives.
    pub fn watch(self) -> Result<&'static AtomicBool> {
        let came: &'static AtomicBool = Box::leak(Box::default());
        thread::Builder::new()
            .name("interrupt".into())
            .spawn(move || {
                if self.signals.wait().is_ok() {
                    came.store(true, Ordering::Relaxed);
                }
            })
            .context("start a thread that waits for Ctrl-C")?;
        Ok(came)
    }

    /// Waits until one of them arrives.
    pub fn wait(&self) -> Result<()> {
        say("It stays until Ctrl-C.");
        self.signals.wait().map(drop).context("wait for Ctrl-C")
    }
}
