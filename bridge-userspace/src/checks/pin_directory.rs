//! Whether anybody but root can change what is pinned.

use std::path::Path;

use crate::maps::Pins;
use crate::model::{Finding, Subject};

/// The pins at this path, where it really is. Who names a directory that another user can change asks for programs and
/// tables that the other one chooses, so that is wrong usage.
///
/// # Errors
/// When another user can replace what is there, or it can't be looked at.
pub fn judged_pins(pin_path: &Path) -> Result<Pins, Finding> {
    Pins::judged(pin_path).map_err(|error| {
        let subject = Subject::PinPath(pin_path.to_owned());
        let cause = format!("--pin-path {}: {error}", pin_path.display());
        if error.is_judgement() {
            let remedy = format!("{}, or choose another --pin-path", error.remedy());
            Finding::usage(subject, cause, remedy)
        } else {
            Finding::failure(subject, cause, error.remedy())
        }
    })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_pin_directory_that_others_can_change_is_wrong_usage() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("pins");
        assert!(judged_pins(&root).is_ok());
        fs::create_dir(&root).unwrap();
        fs::set_permissions(&root, Permissions::from_mode(0o1777)).unwrap();
        let finding = judged_pins(&root).unwrap_err();
        assert!(finding.is_usage());
        let text = finding.to_string();
        for word in ["--pin-path", "mode 1777", "chmod go-w"] {
            assert!(text.contains(word), "no `{word}` in: {text}");
        }
    }

    #[test]
    fn a_pin_directory_that_can_not_be_looked_at_is_no_wrong_usage() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&link, &link).unwrap();
        assert!(!judged_pins(&link).unwrap_err().is_usage());
    }
}
