//! A directory of ordinary Kubernetes manifests, such as `kubectl get -o yaml` prints them.
//!
//! `parse` reads one file, `directory` all of them, `follow` says when to read again.

mod directory;
mod follow;
pub(super) mod parse;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;
use tracing::{debug, info, warn};

use self::directory::Directory;
use self::follow::Follow;
use super::{ClusterCidr, DesiredState, desired_state};

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

pub(super) fn watch(
    path: &Path,
    explicit: Vec<ClusterCidr>,
) -> Result<watch::Receiver<Arc<DesiredState>>, ManifestError> {
    // Following starts before the first reading, so that no change falls between the two.
    let follow = Follow::start(path)?;
    let mut directory = Directory::new(path);
    let errors = directory.read()?;
    if let Some(error) = errors.into_iter().next() {
        return Err(error);
    }
    let state = desired_state(&directory.objects(), &explicit);
    log_change(None, &state);
    let (sender, receiver) = watch::channel(Arc::new(state));
    tokio::spawn(async move {
        tokio::select! {
            () = keep_up(follow, directory, &explicit, &sender) => {}
            () = sender.closed() => {}
        }
    });
    Ok(receiver)
}

async fn keep_up(
    mut follow: Follow,
    mut directory: Directory,
    explicit: &[ClusterCidr],
    sender: &watch::Sender<Arc<DesiredState>>,
) {
    loop {
        follow.changed().await;
        // A big cluster's dump takes its time to parse.
        let reading = tokio::task::spawn_blocking(move || {
            let result = directory.read();
            (directory, result)
        });
        let result;
        (directory, result) = match reading.await {
            Ok(read) => read,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime is shutting down.
            Err(_) => return,
        };
        match result {
            Ok(errors) => {
                for error in errors {
                    warn!("{error}; what this file said before stays in force");
                }
            }
            Err(error) => {
                warn!("{error}; the last good state stays in force");
                continue;
            }
        }
        let state = desired_state(&directory.objects(), explicit);
        sender.send_if_modified(|current| {
            let changed = **current != state;
            if changed {
                log_change(Some(current), &state);
                *current = Arc::new(state);
            } else {
                debug!("the manifests say the same as before");
            }
            changed
        });
    }
}

fn log_change(before: Option<&DesiredState>, state: &DesiredState) {
    info!(
        cidrs = state.cidrs.len(),
        services = state.services.len(),
        "read the cluster's manifests"
    );
    for problem in &state.problems {
        if before.is_none_or(|before| !before.problems.contains(problem)) {
            warn!("{problem}");
        }
    }
}

#[cfg(test)]
mod tests;
