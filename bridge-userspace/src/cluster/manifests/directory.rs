//! All manifest files of a directory, each with its last good content.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tracing::warn;

use super::error::ManifestError;
use super::parse;
use crate::cluster::{Object, Objects};

pub(super) struct Directory {
    path: PathBuf,
    files: BTreeMap<PathBuf, Vec<Object>>,
}

impl Directory {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            files: BTreeMap::new(),
        }
    }

    /// Reads every file again. A file that is gone takes its objects with it; one that cannot be
    /// read keeps what it said before and is reported.
    pub(super) fn read(&mut self) -> Result<Vec<ManifestError>, ManifestError> {
        let paths = self.manifest_paths().map_err(|error| ManifestError::Read {
            path: self.path.clone(),
            error,
        })?;
        self.files.retain(|path, _| paths.contains(path));
        let mut errors = Vec::new();
        for path in paths {
            let objects = match fs::read_to_string(&path) {
                // Redirecting `kubectl get` empties the file first: that is not yet what it will say.
                Ok(text) if text.trim().is_empty() => Err(ManifestError::Parse {
                    path: path.clone(),
                    line: None,
                    message: "the file is empty; delete it to remove what it defined".to_owned(),
                }),
                Ok(text) => parse::objects(&path, &text),
                // Removed since the directory was listed; the next reading knows.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => Err(ManifestError::Read {
                    path: path.clone(),
                    error,
                }),
            };
            match objects {
                Ok(objects) => {
                    self.files.insert(path, objects);
                }
                Err(error) => errors.push(error),
            }
        }
        Ok(errors)
    }

    /// The objects of all files; of two definitions the one in the later file counts.
    pub(super) fn objects(&self) -> Objects {
        let mut objects = Objects::default();
        for (path, file) in &self.files {
            for object in file {
                if objects.insert(object.clone()) {
                    warn!(
                        "{}: {} {} is defined more than once; this definition counts",
                        path.display(),
                        object.kind(),
                        object.key()
                    );
                }
            }
        }
        objects
    }

    fn manifest_paths(&self) -> io::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            if is_manifest(&path) && !path.is_dir() {
                paths.push(path);
            }
        }
        paths.sort();
        Ok(paths)
    }
}

/// Names that begin with a dot are editors' and kubelet's own.
fn is_manifest(path: &Path) -> bool {
    let hidden = path
        .file_name()
        .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    let extension = path.extension().and_then(|extension| extension.to_str());
    !hidden && matches!(extension, Some("yaml" | "yml" | "json"))
}
