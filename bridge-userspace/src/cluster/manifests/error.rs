//! Why a directory of manifests cannot be used.

use std::io;
use std::path::{Path, PathBuf};

use crate::model::{Finding, Subject};

/// Why a directory of manifests cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The directory or a file in it cannot be read or followed.
    #[error("cannot read the manifests in {path}: {error}")]
    Read {
        /// The directory or file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// A file that is no valid manifest.
    #[error("{location}: {message}", location = location(.path, *.line))]
    Parse {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1, where it is known.
        line: Option<u64>,
        /// What is wrong there.
        message: String,
    },
}

fn location(path: &Path, line: Option<u64>) -> String {
    match line {
        Some(line) => format!("{}:{line}", path.display()),
        None => path.display().to_string(),
    }
}

impl From<ManifestError> for Finding {
    fn from(error: ManifestError) -> Self {
        let remedy = match &error {
            ManifestError::Read { .. } => {
                "name a directory that can be read with --cluster manifests=DIR"
            }
            ManifestError::Parse { .. } => "correct it, or move it out of the directory",
        };
        Self::failure(Subject::Cluster, error.to_string(), remedy)
    }
}
