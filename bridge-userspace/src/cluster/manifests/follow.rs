//! Says when a directory has changed, through inotify.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use inotify::{EventMask, EventStream, Inotify, WatchMask};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::warn;

use super::error::ManifestError;

/// Quiet time after which a series of changes counts as complete.
const DEBOUNCE: Duration = Duration::from_millis(150);
/// Longest time that further changes can put off the reading of earlier ones.
const MAX_DELAY: Duration = Duration::from_secs(1);
/// Time between attempts to follow a directory that is gone.
const RETRY: Duration = Duration::from_secs(1);

/// Room for a handful of events; what doesn't fit is read next.
type Buffer = [u8; 4096];

pub(super) struct Follow {
    path: PathBuf,
    events: Option<EventStream<Buffer>>,
}

impl Follow {
    pub(super) fn start(path: &Path) -> Result<Self, ManifestError> {
        let events = open(path).map_err(|error| ManifestError::Read {
            path: path.to_owned(),
            error,
        })?;
        Ok(Self {
            path: path.to_owned(),
            events: Some(events),
        })
    }

    /// Waits until something in the directory has changed and it has been quiet since.
    pub(super) async fn changed(&mut self) {
        loop {
            if let Some(events) = &mut self.events {
                if wait_for_changes(events).await == Outcome::DirectoryGone {
                    self.events = None;
                }
                return;
            }
            match open(&self.path) {
                Ok(events) => {
                    self.events = Some(events);
                    return;
                }
                Err(_) => sleep(RETRY).await,
            }
        }
    }
}

/// Half-written files announce themselves only when they are closed. New links count at once: a
/// mounted `ConfigMap` is replaced by renaming a symbolic link.
fn open(path: &Path) -> io::Result<EventStream<Buffer>> {
    let inotify = Inotify::init()?;
    inotify.watches().add(
        path,
        WatchMask::CLOSE_WRITE
            | WatchMask::CREATE
            | WatchMask::DELETE
            | WatchMask::MOVE
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR,
    )?;
    inotify.into_event_stream([0; 4096])
}

#[derive(PartialEq)]
enum Outcome {
    Changed,
    DirectoryGone,
}

async fn wait_for_changes(events: &mut EventStream<Buffer>) -> Outcome {
    let mut outcome = note(events.next().await);
    let deadline = Instant::now() + MAX_DELAY;
    while outcome == Outcome::Changed {
        let quiet = timeout(DEBOUNCE, events.next());
        match timeout_at(deadline, quiet).await {
            Ok(Ok(event)) => outcome = note(event),
            Ok(Err(_)) | Err(_) => break,
        }
    }
    outcome
}

fn note<S>(event: Option<io::Result<inotify::Event<S>>>) -> Outcome {
    match event {
        Some(Ok(event)) => {
            let gone = EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::IGNORED;
            if event.mask.intersects(gone) {
                Outcome::DirectoryGone
            } else {
                Outcome::Changed
            }
        }
        Some(Err(error)) => {
            warn!("following the manifests has failed and starts anew: {error}");
            Outcome::DirectoryGone
        }
        None => Outcome::DirectoryGone,
    }
}
