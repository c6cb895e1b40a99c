//! A directory of ordinary Kubernetes manifests, such as `kubectl get -o yaml` prints them.
//!
//! `parse` reads one file, `directory` all of them, `follow` says when to read again.

mod directory;
mod error;
mod follow;
pub(super) mod parse;

use std::path::{Path, PathBuf};
use std::time::Instant;

use futures::future::BoxFuture;
use tokio::sync::Mutex;
use tracing::warn;

use self::directory::Directory;
pub use self::error::ManifestError;
use self::follow::Follow;
use super::feed::Publisher;
use super::{Rules, Source, desired_state};
use crate::model::{Finding, Findings};

/// A directory of manifests.
pub(super) struct Manifests {
    path: PathBuf,
    rules: Rules,
    publisher: Publisher,
    /// What the first reading has left, for the first call of [`Source::follow`].
    opened: Mutex<Option<(Follow, Directory)>>,
}

impl Manifests {
    /// Reads the directory and publishes what it says.
    ///
    /// # Errors
    /// When the directory or a file in it can't be read.
    pub(super) fn open(path: &Path, rules: Rules, publisher: Publisher) -> Result<Self, Findings> {
        // Following starts before the first reading, so that no change falls between the two.
        let follow = Follow::start(path)?;
        let mut directory = Directory::new(path);
        let begun = Instant::now();
        let errors = directory.read()?;
        if !errors.is_empty() {
            return Err(errors.into_iter().map(Finding::from).collect());
        }
        publisher.publish(desired_state(directory.objects(), &rules), begun);
        publisher.in_touch();
        Ok(Self {
            path: path.to_owned(),
            rules,
            publisher,
            opened: Mutex::new(Some((follow, directory))),
        })
    }

    async fn keep_up(&self) -> anyhow::Error {
        let opened = self.opened.lock().await.take();
        let is_first = opened.is_some();
        let (mut follow, mut directory) = match opened {
            Some(opened) => opened,
            None => match Follow::start(&self.path) {
                Ok(follow) => (follow, Directory::new(&self.path)),
                Err(error) => return error.into(),
            },
        };
        // What an earlier call knew of files that are broken now is gone with it: until all can be read, that state stays.
        let mut is_whole = is_first;
        if is_first {
            follow.changed().await;
        }
        loop {
            let noticed = Instant::now();
            // A big cluster's dump takes its time to parse.
            let reading = tokio::task::spawn_blocking(move || {
                let result = directory.read();
                (directory, result)
            });
            let result;
            (directory, result) = match reading.await {
                Ok(read) => read,
                Err(error) => return anyhow::Error::new(error).context("reading manifests"),
            };
            match result {
                Ok(errors) => {
                    for error in &errors {
                        warn!("{error}; what this file said before stays in force");
                    }
                    match errors.first() {
                        Some(error) => {
                            self.publisher.lost(error.to_string());
                        }
                        None => self.publisher.in_touch(),
                    }
                    is_whole |= errors.is_empty();
                    if is_whole {
                        let state = desired_state(directory.objects(), &self.rules);
                        self.publisher.publish(state, noticed);
                    }
                }
                Err(error) => {
                    warn!("{error}; the last good state stays in force");
                    self.publisher.lost(error.to_string());
                }
            }
            follow.changed().await;
        }
    }
}

impl Source for Manifests {
    fn follow(&self) -> BoxFuture<'_, anyhow::Error> {
        Box::pin(self.keep_up())
    }
}

#[cfg(test)]
mod tests;
