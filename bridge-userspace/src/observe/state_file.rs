//! The report of `run` in a file, for the commands that show it. Like the tables it stays when the process ends.
//!
//! What `status` says and what `uninstall` detaches follows from it, so nobody but root may write it or put another in its
//! place.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::report::Report;
use crate::maps::{private_directory, private_file, resolve, run_file};

/// Extension of the file, which lies beside the lock of the same pin path.
const EXTENSION: &str = "json";

/// The file of one bridge.
#[derive(Clone, Debug)]
pub struct StateFile {
    path: PathBuf,
}

impl StateFile {
    /// The file of the bridge with this pin path.
    #[must_use]
    pub fn new(pin_path: &Path) -> Self {
        Self::at(run_file(pin_path, EXTENSION))
    }

    /// A file anywhere.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Reads the report; `None` where there is none.
    ///
    /// # Errors
    /// When the file is there and can't be read, or others can put another in its place.
    pub fn read(&self) -> io::Result<Option<Report>> {
        let text = self.directory().and_then(|directory| {
            resolve(directory)?;
            fs::read(&self.path)
        });
        let report = match text {
            Ok(text) => serde_json::from_slice(&text).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => Err(error),
        };
        report.map(Some).map_err(|error| {
            let path = self.path.display();
            io::Error::new(error.kind(), format!("cannot read {path}: {error}"))
        })
    }

    /// Writes the report, in one step for readers.
    ///
    /// # Errors
    /// When the file can't be written, or others can put another in its place.
    pub fn write(&self, report: &Report) -> io::Result<()> {
        private_directory(self.directory()?)?;
        let unfinished = self.path.with_extension("new");
        // What a killed process has left may be open to others.
        remove(&unfinished)?;
        let mut file = private_file()
            .write(true)
            .create_new(true)
            .open(&unfinished)?;
        file.write_all(&serde_json::to_vec_pretty(report)?)?;
        fs::rename(unfinished, &self.path)
    }

    fn directory(&self) -> io::Result<&Path> {
        let directory = self.path.parent();
        directory.ok_or_else(|| io::ErrorKind::NotADirectory.into())
    }

    /// Removes the file.
    ///
    /// # Errors
    /// When it is there and can't be removed.
    pub fn remove(&self) -> io::Result<()> {
        remove(&self.path)
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::*;

    #[test]
    fn nobody_else_reads_the_report_whatever_was_left_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bridge.json");
        for left in [&path, &path.with_extension("new")] {
            fs::write(left, "{}").unwrap();
            fs::set_permissions(left, Permissions::from_mode(0o644)).unwrap();
        }
        let file = StateFile::at(path.clone());
        file.write(&Report::example(7)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(file.read().unwrap(), Some(Report::example(7)));
    }

    #[test]
    fn what_others_can_have_written_is_not_believed() {
        let directory = tempfile::tempdir().unwrap();
        let file = StateFile::at(directory.path().join("bridge.json"));
        file.write(&Report::example(7)).unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
        let error = file.read().unwrap_err().to_string();
        assert!(
            error.contains("can be written to by other users"),
            "{error}"
        );
        file.write(&Report::example(8)).unwrap_err();
    }
}
