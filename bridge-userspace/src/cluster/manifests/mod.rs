//! A directory of ordinary Kubernetes manifests, such as `kubectl get -o yaml` prints them.
//!
//! `parse` reads one file, `directory` all of them, `follow` says when to read again.

mod directory;
mod follow;
pub(super) mod parse;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use tracing::warn;

use self::directory::Directory;
use self::follow::Follow;
use super::feed::{self, Publisher};
use super::{Feed, Rules, desired_state};

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

pub(super) fn watch(path: &Path, rules: Rules) -> Result<Feed, ManifestError> {
    // Following starts before the first reading, so that no change falls between the two.
    let follow = Follow::start(path)?;
    let mut directory = Directory::new(path);
    let begun = Instant::now();
    let errors = directory.read()?;
    if let Some(error) = errors.into_iter().next() {
        return Err(error);
    }
    let (publisher, feed) = feed::channel();
    publisher.publish(desired_state(directory.objects(), &rules), begun);
    publisher.in_touch();
    tokio::spawn(async move {
        tokio::select! {
            () = keep_up(follow, directory, &rules, &publisher) => {}
            () = publisher.closed() => {}
        }
    });
    Ok(feed)
}

async fn keep_up(
    mut follow: Follow,
    mut directory: Directory,
    rules: &Rules,
    publisher: &Publisher,
) {
    loop {
        follow.changed().await;
        let noticed = Instant::now();
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
                for error in &errors {
                    warn!("{error}; what this file said before stays in force");
                }
                match errors.first() {
                    Some(error) => {
                        publisher.lost(error.to_string());
                    }
                    None => publisher.in_touch(),
                }
            }
            Err(error) => {
                warn!("{error}; the last good state stays in force");
                publisher.lost(error.to_string());
                continue;
            }
        }
        publisher.publish(desired_state(directory.objects(), rules), noticed);
    }
}

#[cfg(test)]
mod tests;
