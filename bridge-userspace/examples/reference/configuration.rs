//! The fields of the configuration's file.

use bridge_userspace::config::{SettingFacts, settings};

use crate::flags::sentences;
use crate::markdown::{code, table};

pub fn page() -> String {
    let rows = settings().map(|setting| {
        let flag = setting.flag.map(|flag| format!("--{}", flag.name));
        [
            code(setting.field),
            setting.kind.to_string(),
            flag.map_or_else(|| "in the file only".to_owned(), |flag| code(&flag)),
            default(setting),
            sentences(setting.doc),
        ]
    });
    format!(
        "# Configuration\n\n\
         The fields of the YAML file that `--config` names. A flag wins over its field, lists as a whole. A dot leads into a \
         group. An example with every field: [Configure](../guide/configure.md).\n\n{}",
        table(["field", "value", "flag", "default", "meaning"], rows)
    )
}

/// What holds without the setting; words that explain it stay as they are.
fn default(setting: &SettingFacts) -> String {
    match setting.default.shown() {
        None => String::new(),
        Some(words) if words.contains(' ') => words,
        Some(value) => code(&value),
    }
}
