//! `cargo xtask lint`: formatting, imports, clippy, and what the dependencies bring along.

mod imports;

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use crate::ebpf;
use crate::process::{cargo, command, find, run as run_command, say, step};
use crate::workspace::Workspace;

/// Checks everything, also after a failure; `install_deny` builds cargo-deny if it is missing.
pub fn run(workspace: &Workspace, install_deny: bool) -> Result<()> {
    let results = [
        formatting(workspace),
        imports::check(workspace),
        host_crates(workspace),
        ebpf::clippy(workspace),
        dependencies(workspace, install_deny),
    ];
    let failures: Vec<String> = results
        .into_iter()
        .filter_map(Result::err)
        .map(|error| format!("{error:#}"))
        .collect();
    ensure!(failures.is_empty(), "{}", failures.join("\n       "));
    Ok(())
}

fn formatting(workspace: &Workspace) -> Result<()> {
    step("Checking the formatting");
    run_command(cargo(workspace.root()).args(["fmt", "--all", "--check"]))
        .context("`cargo fmt --all` puts it right")
}

fn host_crates(workspace: &Workspace) -> Result<()> {
    step("Clippy on the host crates");
    run_command(
        cargo(workspace.root())
            .args([
                "clippy",
                "--workspace",
                "--exclude=bridge-ebpf",
                "--all-targets",
            ])
            .args(["--keep-going", "--", "-D", "warnings"]),
    )
}

fn dependencies(workspace: &Workspace, install: bool) -> Result<()> {
    let own = workspace.tools().join("bin/cargo-deny");
    let found = Some(own.clone())
        .filter(|path| path.is_file())
        .or_else(|| find("cargo-deny"));
    let deny: PathBuf = match found {
        Some(path) => path,
        None if install => {
            step("Building cargo-deny into target/tools (several minutes, once)");
            run_command(
                cargo(workspace.root())
                    .args(["install", "cargo-deny", "--locked", "--root"])
                    .arg(workspace.tools())
                    .current_dir("/"),
            )?;
            own
        }
        None => {
            say("licences and advisories are not checked: no cargo-deny (`--deny` installs it)");
            return Ok(());
        }
    };
    let deny = || {
        let mut deny = command(&deny);
        deny.current_dir(workspace.root());
        deny
    };
    step("Checking licences, bans and sources of the dependencies");
    run_command(deny().args([
        "check",
        "--hide-inclusion-graph",
        "bans",
        "licenses",
        "sources",
    ]))?;

    step("Checking the dependencies against the advisory database");
    if deny()
        .args(["--log-level", "error", "fetch", "db"])
        .status()
        .is_ok_and(|s| s.success())
    {
        run_command(deny().args(["check", "--disable-fetch", "advisories"]))
    } else {
        say("skipped: the advisory database can't be fetched from here");
        Ok(())
    }
}
