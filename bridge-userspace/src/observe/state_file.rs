//! The report of `run` in a file, for the commands that show it. Like the tables it stays when the process ends.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::report::Report;
use crate::maps::run_file;

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
    /// When the file is there and can't be read.
    pub fn read(&self) -> io::Result<Option<Report>> {
        match fs::read(&self.path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes the report, in one step for readers.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn write(&self, report: &Report) -> io::Result<()> {
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory)?;
        }
        let unfinished = self.path.with_extension("new");
        fs::write(&unfinished, serde_json::to_vec_pretty(report)?)?;
        fs::rename(unfinished, &self.path)
    }

    /// Removes the file.
    ///
    /// # Errors
    /// When it is there and can't be removed.
    pub fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
