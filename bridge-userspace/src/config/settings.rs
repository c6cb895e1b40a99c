//! The settings that were given, as words, each with the place where it stands.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::setting::{Setting, Value, ValueType};
use crate::model::{Finding, Subject};

const COMMAND_LINE: &str = "command line";

/// Where a value stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    CommandLine,
    File {
        path: PathBuf,
        /// Counted from 1.
        line: u64,
    },
}

/// What was given, by field.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    values: BTreeMap<&'static str, (Value, Origin)>,
    /// Fields that stand in the file with a value of another kind, which is a finding of its own.
    unreadable: BTreeSet<&'static str>,
}

impl Settings {
    /// Notes a value. An empty list counts as not given.
    pub(super) fn insert(&mut self, field: &'static str, value: Value, origin: Origin) {
        if value != Value::List(Vec::new()) {
            self.values.insert(field, (value, origin));
        }
    }

    /// These settings, and those of `file` that are not among them. Lists win as a whole.
    pub(super) fn over(mut self, file: Self) -> Self {
        for (field, value) in file.values {
            self.values.entry(field).or_insert(value);
        }
        self.unreadable.extend(file.unreadable);
        self
    }

    /// Notes a field whose value is of another kind.
    pub(super) fn insert_unreadable(&mut self, field: &'static str) {
        self.unreadable.insert(field);
    }

    /// Whether a setting is given nowhere.
    pub(super) fn lacks<V>(&self, setting: &Setting<V>) -> bool {
        let field = setting.facts.field;
        !self.values.contains_key(field) && !self.unreadable.contains(field)
    }

    pub(super) fn get<V: ValueType>(&self, setting: &Setting<V>) -> Option<&V> {
        let (value, _) = self.values.get(setting.facts.field)?;
        V::of(value)
    }

    /// A list; empty if it is not given.
    pub(super) fn list(&self, setting: &Setting<Vec<String>>) -> &[String] {
        self.get(setting).map_or(&[], Vec::as_slice)
    }

    pub(super) fn is_on(&self, setting: &Setting<bool>, default: bool) -> bool {
        self.get(setting).copied().unwrap_or(default)
    }

    /// Who gives a setting, for people: the command line, or a file.
    pub(super) fn source<V>(&self, setting: &Setting<V>) -> String {
        match self.file(setting) {
            Some((path, _)) => path.display().to_string(),
            None => COMMAND_LINE.to_owned(),
        }
    }

    /// How a message names a setting: by its flag, or by file, line and field where it stands in a file.
    pub(super) fn name<V>(&self, setting: &Setting<V>) -> String {
        let facts = &setting.facts;
        match (self.file(setting), facts.flag) {
            (Some((path, line)), _) => format!("{}:{line}: {}", path.display(), facts.field),
            (None, Some(flag)) => format!("--{}", flag.name),
            (None, None) => facts.field.to_owned(),
        }
    }

    /// An error of a setting's value.
    pub(super) fn wrong<V>(
        &self,
        setting: &Setting<V>,
        problem: &str,
        remedy: impl Into<String>,
    ) -> Finding {
        Finding::usage(
            Subject::Setting(setting.facts.field.into()),
            format!("{}{problem}", self.name(setting)),
            remedy,
        )
    }

    fn file<V>(&self, setting: &Setting<V>) -> Option<(&Path, u64)> {
        match self.values.get(setting.facts.field) {
            Some((_, Origin::File { path, line })) => Some((path, *line)),
            _ => None,
        }
    }
}
