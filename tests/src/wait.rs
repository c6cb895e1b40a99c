//! Waiting for a condition, with a limit.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long the bridge may take to follow a change on the node: some ten milliseconds, on a busy machine more.
pub const FOLLOWS: Duration = Duration::from_secs(5);
/// How long what the bridge does periodically may take: garbage collection and the check of its attachments come
/// every 10 s.
pub const PERIODIC: Duration = Duration::from_secs(15);

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
        pause(start);
    }
    start.elapsed()
}

/// Sleeps before the next look at something that is waited for since `start`: the longer that has taken, the longer
/// the pause, as most looks start a program, which costs other tests their time on a CPU.
pub(crate) fn pause(start: Instant) {
    const SHORTEST: Duration = Duration::from_millis(5);
    const LONGEST: Duration = Duration::from_millis(100);
    sleep((start.elapsed() / 10).clamp(SHORTEST, LONGEST));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_in_time_is_waited_for() {
        let mut looks = 0;
        let taken = eventually(FOLLOWS, "the third look", || {
            looks += 1;
            looks == 3
        });
        assert!(taken >= Duration::from_millis(10), "{taken:?}");
    }

    #[test]
    #[should_panic(expected = "never: not within 20ms")]
    fn what_does_not_come_fails_the_test() {
        eventually(Duration::from_millis(20), "never", || false);
    }
}
