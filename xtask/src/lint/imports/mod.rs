//! Which file of a crate uses which other one, and the two rules about it: no circle of files, and the order of the
//! rooms of bridge-userspace.
//!
//! A file depends on the file that defines what it uses, whichever module has re-exported that. Code for tests does not
//! count. `modules` reads a crate, `mentions` collects the paths in its text, `resolve` looks up what they name.

mod circles;
mod mentions;
mod modules;
mod resolve;
mod rooms;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::process::{cargo, probe, step};
use crate::workspace::Workspace;

use mentions::{Mention, mentions};
use modules::{Crate, ModuleId};
use resolve::{Resolved, Resolver};

/// One file uses another one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Dependency {
    /// The file that uses something.
    user: PathBuf,
    /// The line that does.
    line: usize,
    /// What it is called there.
    path: String,
    /// The file that has it.
    provider: PathBuf,
    /// Where it is defined there; none if it is the module itself, or made by a macro.
    provider_line: Option<usize>,
    /// Whether the provider defines it. Otherwise it is a module on the way.
    is_definer: bool,
}

impl fmt::Display for Dependency {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (user, provider) = (self.user.display(), self.provider.display());
        write!(
            formatter,
            "{user}:{} uses `{}` of {provider}",
            self.line, self.path
        )?;
        match self.provider_line {
            Some(line) => write!(formatter, ":{line}"),
            None => Ok(()),
        }
    }
}

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
        dependencies.extend(dependencies_of(root)?);
    }
    dependencies.sort();
    let mut breaches = circles::find(&dependencies);
    let userspace = workspace.join("bridge-userspace/src");
    if userspace.join("agent").is_dir() || cfg!(test) {
        breaches.extend(rooms::find(&userspace, &dependencies)?);
    }
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

/// What the files of a crate use of each other.
fn dependencies_of(root: &Path) -> Result<Vec<Dependency>> {
    let krate = Crate::read(root)?;
    let lookup = Resolver::new(&krate);
    let mut found = Vec::new();
    for (here, module) in krate.modules() {
        for import in &module.imports {
            let mut resolved = lookup.resolve(here, &import.mention);
            let is_inner = |id: &ModuleId| *id != here && krate.is_within(*id, here);
            // What a module re-exports from the modules in it, others use, not the module.
            let is_facade = import.is_public
                && resolved
                    .named
                    .iter()
                    .chain(&resolved.definers)
                    .any(is_inner);
            if is_facade {
                continue;
            }
            if import.name.is_none() {
                resolved.definers.extend(resolved.module);
            }
            add(&mut found, &krate, here, &import.mention, &resolved);
        }
        for mention in mentions(&module.syntax) {
            let resolved = lookup.resolve(here, &mention);
            add(&mut found, &krate, here, &mention, &resolved);
        }
    }
    Ok(found)
}

fn add(
    found: &mut Vec<Dependency>,
    krate: &Crate,
    here: ModuleId,
    mention: &Mention,
    resolved: &Resolved,
) {
    let user = &krate.module(here).file;
    for &provider in resolved.definers.union(&resolved.named) {
        let is_definer = resolved.definers.contains(&provider);
        let provider = krate.module(provider);
        if provider.file == *user {
            continue;
        }
        let names = mention.path.iter().rev();
        let line = names
            .filter(|_| is_definer)
            .find_map(|name| provider.items.get(name));
        found.push(Dependency {
            user: user.clone(),
            line: mention.line,
            path: mention.path.join("::"),
            provider: provider.file.clone(),
            provider_line: line.copied(),
            is_definer,
        });
    }
}
