//! Child processes that end with the value that holds them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::Pid;

use crate::wait::pause;

/// A running child whose output goes to a log file. Dropping it ends it.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts `command`, with standard output and error going to the file `log`.
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("create {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("share the log file")?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
        })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The CPU time of all its threads, which other processes do not lengthen as they do the wall clock.
    pub fn cpu_time(&self) -> Result<Duration> {
        let spent = clock_getcpuclockid(self.pid()?).and_then(ClockId::now);
        Ok(Duration::from(spent.with_context(|| {
            format!("ask for the CPU time of {}", self.name)
        })?))
    }

    fn pid(&self) -> Result<Pid> {
        i32::try_from(self.child.id())
            .map(Pid::from_raw)
            .context("a pid fits an i32")
    }

    /// What it has written so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The last lines of what it has written: the kernel's verifier alone can write megabytes.
    #[must_use]
    pub fn log_end(&self) -> String {
        const LINES: usize = 60;
        let log = self.log();
        let mut lines: Vec<&str> = log.lines().rev().take(LINES).collect();
        lines.reverse();
        lines.join("\n")
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.pid()?, signal).with_context(|| format!("send {signal} to {}", self.name))
    }

    /// Its exit status, if it has ended.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .with_context(|| format!("wait for {}", self.name))
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.exited()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!(
                    "{} still runs after {limit:?}; its log ends:\n{}",
                    self.name,
                    self.log_end()
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until `ready` holds; an early end of the process is an error that quotes its log.
    pub fn wait_until(&mut self, limit: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
        let start = Instant::now();
        while !ready() {
            if let Some(status) = self.exited()? {
                bail!(
                    "{} ended early, {status}; its log ends:\n{}",
                    self.name,
                    self.log_end()
                );
            }
            if start.elapsed() > limit {
                bail!(
                    "{} is not ready after {limit:?}; its log ends:\n{}",
                    self.name,
                    self.log_end()
                );
            }
            pause(start);
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) && self.signal(Signal::SIGTERM).is_ok() {
            let patience = Instant::now() + Duration::from_secs(2);
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < patience {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
