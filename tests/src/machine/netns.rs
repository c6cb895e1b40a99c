//! Network namespaces: made with `ip netns`, entered with `setns`.
//!
//! `ip netns exec` is never used: it mounts a fresh `/sys`, behind which `/sys/fs/bpf` is not visible.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};

/// A named network namespace. It does not delete itself: [`RunDir`](super::run_dir::RunDir) deletes all
/// namespaces of a lab together, also those of a run that died.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// The namespace of this name, which need not exist yet.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }

    /// Its name, as `ip netns list` shows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that `nsenter --net=` takes.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// A command that runs in this namespace and sees the host's mounts. Its process is the program
    /// itself (`nsenter` replaces itself), so that signals reach it.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.path().display()))
            .arg("--")
            .arg(program)
            .stdin(Stdio::null());
        command
    }

    /// The same as [`Namespace::command`], killed by the kernel when the thread that starts it ends.
    #[must_use]
    pub fn bound_command(&self, program: &Path) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--", "nsenter"])
            .arg(format!("--net={}", self.path().display()))
            .arg("--")
            .arg(program)
            .stdin(Stdio::null());
        command
    }

    /// Runs `work` on a thread of its own that has entered the namespace. A socket made there stays in
    /// the namespace, whichever thread uses it afterwards.
    pub fn run_in<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let file =
            File::open(self.path()).with_context(|| format!("open the namespace {}", self.name))?;
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(file, CloneFlags::CLONE_NEWNET)
                        .with_context(|| format!("enter the namespace {}", self.name))?;
                    work()
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Writes sysctls, named as in `sysctl.conf` but with slashes: `("net/ipv4/ip_forward", "1")`.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run_in(|| {
            for (key, value) in settings {
                fs::write(format!("/proc/sys/{key}"), value)
                    .with_context(|| format!("set {key} = {value} in {}", self.name))?;
            }
            Ok(())
        })
    }

    /// Runs one program in the namespace to its end and returns what it printed.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let mut command = self.command(program);
        command.args(arguments);
        finish(command, None)
            .with_context(|| format!("{program} {} in {}", arguments.join(" "), self.name))
    }

    /// Runs one program in the namespace with `input` on its standard input.
    pub fn feed(&self, program: &str, arguments: &[&str], input: &str) -> Result<String> {
        let mut command = self.command(program);
        command.args(arguments);
        finish(command, Some(input))
            .with_context(|| format!("{program} {} in {}", arguments.join(" "), self.name))
    }
}

/// `ip` commands for one namespace, run by one `ip -batch`.
#[derive(Debug, Default)]
pub struct Batch {
    lines: String,
}

impl Batch {
    /// Adds one command, written without the leading `ip`.
    pub fn add(&mut self, command: impl std::fmt::Display) -> &mut Self {
        writeln!(self.lines, "{command}").expect("a String takes every write");
        self
    }

    /// Runs the commands in `namespace`.
    pub fn run(&self, namespace: &Namespace) -> Result<()> {
        self.run_with("ip", &["-n", namespace.name()])
    }

    /// Runs the commands as `bridge` commands (the forwarding database) in `namespace`.
    pub fn run_bridge(&self, namespace: &Namespace) -> Result<()> {
        self.run_with("bridge", &["-n", namespace.name()])
    }

    /// Runs the commands in the namespace of the caller.
    pub fn run_here(&self) -> Result<()> {
        self.run_with("ip", &[])
    }

    fn run_with(&self, program: &str, arguments: &[&str]) -> Result<()> {
        if self.lines.is_empty() {
            return Ok(());
        }
        let mut command = Command::new(program);
        command.args(arguments).args(["-batch", "-"]);
        finish(command, Some(&self.lines))
            .map(drop)
            .with_context(|| format!("{program} -batch, with these lines:\n{}", self.lines))
    }
}

/// Runs `command` to its end; an exit status other than 0 is an error that quotes what it printed.
pub fn finish(mut command: Command, input: Option<&str>) -> Result<String> {
    let stdin = if input.is_some() {
        Stdio::piped()
    } else {
        Stdio::null()
    };
    let mut child = command
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {}", command.get_program().display()))?;
    if let (Some(input), Some(mut pipe)) = (input, child.stdin.take()) {
        pipe.write_all(input.as_bytes())
            .context("write its input")?;
    }
    let output = child.wait_with_output().context("wait for it")?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!(
            "{}: {}{stdout}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(stdout)
}

/// Makes all `namespaces` with their loopback up.
pub fn create(namespaces: &[&Namespace]) -> Result<()> {
    let mut batch = Batch::default();
    for namespace in namespaces {
        ensure!(
            !namespace.path().exists(),
            "the namespace {} exists already",
            namespace.name()
        );
        batch.add(format!("netns add {}", namespace.name()));
    }
    batch.run_here()
}
