//! Installs Debian packages without removing others or starting services.

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

/// The version of a package that `apt-get install` would install.
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

/// Installs packages without their recommendations, and without starting their services. `units` are their systemd
/// units.
pub fn install(packages: &[&str], units: &[&str]) -> Result<()> {
    say(&command_line(packages));
    let plan = probe(apt_get().arg("--simulate").args(INSTALL).args(packages));
    for Upgrade { package, old, new } in upgrades(&plan.unwrap_or_default()) {
        say(&format!(
            "apt also upgrades {package} from {old} to {new}: one of them depends on that version"
        ));
    }
    let masked = MaskedUnits::new(units)?;
    let result = run(apt_get().args(["-q", "--yes"]).args(INSTALL).args(packages))
        .with_context(|| format!("install by hand: {}", command_line(packages)));
    drop(masked);
    result
}

const INSTALL: [&str; 5] = [
    "install",
    "--no-install-recommends",
    "--no-remove",
    // Or apt upgrades every installed package that is built from the same source as a new one (since apt 2.5):
    // `login` and `passwd` for buildah's `uidmap`.
    "--option",
    "APT::Get::Upgrade-By-Source-Package=false",
];

/// An installed package that apt replaces.
#[derive(Debug, PartialEq, Eq)]
struct Upgrade<'a> {
    package: &'a str,
    old: &'a str,
    new: &'a str,
}

/// What `apt-get --simulate install` would upgrade. Its lines are `Inst name [old] (new suite [arch])`, without `[old]`
/// for a new package, whose first `[` is that of its architecture.
fn upgrades(plan: &str) -> Vec<Upgrade<'_>> {
    plan.lines()
        .filter_map(|line| {
            let (package, versions) = line.strip_prefix("Inst ")?.split_once(" [")?;
            let (old, new) = versions.split_once("] (")?;
            let new = new.split(' ').next()?;
            Some(Upgrade { package, old, new })
        })
        .collect()
}

/// The command for a person.
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

/// systemd ignores the runlevel, but does not start a masked unit. Units that were installed before keep their state.
struct MaskedUnits {
    units: Vec<String>,
}

impl MaskedUnits {
    fn new(units: &[&str]) -> Result<Self> {
        let mut masked = Self { units: Vec::new() };
        if !fs::exists("/run/systemd/system").unwrap_or(false) {
            return Ok(masked);
        }
        for unit in units {
            if probe(command("systemctl").args(["cat", unit])).is_none() {
                run(command("systemctl").args(["mask", "--runtime", "--quiet", unit]))?;
                masked.units.push((*unit).to_owned());
            }
        }
        Ok(masked)
    }
}

impl Drop for MaskedUnits {
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
    fn only_what_is_installed_already_is_an_upgrade() {
        let plan = "\
Reading package lists...
Inst libudev1 [252.38-1~deb12u1] (252.39-1~deb12u2 Debian:12.15/oldstable [amd64])
Inst libc6:i386 [2.36-9] (2.36-10 Debian:12.15/oldstable, Debian:12/security [i386]) []
Inst libudev-dev (252.39-1~deb12u2 Debian:12.15/oldstable [amd64])
Inst uidmap (1:4.13-1 Debian:12.15/oldstable [amd64]) [libsubid4:amd64 ]
Conf libudev1 (252.39-1~deb12u2 Debian:12.15/oldstable [amd64])
";
        let upgrade = |package, old, new| Upgrade { package, old, new };
        assert_eq!(
            upgrades(plan),
            [
                upgrade("libudev1", "252.38-1~deb12u1", "252.39-1~deb12u2"),
                upgrade("libc6:i386", "2.36-9", "2.36-10"),
            ]
        );
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
