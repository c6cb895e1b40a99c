//! Reads the modules of a crate: what each of them defines, imports and contains.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use syn::ext::IdentExt as _;
use syn::spanned::Spanned as _;
use syn::{Expr, ExprLit, Item, ItemMacro, ItemMod, Lit, Meta};

use super::mentions::{self, Import, is_for_tests};

/// A module, as an index into [`Crate::modules`].
pub type ModuleId = usize;

/// The modules of a crate; the first one is its root.
#[derive(Default)]
pub struct Crate {
    modules: Vec<Module>,
    /// The modules that macros with `#[macro_export]` are written in; their paths begin at the root all the same.
    macros: BTreeMap<String, ModuleId>,
}

/// One module: a file, or a part of one in braces.
pub struct Module {
    /// The file that it is in.
    pub file: PathBuf,
    /// The module around it.
    pub parent: Option<ModuleId>,
    /// Modules in it, by name.
    pub children: BTreeMap<String, ModuleId>,
    /// What it defines itself, with the line.
    pub items: BTreeMap<String, usize>,
    /// Its `use` declarations, those in function bodies too.
    pub imports: Vec<Import>,
    /// What it is made of, without the modules in it.
    pub syntax: Vec<Item>,
}

impl Crate {
    /// Reads a crate, beginning at its `lib.rs` or `main.rs`. Modules for tests are left out.
    pub fn read(root: &Path) -> Result<Self> {
        let mut read = Self::default();
        let directory = root.parent().unwrap_or(Path::new("")).to_owned();
        read.add_file(root, None, &directory)?;
        Ok(read)
    }

    /// All modules with their numbers.
    pub fn modules(&self) -> impl Iterator<Item = (ModuleId, &Module)> {
        self.modules.iter().enumerate()
    }

    /// One module.
    pub fn module(&self, id: ModuleId) -> &Module {
        &self.modules[id]
    }

    /// The module that an exported macro is written in.
    pub fn exported_macro(&self, name: &str) -> Option<ModuleId> {
        self.macros.get(name).copied()
    }

    /// Whether `inner` is `outer` or a module somewhere in it.
    pub fn is_within(&self, inner: ModuleId, outer: ModuleId) -> bool {
        let mut next = Some(inner);
        while let Some(id) = next {
            if id == outer {
                return true;
            }
            next = self.modules[id].parent;
        }
        false
    }

    /// Adds the module in `file`; the files of its children are in `directory`.
    fn add_file(
        &mut self,
        file: &Path,
        parent: Option<ModuleId>,
        directory: &Path,
    ) -> Result<ModuleId> {
        let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        let parsed = syn::parse_file(&text).map_err(|error| {
            let line = error.span().start().line;
            anyhow!("{}:{line}: {error}", file.display())
        })?;
        self.add(file, parent, directory, parsed.items)
    }

    fn add(
        &mut self,
        file: &Path,
        parent: Option<ModuleId>,
        directory: &Path,
        syntax: Vec<Item>,
    ) -> Result<ModuleId> {
        let id = self.modules.len();
        let (modules, syntax): (Vec<_>, Vec<_>) = syntax
            .into_iter()
            .filter(|item| !is_for_tests(mentions::attributes(item)))
            .partition(|item| matches!(item, Item::Mod(_)));
        self.modules.push(Module {
            file: file.to_owned(),
            parent,
            children: BTreeMap::new(),
            items: syntax.iter().filter_map(definition).collect(),
            imports: mentions::imports(&syntax),
            syntax,
        });
        let macros = self.modules[id].syntax.iter().filter_map(exported_macro);
        self.macros.extend(macros.map(|name| (name, id)));
        for module in modules {
            let Item::Mod(module) = module else { continue };
            let name = module.ident.unraw().to_string();
            let child = self.add_child(id, directory, module, &name)?;
            self.modules[id].children.insert(name, child);
        }
        Ok(id)
    }

    fn add_child(
        &mut self,
        parent: ModuleId,
        directory: &Path,
        module: ItemMod,
        name: &str,
    ) -> Result<ModuleId> {
        let parents_file = self.modules[parent].file.clone();
        let own_directory = directory.join(name);
        if let Some((_, items)) = module.content {
            return self.add(&parents_file, Some(parent), &own_directory, items);
        }
        if let Some(path) = path_attribute(&module) {
            let beside = parents_file.parent().unwrap_or(Path::new(""));
            let file = normal(&beside.join(path));
            let directory = file.parent().unwrap_or(Path::new("")).to_owned();
            return self.add_file(&file, Some(parent), &directory);
        }
        let file = directory.join(name).with_extension("rs");
        if file.is_file() {
            return self.add_file(&file, Some(parent), &own_directory);
        }
        self.add_file(&own_directory.join("mod.rs"), Some(parent), &own_directory)
            .with_context(|| {
                let line = module.ident.span().start().line;
                format!("the module `{name}` of {}:{line}", parents_file.display())
            })
    }
}

/// The name that an item has in its module, and the line.
fn definition(item: &Item) -> Option<(String, usize)> {
    let ident = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => return macro_name(item),
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::TraitAlias(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some((ident.unraw().to_string(), ident.span().start().line))
}

fn macro_name(item: &ItemMacro) -> Option<(String, usize)> {
    let ident = item.ident.as_ref()?;
    Some((ident.unraw().to_string(), item.span().start().line))
}

fn exported_macro(item: &Item) -> Option<String> {
    let Item::Macro(item) = item else { return None };
    let mut attributes = item.attrs.iter();
    attributes
        .any(|attribute| attribute.path().is_ident("macro_export"))
        .then(|| macro_name(item))
        .flatten()
        .map(|(name, _)| name)
}

/// The file that `#[path = "…"]` names.
fn path_attribute(module: &ItemMod) -> Option<String> {
    module.attrs.iter().find_map(|attribute| {
        let Meta::NameValue(meta) = &attribute.meta else {
            return None;
        };
        match &meta.value {
            Expr::Lit(ExprLit {
                lit: Lit::Str(path),
                ..
            }) if meta.path.is_ident("path") => Some(path.value()),
            _ => None,
        }
    })
}

/// A path without `..`, so that one file has one name.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        if component == Component::ParentDir {
            normal.pop();
        } else {
            normal.push(component);
        }
    }
    normal
}
