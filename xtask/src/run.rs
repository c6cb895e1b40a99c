//! `cargo xtask run`: office-bridge in the lab, or on this host.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;

use anyhow::{Result, bail, ensure};

use crate::process::{is_root, step};
use crate::workspace::Workspace;
use crate::{build, host, process};

/// Plays the office developer in the lab.
pub fn in_lab(workspace: &Workspace, release: bool, _check: bool) -> Result<()> {
    host::ready()?;
    build::run(workspace, release)?;
    bail!("wip")
}

/// Becomes `office-bridge run` with these arguments, on this host.
pub fn on_host(workspace: &Workspace, release: bool, arguments: &[OsString]) -> Result<()> {
    ensure!(
        is_root(),
        "office-bridge attaches eBPF programs and binds port 53, which needs root: {} run -- ...",
        host::AS_ROOT
    );
    let binary = build::run(workspace, release)?;
    step("Running office-bridge on this host");
    let error = process::command(&binary).arg("run").args(arguments).exec();
    bail!("cannot start {}: {error}", binary.display())
}
