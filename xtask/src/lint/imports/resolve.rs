//! Finds the modules that define what a path names.

use std::collections::BTreeSet;

use super::mentions::Mention;
use super::modules::{Crate, ModuleId};

/// What a path leads to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// The modules that define what the path names: several if a function and a type have the same name, none if the
    /// path leaves the crate.
    pub definers: BTreeSet<ModuleId>,
    /// The modules that the path names.
    pub named: BTreeSet<ModuleId>,
    /// The module that it names, if it names no more than that.
    pub module: Option<ModuleId>,
}

/// Looks up paths in a crate.
#[derive(Clone, Copy)]
pub struct Resolver<'a> {
    krate: &'a Crate,
}

/// Names that are looked up already, so that imports in a circle end.
type Visited = BTreeSet<(ModuleId, String)>;

impl<'a> Resolver<'a> {
    /// Looks up paths in this crate.
    pub fn new(krate: &'a Crate) -> Self {
        Self { krate }
    }

    /// What a path in the module `here` leads to.
    pub fn resolve(self, here: ModuleId, mention: &Mention) -> Resolved {
        let mut resolved = Resolved::default();
        self.follow(here, &mention.path, &mut Visited::new(), &mut resolved);
        resolved
    }

    fn follow(
        self,
        here: ModuleId,
        path: &[String],
        visited: &mut Visited,
        resolved: &mut Resolved,
    ) {
        let mut rest = path;
        let mut start = None;
        while let Some((first, after)) = rest.split_first() {
            start = match (first.as_str(), start) {
                ("crate", None) => Some(0),
                ("self", None) => Some(here),
                ("super", None) => self.krate.module(here).parent,
                ("super", Some(module)) => self.krate.module(module).parent,
                _ => break,
            };
            if start.is_none() {
                return;
            }
            rest = after;
        }
        let Some(first) = rest.first() else {
            resolved.module = start;
            resolved.definers.clear();
            return;
        };
        match start {
            Some(module) => self.enter(module, rest, visited, resolved),
            // The name of another crate, of something of the language or the prelude, or of a variable.
            None if !self.has(here, first, &mut visited.clone()) => {}
            None => self.enter(here, rest, visited, resolved),
        }
    }

    /// Follows a path from within a module.
    fn enter(
        self,
        module: ModuleId,
        path: &[String],
        visited: &mut Visited,
        resolved: &mut Resolved,
    ) {
        let Some((name, rest)) = path.split_first() else {
            resolved.module = Some(module);
            return;
        };
        let here = self.krate.module(module);
        let child = here.children.get(name);
        if let Some(&child) = child {
            resolved.named.insert(child);
            if !rest.is_empty() {
                self.enter(child, rest, visited, resolved);
                return;
            }
            resolved.module = Some(child);
        }
        if here.items.contains_key(name) {
            resolved.definers.insert(module);
            return;
        }
        if !visited.insert((module, name.clone())) {
            return;
        }
        let mut is_imported = false;
        let named = here.imports.iter();
        for import in named.filter(|import| import.name.as_ref() == Some(name)) {
            is_imported = true;
            let path = [import.mention.path.as_slice(), rest].concat();
            self.follow(module, &path, visited, resolved);
        }
        if is_imported {
            return;
        }
        for import in here.imports.iter().filter(|import| import.name.is_none()) {
            let mut whole = Resolved::default();
            self.follow(module, &import.mention.path, visited, &mut whole);
            if let Some(from) = whole.module
                && self.has(from, name, &mut visited.clone())
            {
                self.enter(from, path, visited, resolved);
                return;
            }
        }
        if let Some(module) = self.krate.exported_macro(name).filter(|_| module == 0) {
            resolved.definers.insert(module);
        } else if child.is_none() {
            // Some macro has made it.
            resolved.definers.insert(module);
        }
    }

    /// Whether a module defines or imports a name.
    fn has(self, module: ModuleId, name: &str, visited: &mut Visited) -> bool {
        let here = self.krate.module(module);
        if here.children.contains_key(name)
            || here.items.contains_key(name)
            || here
                .imports
                .iter()
                .any(|import| import.name.as_deref() == Some(name))
        {
            return true;
        }
        if !visited.insert((module, format!("{name}?"))) {
            return false;
        }
        here.imports
            .iter()
            .filter(|import| import.name.is_none())
            .any(|import| {
                let mut whole = Resolved::default();
                self.follow(module, &import.mention.path, visited, &mut whole);
                whole
                    .module
                    .is_some_and(|from| self.has(from, name, visited))
            })
    }
}
