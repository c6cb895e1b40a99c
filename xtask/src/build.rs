//! `cargo xtask build`: builds the eBPF object, then the binary that embeds it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::ebpf;
use crate::process::{cargo, say, step};
use crate::workspace::Workspace;

/// Builds both; returns the path of the `office-bridge` binary.
pub fn run(workspace: &Workspace, release: bool) -> Result<PathBuf> {
    ebpf::build(workspace)?;
    step("Building office-bridge, with the eBPF program in it");
    let mut command = userspace(workspace, "build");
    if release {
        name_commit(command.arg("--release"), workspace);
    }
    let binary = built(&mut command)?;
    say(&format!("office-bridge: {}", shown(workspace, &binary)));
    Ok(binary)
}

/// Builds both, links the binary statically, and copies it to `place`: the next build overwrites it in the target
/// directory.
pub fn run_static(workspace: &Workspace, release: bool, place: &Path) -> Result<()> {
    ebpf::build(workspace)?;
    step("Building office-bridge, linked statically");
    let mut command = userspace(workspace, "rustc");
    if release {
        name_commit(command.arg("--release"), workspace);
    }
    // For the last step only, so that the dependencies are not compiled again.
    let binary = built(command.args(["--", "-Ctarget-feature=+crt-static"]))?;
    fs::copy(&binary, place)
        .with_context(|| format!("copy office-bridge to {}", place.display()))?;
    Ok(())
}

/// Adds the commit to `office-bridge --version`. Only in release builds: the crate is compiled again for each commit.
fn name_commit(command: &mut Command, workspace: &Workspace) {
    if let Some(commit) = workspace.commit() {
        command.env("OFFICE_BRIDGE_COMMIT", commit);
    }
}

fn userspace(workspace: &Workspace, verb: &str) -> Command {
    let mut command = cargo(workspace.root());
    command
        .args([verb, "--package=bridge-userspace", "--bin=office-bridge"])
        .arg("--message-format=json-render-diagnostics");
    command
}

/// Runs cargo; returns the path of the binary.
fn built(cargo: &mut Command) -> Result<PathBuf> {
    let mut child = cargo
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo")?;
    let messages = child.stdout.take().context("no output of cargo")?;
    let mut binary = None;
    for line in BufReader::new(messages).lines() {
        let line = line.context("read the messages of cargo")?;
        binary = executable(&line).or(binary);
    }
    if !child.wait().context("wait for cargo")?.success() {
        bail!("office-bridge does not build; the compiler's messages are above");
    }
    binary.context("cargo has built no office-bridge")
}

/// The path of the binary, if a message of `cargo build --message-format=json` has it. The user may have
/// configured another target directory.
fn executable(message: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    let is_binary = message["target"]["name"] == "office-bridge";
    is_binary
        .then(|| message["executable"].as_str().map(PathBuf::from))
        .flatten()
}

/// A path for messages: relative to the workspace if it is in there.
fn shown(workspace: &Workspace, path: &Path) -> String {
    path.strip_prefix(workspace.root())
        .unwrap_or(path)
        .display()
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binary_is_found_among_cargos_messages() {
        let library = r#"{"reason":"compiler-artifact","target":{"name":"aya"},"executable":null}"#;
        let script = r#"{"reason":"build-script-executed","package_id":"x"}"#;
        let binary = r#"{"reason":"compiler-artifact","target":{"name":"office-bridge"},
                         "executable":"/elsewhere/debug/office-bridge"}"#;
        assert_eq!(executable(library), None);
        assert_eq!(executable(script), None);
        assert_eq!(executable("warning: not json"), None);
        assert_eq!(
            executable(binary),
            Some("/elsewhere/debug/office-bridge".into())
        );
    }
}
