//! How a source hands on what it knows: the desired state, and how well it is in touch with the cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;

use super::DesiredState;

/// A new desired state.
#[derive(Debug)]
pub struct Update {
    state: Arc<DesiredState>,
    received: Instant,
    is_taken: AtomicBool,
}

impl Update {
    /// The state, and when the first change in it that nobody has taken so far came in.
    #[must_use]
    pub fn take(&self) -> (Arc<DesiredState>, Instant) {
        self.is_taken.store(true, Ordering::Release);
        (Arc::clone(&self.state), self.received)
    }

    /// The state.
    #[must_use]
    pub fn state(&self) -> &DesiredState {
        &self.state
    }
}

/// How well a source is in touch with what it follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceStatus {
    /// Whether everything was read once since this process began.
    pub synced: bool,
    /// Whether changes come in.
    pub connected: bool,
    /// When the source was known to be up to date for the last time; before the first time, when it began to try.
    pub last_contact: SystemTime,
    /// Why changes don't come in, or the last time didn't.
    pub last_error: Option<String>,
}

impl SourceStatus {
    /// How long changes may have gone unnoticed.
    #[must_use]
    pub fn stale(&self) -> Duration {
        if self.connected {
            Duration::ZERO
        } else {
            self.last_contact.elapsed().unwrap_or_default()
        }
    }
}

/// What comes from a source. Clones get the same.
#[derive(Debug, Clone)]
pub struct Feed {
    /// The desired state; none until the source has read everything once.
    pub desired: watch::Receiver<Option<Update>>,
    /// Notifies when it changes whether changes come in, or why they don't.
    pub connection: watch::Receiver<SourceStatus>,
}

/// The source's end of a [`Feed`].
#[derive(Debug)]
pub(crate) struct Publisher {
    desired: watch::Sender<Option<Update>>,
    connection: watch::Sender<SourceStatus>,
}

pub(crate) fn channel() -> (Publisher, Feed) {
    let (desired, desired_receiver) = watch::channel(None);
    let (connection, connection_receiver) = watch::channel(SourceStatus {
        synced: false,
        connected: false,
        last_contact: SystemTime::now(),
        last_error: None,
    });
    let publisher = Publisher {
        desired,
        connection,
    };
    let feed = Feed {
        desired: desired_receiver,
        connection: connection_receiver,
    };
    (publisher, feed)
}

impl Publisher {
    /// Hands on a state if it differs from the last one. `received` is when its first change came in.
    pub(crate) fn publish(&self, state: DesiredState, received: Instant) {
        self.desired.send_if_modified(|current| {
            let pending = match current {
                Some(current) if *current.state == state => return false,
                Some(current) if !current.is_taken.load(Ordering::Acquire) => {
                    Some(current.received)
                }
                _ => None,
            };
            *current = Some(Update {
                state: Arc::new(state),
                received: pending.map_or(received, |pending| pending.min(received)),
                is_taken: AtomicBool::new(false),
            });
            true
        });
    }

    /// The source is up to date at this moment, and changes come in.
    pub(crate) fn in_touch(&self) {
        self.connection.send_if_modified(|connection| {
            let changed = !(connection.synced && connection.connected);
            connection.synced = true;
            connection.connected = true;
            connection.last_contact = SystemTime::now();
            connection.last_error = None;
            changed
        });
    }

    /// Changes don't come in; says whether that is news.
    pub(crate) fn lost(&self, error: String) -> bool {
        self.connection.send_if_modified(|connection| {
            let changed =
                connection.connected || connection.last_error.as_deref() != Some(error.as_str());
            connection.connected = false;
            connection.last_error = Some(error);
            changed
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(problem: &str) -> DesiredState {
        DesiredState {
            problems: vec![crate::model::Problem::new(
                crate::model::Subject::Cluster,
                problem,
                "",
            )],
            ..DesiredState::default()
        }
    }

    #[test]
    fn a_change_that_nobody_took_keeps_its_time_when_another_one_follows() {
        let (publisher, feed) = channel();
        let begun = Instant::now();
        let at = |milliseconds| begun + Duration::from_millis(milliseconds);
        let take = || feed.desired.borrow().as_ref().unwrap().take().1;
        publisher.publish(state("a"), at(1));
        publisher.publish(state("b"), at(2));
        assert_eq!(take(), at(1));
        publisher.publish(state("c"), at(3));
        assert_eq!(take(), at(3));
    }

    #[test]
    fn the_same_state_again_is_no_news() {
        let (publisher, mut feed) = channel();
        publisher.publish(state("a"), Instant::now());
        assert!(feed.desired.has_changed().unwrap());
        feed.desired.mark_unchanged();
        publisher.publish(state("a"), Instant::now());
        assert!(!feed.desired.has_changed().unwrap());
    }

    #[test]
    fn staleness_counts_from_the_last_moment_in_touch() {
        let (publisher, feed) = channel();
        publisher.in_touch();
        assert_eq!(feed.connection.borrow().stale(), Duration::ZERO);
        assert!(publisher.lost("gone".to_owned()));
        assert!(!publisher.lost("gone".to_owned()));
        std::thread::sleep(Duration::from_millis(20));
        let connection = feed.connection.borrow().clone();
        assert!(connection.stale() >= Duration::from_millis(20));
        assert!(connection.synced && !connection.connected);
    }
}
