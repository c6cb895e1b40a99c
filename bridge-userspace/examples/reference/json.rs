//! What the commands print with `-o json`.

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt::Write as _;

use crate::markdown::{code, codes, table};
use crate::source::{Kind, Member, Source};

/// Each command, what it prints, and the struct behind it.
const COMMANDS: [(&str, &str, &str); 4] = [
    (
        "office-bridge status",
        "An object. `events` has the last 20. `layers` of an interface are those that new flows can take there. In `traffic`, \
         `to-backend` and `to-client` include `xdp-to-backend` and `xdp-to-client`.",
        "StatusView",
    ),
    (
        "office-bridge flows list",
        "An array, with an object for each flow. Endpoints are `\"address:port\"`; the port of a ping is its identifier.",
        "FlowView",
    ),
    (
        "office-bridge flows flush",
        "An object: how many flows were removed.",
        "Flushed",
    ),
    (
        "office-bridge services",
        "An array, with an object for each service port.",
        "ServiceView",
    ),
];

pub fn page(source: &Source) -> Result<String, Box<dyn Error>> {
    let mut text = "# JSON\n\nWhat the commands print with `-o json`. Fields are not renamed or removed within a version; new \
                    ones may come.\n"
        .to_owned();
    for (command, what, root) in COMMANDS {
        write!(text, "\n## {command}\n\n{what}\n\n")?;
        let mut rows = Vec::new();
        rows_of(source, root, "", &mut BTreeSet::new(), &mut rows)?;
        text.push_str(&table(["field", "is", "meaning"], rows));
    }
    Ok(text)
}

/// Rows for the fields of a struct, and for those of the structs in it.
fn rows_of(
    source: &Source,
    name: &str,
    prefix: &str,
    above: &mut BTreeSet<String>,
    rows: &mut Vec<[String; 3]>,
) -> Result<(), Box<dyn Error>> {
    if !above.insert(name.to_owned()) {
        return Err(format!("{name} is inside of itself").into());
    }
    for field in source.fields(name)? {
        let path = format!("{prefix}{}", field.name);
        let (mut shape, inner) = shape(&field.kind);
        let mut meaning = field.doc.clone();
        let mut nested = None;
        if let Some(inner) = inner {
            if source.has_struct(&inner) {
                nested = Some(inner);
            } else {
                let variants = source.variants(&inner)?;
                // serde writes a variant with data as an object with one field.
                let has_data = |variant: &Member| variant.kind != Kind::Text;
                let is_object = variants.iter().any(has_data);
                shape = shape.replace("object", if is_object { "text or object" } else { "text" });
                let values: Vec<String> = variants
                    .iter()
                    .map(|variant| {
                        let name = &variant.name;
                        if has_data(variant) {
                            format!("{{\"{name}\": …}}")
                        } else {
                            name.clone()
                        }
                    })
                    .collect();
                if !values.iter().all(|value| meaning.contains(value)) {
                    meaning = format!("{meaning} One of {}.", codes(values));
                }
            }
        }
        rows.push([code(&path), shape, meaning]);
        if let Some(nested) = nested {
            let step = match field.kind {
                Kind::Array(_) => "[].",
                Kind::Map(_) => ".*.",
                _ => ".",
            };
            rows_of(source, &nested, &format!("{path}{step}"), above, rows)?;
        }
    }
    above.remove(name);
    Ok(())
}

/// What a value is, in words, and the type that it is made of.
fn shape(kind: &Kind) -> (String, Option<String>) {
    let of = |inner: &Kind, before: &str, after: &str| {
        let (text, name) = shape(inner);
        (format!("{before}{text}{after}"), name)
    };
    match kind {
        Kind::Boolean => ("boolean".to_owned(), None),
        Kind::Number => ("number".to_owned(), None),
        Kind::Text => ("text".to_owned(), None),
        Kind::Optional(inner) => of(inner, "", " or null"),
        Kind::Array(inner) => of(inner, "array of ", ""),
        Kind::Map(inner) => of(inner, "object by name: ", ""),
        Kind::Named(name) => ("object".to_owned(), Some(name.clone())),
    }
}
