//! `cargo xtask lint`: checks formatting, imports, clippy, the generated documents and the dependencies.

mod imports;

use anyhow::{Context as _, Result, ensure};

use crate::process::{cargo, command, run as run_command, say, step};
use crate::tools::DENY;
use crate::workspace::Workspace;
use crate::{docs, ebpf};

/// The extent of a check that has found nothing wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Checked {
    /// Everything was checked.
    Everything,
    /// This was not checked, and why.
    AllBut(&'static str),
}

/// Runs every check, also after a failure. `install_deny` builds cargo-deny if it is missing.
pub fn run(workspace: &Workspace, install_deny: bool) -> Result<()> {
    let all = |result: Result<()>| result.map(|()| Checked::Everything);
    let results = [
        all(formatting(workspace)),
        all(imports::check(workspace)),
        // Before bridge-userspace, which embeds the program and would be compiled again.
        all(ebpf::build(workspace)),
        all(ebpf::clippy(workspace)),
        all(host_crates(workspace)),
        all(documents(workspace)),
        dependencies(workspace, install_deny),
    ];
    let mut failures = Vec::new();
    for result in results {
        match result {
            Ok(Checked::Everything) => {}
            Ok(Checked::AllBut(what)) => say(&format!("NOT checked: {what}")),
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
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

fn documents(workspace: &Workspace) -> Result<()> {
    let options = docs::Options {
        check: true,
        ..docs::Options::default()
    };
    docs::run(workspace, options)
}

fn dependencies(workspace: &Workspace, install: bool) -> Result<Checked> {
    let Some(deny) = DENY.find(workspace, install)? else {
        return Ok(Checked::AllBut(
            "licences, bans, sources and advisories of the dependencies: no cargo-deny (`--deny` installs it)",
        ));
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
    let fetched = deny()
        .args(["--log-level", "error", "fetch", "db"])
        .status();
    if !fetched.is_ok_and(|status| status.success()) {
        return Ok(Checked::AllBut(
            "advisories of the dependencies: their database can't be fetched from here",
        ));
    }
    run_command(deny().args(["check", "--disable-fetch", "advisories"]))?;
    Ok(Checked::Everything)
}
