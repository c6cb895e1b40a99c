//! How often a place is taken back from others: two programs that both insist on it would else fight for ever.

use std::time::{Duration, Instant};

/// How often in a row a place is taken back at once.
const TRIES: u32 = 3;
/// How long is waited then before the next try; and after how long without one it is no fight any more.
const PAUSE: Duration = Duration::from_mins(5);

/// The contest for one place.
#[derive(Clone, Copy, Debug, Default)]
pub struct Contest {
    tries: u32,
    last: Option<Instant>,
}

impl Contest {
    /// Whether the place may be taken back now. If so that counts as a try.
    pub fn may_try(&mut self, now: Instant) -> bool {
        let is_over = self
            .last
            .is_some_and(|last| now.duration_since(last) >= PAUSE);
        if is_over && self.tries < TRIES {
            self.tries = 0;
        }
        if self.tries >= TRIES && !is_over {
            return false;
        }
        self.tries = (self.tries + 1).min(TRIES);
        self.last = Some(now);
        true
    }

    /// Whether a place that is ours has been for so long that there is no contest any more.
    pub fn is_won(&self, now: Instant) -> bool {
        self.last
            .is_none_or(|last| now.duration_since(last) >= PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_taken_back_some_times_and_then_seldom() {
        let start = Instant::now();
        let mut contest = Contest::default();
        let tries = (0..3600)
            .filter(|&second| contest.may_try(start + Duration::from_secs(second)))
            .collect::<Vec<_>>();
        assert_eq!(tries[..5], [0, 1, 2, 302, 602]);
        assert_eq!(tries.len(), 14);
    }

    #[test]
    fn a_place_that_is_lost_once_in_a_while_is_taken_back_at_once() {
        let mut now = Instant::now();
        let mut contest = Contest::default();
        for _ in 0..100 {
            assert!(contest.may_try(now));
            now += PAUSE;
        }
    }

    #[test]
    fn a_place_is_won_when_nobody_has_taken_it_for_long() {
        let start = Instant::now();
        let mut contest = Contest::default();
        assert!(contest.is_won(start));
        assert!(contest.may_try(start));
        assert!(!contest.is_won(start + PAUSE / 2));
        assert!(contest.is_won(start + PAUSE));
    }
}
