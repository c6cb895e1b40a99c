//! The YAML file that `--config` names.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess};
use serde::de::{SeqAccess, Visitor};
use serde_saphyr::{Spanned, with_deserializer_from_str_with_options};

use super::setting::{Kind, SettingFacts, Value};
use super::settings::{Origin, Settings};
use super::table::settings;
use crate::model::{Finding, Findings, Subject};

/// Reads a file. Fields that are wrong in it go to `findings`, the rest is the result; none where the file as a whole
/// can't be read, which is a finding too.
pub(super) fn read(path: &Path, findings: &mut Findings) -> Option<Settings> {
    match fs::read_to_string(path) {
        Ok(text) => parse(path, &text, findings),
        Err(error) => {
            findings.push(Finding::usage(
                Subject::ConfigurationFile {
                    path: path.to_owned(),
                    line: None,
                },
                format!("cannot read {}: {error}", path.display()),
                "name a file that can be read with --config, or leave it out",
            ));
            None
        }
    }
}

pub(super) fn parse(path: &Path, text: &str, findings: &mut Findings) -> Option<Settings> {
    let mut wrong_fields = BTreeSet::new();
    let mut wrong = Vec::new();
    // The parser gives up at the first error. So that all wrong fields are reported, it starts again without those
    // that are known to be wrong.
    loop {
        let mut reader = Reader {
            path,
            wrong_fields: &wrong_fields,
            settings: Settings::default(),
            field: None,
        };
        let options = serde_saphyr::options! { with_snippet: false };
        let outcome = with_deserializer_from_str_with_options(text, options, |deserializer| {
            Group {
                reader: &mut reader,
                prefix: "",
            }
            .deserialize(deserializer)
        });
        let Reader {
            mut settings,
            field,
            ..
        } = reader;
        let Err(error) = outcome else {
            for facts in wrong_fields.iter().filter_map(|field| known(field)) {
                settings.insert_unreadable(facts.field);
            }
            findings.extend(wrong);
            return Some(settings);
        };
        let is_new = |field: &String| !wrong_fields.contains(field);
        let Some(field) = field.filter(is_new) else {
            // Not a wrong value but no YAML at all, maybe within a field that was taken for wrong.
            wrong.retain(|known: &Finding| known.cause != cause(path, &error));
            wrong.push(finding(path, &error, None));
            findings.extend(wrong);
            return None;
        };
        wrong.push(finding(path, &error, Some(&field)));
        wrong_fields.insert(field);
    }
}

fn finding(path: &Path, error: &serde_saphyr::Error, field: Option<&str>) -> Finding {
    let line = error.location().map(|location| location.line());
    let remedy = match field {
        Some(field) => match known(field) {
            Some(facts) => format!("`{field}` takes {}", facts.kind),
            None if is_group(field) => format!("`{field}` takes a mapping of {}", names(field)),
            None => {
                let group = field.rsplit_once('.').map_or("", |(group, _)| group);
                format!("the fields here are {}", names(group))
            }
        },
        None => "correct the YAML there".to_owned(),
    };
    Finding::usage(
        Subject::ConfigurationFile {
            path: path.to_owned(),
            line,
        },
        cause(path, error),
        remedy,
    )
}

fn cause(path: &Path, error: &serde_saphyr::Error) -> String {
    let line = error.location().map(|location| location.line());
    let place = line.map(|line| format!(":{line}")).unwrap_or_default();
    format!("{}{place}: {}", path.display(), error.without_snippet())
}

fn known(field: &str) -> Option<&'static SettingFacts> {
    settings().find(|facts| facts.field == field)
}

fn is_group(field: &str) -> bool {
    settings().any(|facts| {
        facts
            .field
            .split_once('.')
            .is_some_and(|(group, _)| group == field)
    })
}

/// The fields of a group, or those of the file for "", for a message.
fn names(group: &str) -> String {
    let mut names: Vec<String> = settings()
        .filter_map(|facts| match facts.field.split_once('.') {
            Some((of, name)) if of == group => Some(name),
            Some((of, _)) if group.is_empty() => Some(of),
            None if group.is_empty() => Some(facts.field),
            _ => None,
        })
        .map(|name| format!("`{name}`"))
        .collect();
    names.dedup();
    names.join(", ")
}

/// What one pass over the file has read so far.
struct Reader<'a> {
    path: &'a Path,
    wrong_fields: &'a BTreeSet<String>,
    settings: Settings,
    /// The field that is being read.
    field: Option<String>,
}

/// The fields of the file, or of a mapping in it.
struct Group<'a, 'b> {
    reader: &'a mut Reader<'b>,
    /// The name of the mapping and a dot.
    prefix: &'a str,
}

impl<'de> DeserializeSeed<'de> for Group<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        // An empty file, or one with nothing but comments, is YAML's null.
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for Group<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a mapping of settings")
    }

    fn visit_none<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(field) = map.next_key_seed(FieldName {
            reader: &mut *self.reader,
            prefix: self.prefix,
        })? {
            if self.reader.wrong_fields.contains(&field) {
                map.next_value::<IgnoredAny>()?;
            } else if let Some(facts) = known(&field) {
                if let (Some(value), line) = value(facts, &mut map)? {
                    let path = self.reader.path.to_owned();
                    let origin = Origin::File { path, line };
                    self.reader.settings.insert(facts.field, value, origin);
                }
            } else {
                map.next_value_seed(Group {
                    reader: &mut *self.reader,
                    prefix: &format!("{field}."),
                })?;
            }
            self.reader.field = None;
        }
        Ok(())
    }
}

/// The name of a field, with that of its group. The parser tells the line of an error only if it comes up in here.
struct FieldName<'a, 'b> {
    reader: &'a mut Reader<'b>,
    prefix: &'a str,
}

impl<'de> DeserializeSeed<'de> for FieldName<'_, '_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        let field = format!("{}{}", self.prefix, String::deserialize(deserializer)?);
        self.reader.field = Some(field.clone());
        let is_left_out = self.reader.wrong_fields.contains(&field);
        if is_left_out || is_group(&field) || known(&field).is_some() {
            Ok(field)
        } else {
            Err(de::Error::custom(format!("there is no field `{field}`")))
        }
    }
}

/// A value and its line; none for null, which counts as not given.
fn value<'de, A: MapAccess<'de>>(
    facts: &SettingFacts,
    map: &mut A,
) -> Result<(Option<Value>, u64), A::Error> {
    Ok(match facts.kind {
        Kind::Text => spanned(map, Value::Text)?,
        Kind::Path => spanned(map, |path: PathBuf| Value::Path(path))?,
        Kind::List => spanned(map, |OneOrMany(texts)| Value::List(texts))?,
        Kind::Number => spanned(map, Value::Number)?,
        Kind::Switch => spanned(map, Value::Switch)?,
    })
}

fn spanned<'de, A: MapAccess<'de>, T: Deserialize<'de>>(
    map: &mut A,
    value: impl FnOnce(T) -> Value,
) -> Result<(Option<Value>, u64), A::Error> {
    let spanned: Spanned<Option<T>> = map.next_value()?;
    Ok((spanned.value.map(value), spanned.referenced.line()))
}

/// A YAML list of texts, or a single text for a list of one.
struct OneOrMany(Vec<String>);

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;

        impl<'de> Visitor<'de> for Texts {
            type Value = OneOrMany;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                write!(f, "{}", Kind::List)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<OneOrMany, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = items.next_element()? {
                    texts.push(text);
                }
                Ok(OneOrMany(texts))
            }
        }

        deserializer.deserialize_any(Texts)
    }
}
