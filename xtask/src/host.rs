//! Prepares this machine for a lab.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::apt;
use crate::packages::{TOOLS, Tool, missing};
use crate::process::{command, find, is_root, run, say, step};

const BPFFS: &str = "/sys/fs/bpf";
/// The types of the kernel (`CONFIG_DEBUG_INFO_BTF`), which loading the eBPF program needs.
const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// What keeps this user from opening a lab on this kernel.
pub fn missing_requirement() -> Option<String> {
    if !is_root() {
        return Some("network namespaces and eBPF need root".into());
    }
    if !Path::new(KERNEL_BTF).exists() {
        return Some(format!("the kernel has no BTF ({KERNEL_BTF})"));
    }
    None
}

/// How to run xtask as root with this user's Rust.
pub const AS_ROOT: &str = r#"sudo env "PATH=$PATH" "HOME=$HOME" cargo xtask"#;

/// Installs missing programs and mounts bpffs; an error says what a person has to do.
pub fn ready() -> Result<()> {
    if let Some(missing_requirement) = missing_requirement() {
        bail!("{missing_requirement}; as root: {AS_ROOT} ...");
    }
    install("the lab", &missing(TOOLS, find))?;
    mount_bpffs()
}

/// Adds Debian's `sbin` directories to the PATH of a command.
pub fn with_system_path(command: &mut Command) -> &mut Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(Into::into);
    let joined = std::env::join_paths(std::env::split_paths(&path).chain(system));
    command.env("PATH", joined.unwrap_or(path))
}

/// Installs missing programs. `purpose` is named in messages.
pub fn install(purpose: &str, missing: &[Tool]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    step(&format!("Installing the programs that {purpose} needs"));
    for tool in missing {
        say(&format!(
            "{}: {} (package {})",
            tool.program, tool.why, tool.package
        ));
    }
    let packages: BTreeSet<_> = missing.iter().map(|tool| tool.package).collect();
    let packages: Vec<_> = packages.into_iter().collect();
    ensure!(
        apt::is_usable(),
        "programs are missing, see above, and this is no Debian-like machine; on one it would be\n    {}",
        apt::command_line(&packages),
    );
    let units: Vec<_> = missing.iter().filter_map(|tool| tool.unit).collect();
    apt::update()?;
    apt::install(&packages, &units)
}

fn mount_bpffs() -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    if is_mounted(&mounts, BPFFS) {
        return Ok(());
    }
    step(&format!(
        "Mounting bpffs on {BPFFS}: pinned tables live there, and nothing has mounted it"
    ));
    run(command("mount").args(["-t", "bpf", "bpf", BPFFS]))
}

fn is_mounted(mounts: &str, directory: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next() == Some(directory) && fields.next() == Some("bpf")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bpffs_is_recognised_among_the_mounts() {
        let mounts = "sysfs /sys sysfs rw 0 0\nbpf /sys/fs/bpf bpf rw,mode=700 0 0\n";
        assert!(is_mounted(mounts, "/sys/fs/bpf"));
        assert!(!is_mounted(mounts, "/sys"));
        assert!(!is_mounted(
            "none /sys/fs/bpf tmpfs rw 0 0\n",
            "/sys/fs/bpf"
        ));
    }
}
