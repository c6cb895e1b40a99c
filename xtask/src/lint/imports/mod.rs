//! Checks the imports: no file circles in the workspace, and the order of the rooms of bridge-userspace.
//!
//! A file depends on the file that defines what it uses, whichever module has re-exported that. Code for tests does not
//! count. `modules` reads a crate, `mentions` collects the paths in its text, `resolve` looks up what they name, and
//! `dependencies` has the result, which `circles` and `rooms` check.

mod circles;
mod dependencies;
mod mentions;
mod modules;
mod resolve;
mod rooms;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::process::{cargo, probe, step};
use crate::workspace::Workspace;

/// Checks the crates of the workspace.
pub fn check(workspace: &Workspace) -> Result<()> {
    step("Checking the imports: no circle of files, and rooms use those below them");
    let breaches = find(workspace.root(), &crate_roots(workspace)?)?;
    ensure!(breaches.is_empty(), "{}", breaches.join("\n       "));
    Ok(())
}

/// Describes all breaches in the crates with these root files.
fn find(workspace: &Path, crates: &[PathBuf]) -> Result<Vec<String>> {
    let mut dependencies = Vec::new();
    for root in crates {
        dependencies.extend(dependencies::of_crate(root)?);
    }
    dependencies.sort();
    let userspace = workspace.join("bridge-userspace/src");
    let mut breaches = rooms::find(&userspace, &dependencies)?;
    breaches.extend(circles::find(&dependencies));
    let prefix = format!("{}/", workspace.display());
    Ok(breaches
        .into_iter()
        .map(|breach| breach.replace(&prefix, ""))
        .collect())
}

/// The root files of the libraries and programs of the workspace.
fn crate_roots(workspace: &Workspace) -> Result<Vec<PathBuf>> {
    let arguments = ["metadata", "--no-deps", "--format-version=1", "--offline"];
    let metadata = probe(cargo(workspace.root()).args(arguments))
        .context("`cargo metadata` does not describe the workspace")?;
    let roots = parse_roots(&metadata)?;
    ensure!(!roots.is_empty(), "`cargo metadata` names no crate");
    Ok(roots)
}

fn parse_roots(metadata: &str) -> Result<Vec<PathBuf>> {
    let metadata: Value = serde_json::from_str(metadata).context("read `cargo metadata`")?;
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    Ok(list(&metadata["packages"])
        .iter()
        .flat_map(|package| list(&package["targets"]))
        .filter(|target| {
            list(&target["kind"])
                .iter()
                .any(|kind| kind == "lib" || kind == "bin")
        })
        .filter_map(|target| target["src_path"].as_str().map(PathBuf::from))
        .collect())
}
