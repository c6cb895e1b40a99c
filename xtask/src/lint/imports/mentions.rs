//! Collects the paths in source text: in `use` declarations, code, attributes and arguments of macros.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::ext::IdentExt as _;
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};
use syn::{
    Attribute, Expr, ExprCall, ImplItem, Item, ItemUse, Macro, Meta, TraitItem, UseTree, Visibility,
};

/// A path as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mention {
    /// Its segments, such as `crate`, `lint`, `run`.
    pub path: Vec<String>,
    /// The line that it is on.
    pub line: usize,
}

/// A `use` declaration of one name, or of all names of a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// What is imported.
    pub mention: Mention,
    /// The name that it has here; none with `*`.
    pub name: Option<String>,
    /// Whether others may import it from here.
    pub is_public: bool,
}

/// The imports among items, those in the bodies of functions too.
pub fn imports(items: &[Item]) -> Vec<Import> {
    let mut visitor = Visitor::default();
    visitor.visit(items);
    visitor.imports
}

/// The paths in items, without those of `use`. A path of one segment is left out unless it looks like a type, a constant,
/// a macro or a function call: otherwise it may be a variable with the name of an import.
pub fn mentions(items: &[Item]) -> Vec<Mention> {
    let mut visitor = Visitor::default();
    visitor.visit(items);
    visitor.mentions
}

/// Whether attributes say that something is compiled for tests only.
pub fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let Meta::List(list) = &attribute.meta else {
            return attribute.path().is_ident("test");
        };
        list.path.is_ident("cfg") && requires_test(&list.tokens)
    })
}

/// Whether a `cfg` holds in tests only: `test`, or `all(…)` with it.
fn requires_test(predicate: &TokenStream) -> bool {
    let tokens: Vec<TokenTree> = predicate.clone().into_iter().collect();
    match tokens.as_slice() {
        [TokenTree::Ident(only)] => only == "test",
        [TokenTree::Ident(all), TokenTree::Group(group)] if all == "all" => {
            let parts: Vec<TokenTree> = group.stream().into_iter().collect();
            parts
                .split(|token| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ','))
                .any(|part| requires_test(&part.iter().cloned().collect()))
        }
        _ => false,
    }
}

/// The attributes of an item.
pub fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

#[derive(Default)]
struct Visitor {
    imports: Vec<Import>,
    mentions: Vec<Mention>,
}

impl Visitor {
    fn visit(&mut self, items: &[Item]) {
        for item in items {
            self.visit_item(item);
        }
    }

    fn add(&mut self, path: Vec<String>, line: usize) {
        self.mentions.push(Mention { path, line });
    }

    fn add_tree(&mut self, item: &ItemUse, tree: &UseTree, before: &[String]) {
        let is_public = !matches!(item.vis, Visibility::Inherited);
        let mut add = |last: &syn::Ident, name: &syn::Ident| {
            let mut path = before.to_vec();
            // `use a::{self}` imports `a`.
            let is_self = last == "self" && !before.is_empty();
            if !is_self {
                path.push(last.unraw().to_string());
            }
            let name = match path.last() {
                Some(last) if is_self && name == "self" => last.clone(),
                _ => name.unraw().to_string(),
            };
            self.imports.push(Import {
                mention: Mention {
                    path,
                    line: last.span().start().line,
                },
                name: Some(name),
                is_public,
            });
        };
        match tree {
            UseTree::Path(path) => {
                let mut before = before.to_vec();
                before.push(path.ident.unraw().to_string());
                self.add_tree(item, &path.tree, &before);
            }
            UseTree::Name(name) => add(&name.ident, &name.ident),
            UseTree::Rename(rename) => add(&rename.ident, &rename.rename),
            UseTree::Glob(glob) => self.imports.push(Import {
                mention: Mention {
                    path: before.to_vec(),
                    line: glob.span().start().line,
                },
                name: None,
                is_public,
            }),
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.add_tree(item, tree, before);
                }
            }
        }
    }

    /// The paths in the arguments of a macro or an attribute, which are no syntax but tokens.
    fn add_tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let is_punct = |at: usize, wanted: char| matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == wanted);
        let is_separator = |at: usize| is_punct(at, ':') && is_punct(at + 1, ':');
        let mut at = 0;
        while at < tokens.len() {
            match &tokens[at] {
                TokenTree::Group(group) => {
                    self.add_tokens(group.stream());
                    at += 1;
                }
                TokenTree::Ident(first) => {
                    let begin = at;
                    let mut path = vec![first.unraw().to_string()];
                    at += 1;
                    while is_separator(at) {
                        let Some(TokenTree::Ident(next)) = tokens.get(at + 2) else {
                            break;
                        };
                        path.push(next.unraw().to_string());
                        at += 3;
                    }
                    // A field, a method, or a path that begins before it.
                    let goes_on = begin > 0 && is_punct(begin - 1, '.')
                        || begin > 1 && is_separator(begin - 2);
                    let is_called = is_punct(at, '!')
                        || matches!(tokens.get(at), Some(TokenTree::Group(group))
                            if group.delimiter() == Delimiter::Parenthesis);
                    if !goes_on && (path.len() > 1 || is_called || is_capital(&path[0])) {
                        self.add(path, first.span().start().line);
                    }
                }
                _ => at += 1,
            }
        }
    }
}

impl<'ast> Visit<'ast> for Visitor {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_for_tests(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        let attributes: &[Attribute] = match item {
            ImplItem::Const(item) => &item.attrs,
            ImplItem::Fn(item) => &item.attrs,
            ImplItem::Type(item) => &item.attrs,
            _ => &[],
        };
        if !is_for_tests(attributes) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_trait_item(&mut self, item: &'ast TraitItem) {
        let attributes: &[Attribute] = match item {
            TraitItem::Const(item) => &item.attrs,
            TraitItem::Fn(item) => &item.attrs,
            TraitItem::Type(item) => &item.attrs,
            _ => &[],
        };
        if !is_for_tests(attributes) {
            visit::visit_trait_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        // `use ::a` is a crate for sure.
        if item.leading_colon.is_none() {
            self.add_tree(item, &item.tree, &[]);
        }
    }

    /// `pub(in a::b)` uses nothing.
    fn visit_visibility(&mut self, _: &'ast Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path
            .segments
            .iter()
            .map(|segment| segment.ident.unraw().to_string())
            .collect();
        let is_telling = segments.len() > 1 || segments.iter().any(|name| is_capital(name));
        if path.leading_colon.is_none() && is_telling {
            self.add(segments, path.span().start().line);
        }
        visit::visit_path(self, path);
    }

    fn visit_expr_call(&mut self, call: &'ast ExprCall) {
        if let Expr::Path(function) = &*call.func
            && let Some(name) = function.path.get_ident()
            && !is_capital(&name.to_string())
        {
            self.add(vec![name.unraw().to_string()], name.span().start().line);
        }
        visit::visit_expr_call(self, call);
    }

    fn visit_macro(&mut self, called: &'ast Macro) {
        if let Some(name) = called.path.get_ident() {
            self.add(vec![name.unraw().to_string()], name.span().start().line);
        }
        self.add_tokens(called.tokens.clone());
        visit::visit_macro(self, called);
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if let Meta::List(list) = &attribute.meta {
            self.add_tokens(list.tokens.clone());
        }
        visit::visit_attribute(self, attribute);
    }
}

/// Whether a name is written like a type or a constant.
fn is_capital(name: &str) -> bool {
    name.starts_with(char::is_uppercase)
}
