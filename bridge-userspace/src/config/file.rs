//! The YAML file that `--config` names.

use std::fs;
use std::path::Path;

use super::RunArgs;
use crate::model::UsageError;

pub(super) fn read(path: &Path) -> Result<RunArgs, UsageError> {
    let text = fs::read_to_string(path)
        .map_err(|error| UsageError::new(format!("cannot read {}: {error}", path.display())))?;
    parse(path, &text)
}

pub(super) fn parse(path: &Path, text: &str) -> Result<RunArgs, UsageError> {
    let options = serde_saphyr::options! { with_snippet: false };
    // An empty file, or one with nothing but comments, is YAML's null.
    serde_saphyr::from_str_with_options::<Option<RunArgs>>(text, options)
        .map(Option::unwrap_or_default)
        .map_err(|error| {
            let line = error
                .location()
                .map(|location| format!(":{}", location.line()))
                .unwrap_or_default();
            UsageError::new(format!(
                "{}{line}: {}",
                path.display(),
                error.without_snippet()
            ))
        })
}
