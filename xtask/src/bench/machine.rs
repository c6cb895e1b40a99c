//! The machine that the bench runs on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// What the report says about it.
#[derive(Clone, Debug)]
pub struct Facts {
    /// `uname -r`.
    pub kernel: String,
    /// Number and model name of the CPUs.
    pub cpu: String,
    /// Date and time of the run, in UTC.
    pub date: String,
    /// What `iptables --version` says.
    pub iptables: String,
}

impl Facts {
    /// Reads them.
    pub fn collect() -> Result<Self> {
        let cpus = fs::read_to_string("/proc/cpuinfo").context("read /proc/cpuinfo")?;
        let model = cpus
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or("unknown CPU", |(_, name)| name);
        let count = thread::available_parallelism().context("count CPUs")?;
        Ok(Self {
            kernel: printed("uname", &["-r"])?,
            cpu: format!("{count} x {model}"),
            date: printed("date", &["-u", "+%Y-%m-%d %H:%M UTC"])?,
            iptables: printed("iptables", &["--version"])?,
        })
    }
}

fn printed(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("run {program}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A CPU that a thread can be pinned to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cpu {
    /// The first one that this process may use.
    First,
    /// The last one that it may use; with a single CPU the same one.
    Last,
}

/// Pins the calling thread, and those that it starts, to one CPU: figures differ between one CPU and two.
pub fn pin_thread(cpu: Cpu) -> Result<()> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).context("ask which CPUs there are")?;
    let mut usable = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false));
    let chosen = match cpu {
        Cpu::First => usable.next(),
        Cpu::Last => usable.next_back(),
    };
    let mut one = CpuSet::new();
    one.set(chosen.context("no CPU to run on")?)?;
    sched_setaffinity(this, &one).context("stay on one CPU")
}

/// Raises the priority of this process, and of the threads and programs that it starts from now on.
pub fn raise_priority() -> Result<()> {
    let own = std::process::id().to_string();
    let arguments = ["-n", "-10", "-p", &own];
    let mut renice = Command::new("renice");
    renice.args(arguments);
    lab::netns::finish(renice, None)
        .map(drop)
        .with_context(|| format!("renice {}", arguments.join(" ")))
}

/// Waits until the CPUs are idle, at most half a second: the kernel removes a namespace in the background.
pub fn wait_until_idle() {
    const LIMIT: Duration = Duration::from_millis(500);
    const WINDOW: Duration = Duration::from_millis(40);
    let started = Instant::now();
    while started.elapsed() < LIMIT {
        let before = cpu_time();
        thread::sleep(WINDOW);
        let after = cpu_time();
        if let (Some(before), Some(after)) = (before, after) {
            let busy = after.0 - before.0;
            let all = (after.1 - before.1).max(1);
            if busy * 10 < all {
                return;
            }
        }
    }
}

/// Busy ticks and total ticks of all CPUs, from `/proc/stat`.
fn cpu_time() -> Option<(u64, u64)> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let ticks: Vec<u64> = text
        .lines()
        .next()?
        .split_whitespace()
        .skip(1)
        .filter_map(|word| word.parse().ok())
        .collect();
    let all: u64 = ticks.iter().take(8).sum();
    let idle = ticks.get(3)? + ticks.get(4)?;
    Some((all - idle, all))
}

/// Raises the limit of `nf_conntrack`, which all namespaces share, to a million connections. Dropping it restores the old
/// limit.
#[derive(Debug)]
pub struct ConntrackLimit {
    before: Vec<(PathBuf, String)>,
}

impl ConntrackLimit {
    /// The limit, in connections.
    pub const MAX: u32 = 1 << 21;

    /// Sets buckets first, then the limit: the kernel derives the limit from the number of buckets.
    pub fn make() -> Result<Self> {
        let wanted = [
            ("nf_conntrack_buckets", Self::MAX / 2),
            ("nf_conntrack_max", Self::MAX),
        ];
        let mut room = Self { before: Vec::new() };
        for (name, value) in wanted {
            let path = Path::new("/proc/sys/net/netfilter").join(name);
            let before =
                fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            fs::write(&path, value.to_string())
                .with_context(|| format!("write {value} to {}", path.display()))?;
            room.before.push((path, before));
        }
        Ok(room)
    }
}

impl Drop for ConntrackLimit {
    fn drop(&mut self) {
        for (path, value) in &self.before {
            if let Err(error) = fs::write(path, value.trim()) {
                eprintln!(
                    "{} was not set back to {}: {error}",
                    path.display(),
                    value.trim()
                );
            }
        }
    }
}

/// Octets of one connection in `nf_conntrack`: its object in the slab, and one bucket head, as the kernel makes as many
/// buckets as connections.
pub fn conntrack_entry_size() -> Result<u32> {
    let slabs = fs::read_to_string("/proc/slabinfo").context("read /proc/slabinfo")?;
    let object: u32 = slabs
        .lines()
        .find_map(|line| line.strip_prefix("nf_conntrack "))
        .and_then(|rest| rest.split_whitespace().nth(2)?.parse().ok())
        .context("/proc/slabinfo has no nf_conntrack")?;
    Ok(object + u32::try_from(size_of::<usize>())?)
}
