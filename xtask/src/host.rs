//! What this machine must have before a lab can be opened on it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::apt;
use crate::packages::{TOOLS, Tool, missing};
use crate::process::{command, find, is_root, run, say, step};

const BPFFS: &str = "/sys/fs/bpf";
/// The kernel's own types (`CONFIG_DEBUG_INFO_BTF`), which the eBPF program is loaded against.
const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Why no lab can be opened by this user on this kernel, if so.
pub fn obstacle() -> Option<String> {
    if !is_root() {
        return Some("network namespaces and eBPF need root".into());
    }
    if !Path::new(KERNEL_BTF).exists() {
        return Some(format!("the kernel has no BTF ({KERNEL_BTF})"));
    }
    None
}

/// How to become root without losing this user's Rust.
pub const AS_ROOT: &str = r#"sudo env "PATH=$PATH" "HOME=$HOME" cargo xtask"#;

/// Puts everything in place, or says what is missing.
pub fn ready() -> Result<()> {
    if let Some(obstacle) = obstacle() {
        bail!("{obstacle}; as root: {AS_ROOT} ...");
    }
    install("the lab", &missing(TOOLS, find))?;
    mount_bpffs()
}

/// Lets a child find the system's programs, which are not on every user's PATH.
pub fn with_system_path(command: &mut Command) -> &mut Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(Into::into);
    let joined = std::env::join_paths(std::env::split_paths(&path).chain(system));
    command.env("PATH", joined.unwrap_or(path))
}

/// Installs the programs that are missing for `purpose`.
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
