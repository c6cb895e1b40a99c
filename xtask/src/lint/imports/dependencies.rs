//! Lists which file of a crate uses which other one.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::mentions::{Mention, mentions};
use super::modules::{Crate, ModuleId};
use super::resolve::{Resolved, Resolver};

/// One file uses another one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dependency {
    /// The file that uses something.
    pub user: PathBuf,
    /// The line that does.
    pub line: usize,
    /// What it is called there.
    pub path: String,
    /// The file that has it.
    pub provider: PathBuf,
    /// Where it is defined there; none if it is the module itself, or made by a macro.
    pub provider_line: Option<usize>,
    /// Whether the provider defines it. Otherwise it is a module on the way.
    pub is_definer: bool,
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

/// What the files of a crate use of each other.
pub fn of_crate(root: &Path) -> Result<Vec<Dependency>> {
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
