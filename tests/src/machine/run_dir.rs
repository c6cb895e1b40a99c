//! What a lab leaves outside its own memory (a directory, namespaces, pins), and its removal, also
//! after a run that was killed.
//!
//! The directory's `lock` file is locked for as long as its lab lives. The kernel drops the lock with
//! the process, so a lock that can be had tells that the owner is dead.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::containers;
use super::netns::{Batch, Namespace, finish};

const ROOT: &str = "/run/office-bridge-lab";
const BPFFS: &str = "/sys/fs/bpf";
/// Where the bridge keeps what a bpf filesystem can't hold.
const BRIDGE_FILES: &str = "/run/office-bridge";

/// The directory of one lab, and the prefix of everything that the lab names.
#[derive(Debug)]
pub struct RunDir {
    prefix: String,
    path: PathBuf,
    _lock: File,
}

impl RunDir {
    /// Makes a fresh directory, after removing what dead runs have left behind.
    pub fn create() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        fs::create_dir_all(ROOT).with_context(|| format!("create {ROOT} (a lab needs root)"))?;
        let _turn = lock_root()?;
        sweep()?;
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("ob{}-{count}", std::process::id());
        let path = Path::new(ROOT).join(&prefix);
        fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        let lock = File::create(path.join("lock")).context("create the lock file")?;
        lock.try_lock().context("lock the lab's own directory")?;
        Ok(Self {
            prefix,
            path,
            _lock: lock,
        })
    }

    /// `ob<pid>-<count>`: starts every name that this lab gives.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the bridge of this lab pins its tables.
    #[must_use]
    pub fn pin_path(&self) -> PathBuf {
        Path::new(BPFFS).join(&self.prefix)
    }

    /// The namespace that is called `name` in this lab.
    #[must_use]
    pub fn namespace(&self, name: &str) -> Namespace {
        Namespace::new(format!("{}-{name}", self.prefix))
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.prefix) {
            eprintln!("the lab {} was not removed whole: {error:#}", self.prefix);
        }
    }
}

/// Mounts bpffs at its usual place, unless it is there.
pub fn mount_bpffs() -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("read the mounts")?;
    if mounts
        .lines()
        .any(|line| line.split(' ').nth(1) == Some(BPFFS))
    {
        return Ok(());
    }
    let mut command = Command::new("mount");
    command.args(["-t", "bpf", "bpf", BPFFS]);
    finish(command, None)
        .map(drop)
        .with_context(|| format!("mount bpffs on {BPFFS}"))
}

/// Removes what dead runs have left behind.
pub fn sweep_dead_runs() -> Result<()> {
    fs::create_dir_all(ROOT).with_context(|| format!("create {ROOT} (a lab needs root)"))?;
    let _turn = lock_root()?;
    sweep()
}

/// One process at a time makes directories and sweeps, so that no sweep sees a directory whose lock
/// is not taken yet.
fn lock_root() -> Result<File> {
    let file = File::create(format!("{ROOT}.lock")).context("create the lock file of all labs")?;
    file.lock().context("wait for the lock of all labs")?;
    Ok(file)
}

fn sweep() -> Result<()> {
    for entry in fs::read_dir(ROOT).context("list the labs")? {
        let entry = entry.context("list the labs")?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let Ok(lock) = File::open(entry.path().join("lock")) else {
            remove(&name)?;
            continue;
        };
        match lock.try_lock() {
            Ok(()) => remove(&name)?,
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => bail!("try the lock of {name}: {error}"),
        }
    }
    Ok(())
}

fn remove(prefix: &str) -> Result<()> {
    let directory = Path::new(ROOT).join(prefix);
    containers::remove_leftovers(&directory);
    let mut batch = Batch::default();
    let mut any = false;
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if name
            .strip_prefix(prefix)
            .is_some_and(|rest| rest.starts_with('-'))
        {
            end_processes(&Namespace::new(name.as_str()));
            batch.add(format!("netns del {name}"));
            any = true;
        }
    }
    let namespaces = if any { batch.run_here() } else { Ok(()) };
    let pins = remove_tree(&Path::new(BPFFS).join(prefix));
    remove_bridge_files(prefix);
    let directory = remove_tree(&directory);
    namespaces.and(pins).and(directory)
}

/// Removes the lock that a bridge keeps for its pin path, and what `status` reads. They are named
/// after the path, as `systemd-escape` does it.
fn remove_bridge_files(prefix: &str) {
    let stem = format!("sys-fs-bpf-{}.", prefix.replace('-', "\\x2d"));
    for entry in fs::read_dir(BRIDGE_FILES).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&stem) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn remove_tree(path: &Path) -> Result<()> {
    if path.exists() {
        fs::remove_dir_all(path).with_context(|| format!("remove {}", path.display()))?;
    }
    Ok(())
}

/// Ends what still runs in a namespace of a lab: only processes that the lab started are there, and
/// threads of this very process never are when it comes to this.
fn end_processes(namespace: &Namespace) {
    let mut command = Command::new("ip");
    command.args(["netns", "pids", namespace.name()]);
    for pid in finish(command, None).unwrap_or_default().lines() {
        if let Ok(pid) = pid.trim().parse::<i32>()
            && pid.cast_unsigned() != std::process::id()
        {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}
