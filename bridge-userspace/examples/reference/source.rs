//! Doc comments and names of what serde writes and reads, found in the sources by the name of the type.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;

use syn::{
    Attribute, Expr, Field, Fields, GenericArgument, ImplItem, Item, Lit, Meta, PathArguments,
    Stmt, Type,
};

/// One field of a struct, or one variant of an enum.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its name in JSON and YAML.
    pub name: String,
    /// Its doc comment, on one line.
    pub doc: String,
    /// A field's type; of a variant, whether it is a text or has data.
    pub kind: Kind,
}

/// What a value is in JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Boolean,
    Number,
    Text,
    /// This, or null.
    Optional(Box<Self>),
    Array(Box<Self>),
    /// An object whose names are data.
    Map(Box<Self>),
    /// Another type, by its name.
    Named(String),
}

/// Every struct and enum of a crate.
#[derive(Debug, Default)]
pub struct Source {
    structs: BTreeMap<String, Vec<Member>>,
    enums: BTreeMap<String, Vec<Member>>,
    numbers: BTreeMap<String, Vec<Number>>,
}

/// A variant of an enum, or a constant of a type, with its number.
#[derive(Clone, Debug)]
pub struct Number {
    pub ident: String,
    pub value: String,
    pub doc: String,
}

impl Source {
    /// Reads all files below a directory.
    pub fn read(directory: &Path) -> Result<Self, Box<dyn Error>> {
        let mut source = Self::default();
        source.read_directory(directory)?;
        Ok(source)
    }

    /// The fields of a struct that serde writes and reads.
    pub fn fields(&self, name: &str) -> Result<&[Member], String> {
        self.structs
            .get(name)
            .map(Vec::as_slice)
            .ok_or_else(|| format!("there is no struct {name}"))
    }

    /// Whether there is such a struct.
    pub fn has_struct(&self, name: &str) -> bool {
        self.structs.contains_key(name)
    }

    /// The variants of an enum.
    pub fn variants(&self, name: &str) -> Result<&[Member], String> {
        self.enums
            .get(name)
            .map(Vec::as_slice)
            .ok_or_else(|| format!("there is no struct or enum {name}"))
    }

    /// Types whose variants or constants have numbers, by name.
    pub fn numbers(&self) -> impl Iterator<Item = (&str, &[Number])> {
        let numbers = self.numbers.iter();
        numbers.map(|(name, numbers)| (name.as_str(), numbers.as_slice()))
    }

    fn number(&mut self, of: &str, ident: &str, number: &Expr, attributes: &[Attribute]) {
        if let Expr::Lit(literal) = number
            && let Lit::Int(number) = &literal.lit
        {
            self.numbers.entry(of.to_owned()).or_default().push(Number {
                ident: ident.to_owned(),
                value: number.base10_digits().to_owned(),
                doc: doc(attributes),
            });
        }
    }

    fn read_directory(&mut self, directory: &Path) -> Result<(), Box<dyn Error>> {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.is_dir() {
                self.read_directory(&path)?;
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let file = syn::parse_file(&fs::read_to_string(&path)?)
                    .map_err(|error| format!("{}: {error}", path.display()))?;
                self.take(file.items);
            }
        }
        Ok(())
    }

    /// Types of the file itself and of its functions; those inside of modules are nobody else's.
    fn take(&mut self, items: Vec<Item>) {
        for item in items {
            match item {
                Item::Fn(function) => {
                    let items = function
                        .block
                        .stmts
                        .into_iter()
                        .filter_map(|line| match line {
                            Stmt::Item(item) => Some(item),
                            _ => None,
                        });
                    self.take(items.collect());
                }
                Item::Struct(item) => {
                    if let Fields::Named(fields) = &item.fields {
                        let case = rename_all(&item.attrs);
                        let fields = fields.named.iter().filter_map(|field| member(field, &case));
                        self.structs
                            .insert(item.ident.to_string(), fields.collect());
                    }
                }
                Item::Impl(item) => {
                    let Type::Path(of) = &*item.self_ty else {
                        continue;
                    };
                    let Some(of) = of.path.get_ident().map(ToString::to_string) else {
                        continue;
                    };
                    for item in &item.items {
                        if let ImplItem::Const(item) = item {
                            self.number(&of, &item.ident.to_string(), &item.expr, &item.attrs);
                        }
                    }
                }
                Item::Enum(item) => {
                    for variant in &item.variants {
                        if let Some((_, number)) = &variant.discriminant {
                            let of = item.ident.to_string();
                            self.number(&of, &variant.ident.to_string(), number, &variant.attrs);
                        }
                    }
                    let case = rename_all(&item.attrs);
                    let variants = item.variants.iter().map(|variant| {
                        let ident = variant.ident.to_string();
                        let name = serde(&variant.attrs, "rename");
                        Member {
                            name: name.unwrap_or_else(|| rename(&ident, &case)),
                            doc: doc(&variant.attrs),
                            kind: match variant.fields {
                                Fields::Unit => Kind::Text,
                                _ => Kind::Map(Box::new(Kind::Text)),
                            },
                        }
                    });
                    self.enums
                        .insert(item.ident.to_string(), variants.collect());
                }
                _ => {}
            }
        }
    }
}

fn member(field: &Field, case: &str) -> Option<Member> {
    let ident = field.ident.as_ref()?.to_string();
    if serde(&field.attrs, "skip").is_some() {
        return None;
    }
    Some(Member {
        name: serde(&field.attrs, "rename").unwrap_or_else(|| rename(&ident, case)),
        doc: doc(&field.attrs),
        kind: kind(&field.ty),
    })
}

/// The doc comment: its lines in one, and links to code as code.
fn doc(attributes: &[Attribute]) -> String {
    let lines = attributes
        .iter()
        .filter_map(|attribute| match &attribute.meta {
            Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
                Expr::Lit(literal) => match &literal.lit {
                    Lit::Str(text) => Some(text.value().trim().to_owned()),
                    _ => None,
                },
                _ => None,
            },
            _ => None,
        });
    let text = lines.collect::<Vec<_>>().join(" ");
    without_links(text.trim())
}

/// [`x`] and [`x`](path) become `x`, as a page has no items to link to.
fn without_links(text: &str) -> String {
    let mut parts = text.split("[`");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let Some((name, rest)) = part.split_once("`]") else {
            plain.push_str("[`");
            plain.push_str(part);
            continue;
        };
        let target = rest.strip_prefix('(').and_then(|rest| rest.split_once(')'));
        let rest = target.map_or(rest, |(_, rest)| rest);
        plain.extend(["`", name, "`", rest]);
    }
    plain
}

/// The value of an item in `#[serde(…)]`; an empty text if it has none.
fn serde(attributes: &[Attribute], wanted: &str) -> Option<String> {
    let mut found = None;
    for attribute in attributes {
        if !attribute.path().is_ident("serde") {
            continue;
        }
        // What can't be read here is none of the items that are asked for.
        let _ = attribute.parse_nested_meta(|meta| {
            let value = meta
                .value()
                .ok()
                .map(syn::parse::ParseBuffer::parse::<Lit>)
                .transpose()?;
            if meta.path.is_ident(wanted) {
                found = Some(match value {
                    Some(Lit::Str(text)) => text.value(),
                    _ => String::new(),
                });
            }
            Ok(())
        });
    }
    found
}

fn rename_all(attributes: &[Attribute]) -> String {
    serde(attributes, "rename_all").unwrap_or_default()
}

/// serde's `rename_all`, as far as it is used here.
fn rename(ident: &str, case: &str) -> String {
    match case {
        "camelCase" => {
            let mut words = ident.split('_');
            let first = words.next().unwrap_or_default();
            // A variant's name is one word to serde, whose first letter becomes small.
            let first = first[..1].to_lowercase() + &first[1..];
            words.fold(first, |name, word| {
                name + &word[..1].to_uppercase() + &word[1..]
            })
        }
        "lowercase" => ident.to_lowercase(),
        "kebab-case" => {
            let mut name = String::new();
            for (index, letter) in ident.chars().enumerate() {
                if letter.is_uppercase() && index > 0 {
                    name.push('-');
                }
                name.extend(letter.to_lowercase());
            }
            name
        }
        _ => ident.to_owned(),
    }
}

fn kind(of: &Type) -> Kind {
    match of {
        Type::Reference(reference) => kind(&reference.elem),
        Type::Path(path) => {
            let Some(last) = path.path.segments.last() else {
                return Kind::Text;
            };
            let inner = || {
                let PathArguments::AngleBracketed(arguments) = &last.arguments else {
                    return Box::new(Kind::Text);
                };
                // The last one is a map's value.
                match arguments.args.last() {
                    Some(GenericArgument::Type(inner)) => Box::new(kind(inner)),
                    _ => Box::new(Kind::Text),
                }
            };
            match last.ident.to_string().as_str() {
                "bool" => Kind::Boolean,
                "u8" | "u16" | "u32" | "u64" | "usize" | "f64" => Kind::Number,
                "String" | "str" | "PathBuf" => Kind::Text,
                "Option" => Kind::Optional(inner()),
                "Vec" | "VecDeque" => Kind::Array(inner()),
                "BTreeMap" | "HashMap" => Kind::Map(inner()),
                name => Kind::Named(name.to_owned()),
            }
        }
        Type::Array(array) => Kind::Array(Box::new(kind(&array.elem))),
        _ => Kind::Text,
    }
}
