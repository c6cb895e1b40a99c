//! Waiting for what has to come.

use std::time::{Duration, Instant};

/// Waits until `condition` holds and tells how long that took.
///
/// # Panics
///
/// If it does not within `limit`.
#[track_caller]
pub fn eventually(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    start.elapsed()
}
