//! What is known of one setting of `run`: its field in the file, its flag, the kind of its values, its default and
//! what it is for.
//!
//! Each setting is a constant in the file of its family, beside the check of its values. The command line, its help,
//! the reader of the file and the documentation are made from these constants.

use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddrV4;
use std::path::PathBuf;

/// What is known of a setting, whatever its values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SettingFacts {
    /// The field in the YAML file, in camel case; a dot leads into a group.
    pub field: &'static str,
    /// The flag of the command line; none for what is set in the file only.
    pub flag: Option<Flag>,
    /// The kind of its values.
    pub kind: Kind,
    /// What holds where nobody sets it.
    pub default: DefaultValue,
    /// What it is for, as one paragraph.
    pub doc: &'static str,
}

/// A flag of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flag {
    /// Its name without the dashes: the field's, in kebab case.
    pub name: &'static str,
    /// What stands for the value in the help.
    pub value_name: &'static str,
}

/// What values a setting can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One text.
    Text,
    /// A path of the file system.
    Path,
    /// Any number of texts: a flag that may be repeated, a field with a list or a single text.
    List,
    /// A whole number from 0 to 4294967295.
    Number,
    /// `true` or `false`; the flag alone means `true`.
    Switch,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "a text",
            Self::Path => "a path",
            Self::List => "a text or a list of texts",
            Self::Number => "a whole number",
            Self::Switch => "`true` or `false`",
        })
    }
}

/// What holds where nobody sets a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultValue {
    /// Nothing, or the setting must be given.
    None,
    /// This text.
    Text(&'static str),
    /// This number.
    Number(u32),
    /// This switch.
    Switch(bool),
    /// This address and port.
    Socket(SocketAddrV4),
    /// What follows from other settings or the environment, in words.
    Derived(&'static str),
}

impl DefaultValue {
    /// The default as the help shows it; none if there is none.
    #[must_use]
    pub fn shown(&self) -> Option<String> {
        match self {
            Self::None => None,
            Self::Text(text) | Self::Derived(text) => Some((*text).to_owned()),
            Self::Number(number) => Some(number.to_string()),
            Self::Switch(switch) => Some(switch.to_string()),
            Self::Socket(socket) => Some(socket.to_string()),
        }
    }
}

/// A value as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Path(PathBuf),
    List(Vec<String>),
    Number(u32),
    Switch(bool),
}

/// The type of a setting's values.
pub(super) trait ValueType: Clone {
    const KIND: Kind;

    /// The value, if it is of this type.
    fn of(value: &Value) -> Option<&Self>;
}

macro_rules! value_types {
    ($($type:ty: $kind:ident),* $(,)?) => {$(
        impl ValueType for $type {
            const KIND: Kind = Kind::$kind;

            fn of(value: &Value) -> Option<&Self> {
                match value {
                    Value::$kind(value) => Some(value),
                    _ => None,
                }
            }
        }
    )*};
}

value_types! {
    String: Text,
    PathBuf: Path,
    Vec<String>: List,
    u32: Number,
    bool: Switch,
}

/// A setting with values of the type `V`.
pub(super) struct Setting<V> {
    /// What the command line, the reader of the file and the documentation know of it.
    pub(super) facts: SettingFacts,
    values: PhantomData<fn() -> V>,
}

impl<V: ValueType> Setting<V> {
    /// A setting that the command line and the file have.
    pub(super) const fn new(
        field: &'static str,
        flag: &'static str,
        value_name: &'static str,
        default: DefaultValue,
        doc: &'static str,
    ) -> Self {
        let flag = Flag {
            name: flag,
            value_name,
        };
        Self::with(field, Some(flag), default, doc)
    }

    /// A setting that only the file has.
    pub(super) const fn in_file_only(
        field: &'static str,
        default: DefaultValue,
        doc: &'static str,
    ) -> Self {
        Self::with(field, None, default, doc)
    }

    const fn with(
        field: &'static str,
        flag: Option<Flag>,
        default: DefaultValue,
        doc: &'static str,
    ) -> Self {
        Self {
            facts: SettingFacts {
                field,
                flag,
                kind: V::KIND,
                default,
                doc,
            },
            values: PhantomData,
        }
    }
}
