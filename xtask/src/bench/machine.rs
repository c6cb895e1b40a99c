//! The machine that is measured on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// What a report tells of it.
#[derive(Clone, Debug)]
pub struct Facts {
    /// `uname -r`.
    pub kernel: String,
    /// The CPU's name and how many of them.
    pub cpu: String,
    /// Today, in UTC.
    pub date: String,
    /// What `iptables --version` says.
    pub iptables: String,
}

impl Facts {
    /// Of this machine, now.
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

/// One of the CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cpu {
    /// The first one that may be used.
    First,
    /// The last one, which is the first where there is no other.
    Last,
}

/// Keeps the calling thread, and those that it starts, on one CPU, so that a path's work is not now on one and now on two.
pub fn stay_on(cpu: Cpu) -> Result<()> {
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

/// Goes before other programs on this machine, with threads and programs that are started from now on.
pub fn go_first() -> Result<()> {
    let own = std::process::id().to_string();
    let arguments = ["-n", "-10", "-p", &own];
    let mut renice = Command::new("renice");
    renice.args(arguments);
    lab::netns::finish(renice, None)
        .map(drop)
        .with_context(|| format!("renice {}", arguments.join(" ")))
}

/// Waits, but not for long, until nothing uses the CPUs: the kernel removes a namespace after it is gone.
pub fn settle() {
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

/// Ticks that all CPUs were busy, and all ticks.
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

/// Room for a million connections in `nf_conntrack`, which has one size for all namespaces. Dropping it puts back what
/// was there.
#[derive(Debug)]
pub struct ConntrackRoom {
    before: Vec<(PathBuf, String)>,
}

impl ConntrackRoom {
    /// How many connections there is room for.
    pub const MAX: u32 = 1 << 21;

    /// Makes room. Buckets come before the maximum, which the kernel derives from them.
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

impl Drop for ConntrackRoom {
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

/// Octets of one connection in `nf_conntrack`: the object in its slab, and the bucket's head that
/// each has with as many buckets as connections, the kernel's own choice.
pub fn conntrack_entry_size() -> Result<u32> {
    let slabs = fs::read_to_string("/proc/slabinfo").context("read /proc/slabinfo")?;
    let object: u32 = slabs
        .lines()
        .find_map(|line| line.strip_prefix("nf_conntrack "))
        .and_then(|rest| rest.split_whitespace().nth(2)?.parse().ok())
        .context("/proc/slabinfo has no nf_conntrack")?;
    Ok(object + u32::try_from(size_of::<usize>())?)
}
