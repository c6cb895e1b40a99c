//! Installing Debian packages: only what is missing, nothing removed, no service started.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::process::{command, find, is_root, probe, run, say};

/// Whether packages can be installed here: a Debian-like machine, and root.
pub fn is_usable() -> bool {
    is_root() && is_debian_like()
}

/// Whether this machine has Debian's package tools.
pub fn is_debian_like() -> bool {
    Path::new("/etc/debian_version").exists() && find("apt-get").is_some()
}

/// The version of a package that `apt-get install` would take.
pub fn candidate(package: &str) -> Option<String> {
    let policy = probe(
        command("apt-cache")
            .env("LC_ALL", "C")
            .args(["policy", package]),
    )?;
    parse_candidate(&policy)
}

fn parse_candidate(policy: &str) -> Option<String> {
    policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))
        .filter(|version| *version != "(none)")
        .map(str::to_owned)
}

/// Downloads the package lists.
pub fn update() -> Result<()> {
    run(apt_get().args(["-q", "update"])).context(
        "the package lists can't be refreshed: look at /etc/apt/sources.list and the network",
    )
}

/// Installs packages, without what they merely recommend, and without starting the services of
/// `units` (systemd units that the packages bring).
pub fn install(packages: &[&str], units: &[&str]) -> Result<()> {
    say(&command_line(packages));
    let held = Held::new(units)?;
    let result = run(apt_get()
        .args([
            "-q",
            "install",
            "--yes",
            "--no-install-recommends",
            "--no-remove",
        ])
        .args(packages))
    .with_context(|| format!("install by hand: {}", command_line(packages)));
    drop(held);
    result
}

/// The command for a person to type.
pub fn command_line(packages: &[&str]) -> String {
    format!(
        "apt-get install --no-install-recommends {}",
        packages.join(" ")
    )
}

fn apt_get() -> Command {
    let mut command = command("apt-get");
    // In runlevel 1 invoke-rc.d starts nothing.
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("RUNLEVEL", "1")
        .env("LC_ALL", "C");
    command
}

/// Under systemd the runlevel counts for nothing, but a masked unit is not started. Units that were
/// there before keep their state.
struct Held {
    units: Vec<String>,
}

impl Held {
    fn new(units: &[&str]) -> Result<Self> {
        let mut held = Self { units: Vec::new() };
        if !fs::exists("/run/systemd/system").unwrap_or(false) {
            return Ok(held);
        }
        for unit in units {
            if probe(command("systemctl").args(["cat", unit])).is_none() {
                run(command("systemctl").args(["mask", "--runtime", "--quiet", unit]))?;
                held.units.push((*unit).to_owned());
            }
        }
        Ok(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for unit in &self.units {
            for verb in [&["unmask", "--runtime"][..], &["disable"]] {
                if let Err(error) = run(command("systemctl").args(verb).args(["--quiet", unit])) {
                    say(&format!("{unit} may start at the next boot: {error:#}"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_candidate_is_read_from_the_policy() {
        let policy = "llvm-22-dev:\n  Installed: (none)\n  Candidate: 1:22.1.8-1~deb12u1\n";
        assert_eq!(parse_candidate(policy), Some("1:22.1.8-1~deb12u1".into()));
    }

    #[test]
    fn a_package_that_no_source_offers_has_no_candidate() {
        assert_eq!(
            parse_candidate("dnsperf:\n  Installed: (none)\n  Candidate: (none)\n"),
            None
        );
        assert_eq!(parse_candidate(""), None);
    }
}
