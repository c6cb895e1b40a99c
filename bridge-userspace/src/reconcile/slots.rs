//! The numbers of entries that other entries refer to, in an array.
//!
//! Programs read an entry while it is written, so one in use is never changed: other contents get another number. A
//! number that was given up may still be in a packet's hands, or cached in a flow, for a while.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How long a packet may be on its way through the programs, generously.
const REST: Duration = Duration::from_secs(1);

/// Which contents have which number. Number 0 stands for none.
#[derive(Debug)]
pub(super) struct Slots<V> {
    used: BTreeMap<V, u16>,
    /// Numbers whose entries are empty.
    free: BTreeSet<u16>,
    given_up: BTreeMap<V, GivenUp>,
}

#[derive(Clone, Copy, Debug)]
struct GivenUp {
    number: u16,
    /// Since when no flow has it cached any more, once that is so.
    unused_since: Option<Instant>,
}

/// What to do about a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Number {
    /// Its entry is there.
    Known(u16),
    /// Its entry is to be written, and then to be [taken](Slots::take).
    New(u16),
    /// There is none left.
    None,
}

impl<V: Copy + Ord> Slots<V> {
    /// For the entries of a table that holds `capacity`, of which those with `in_use` numbers are referred to.
    pub(super) fn new(
        capacity: usize,
        entries: impl IntoIterator<Item = (u16, V)>,
        in_use: &BTreeSet<u16>,
    ) -> Self {
        let end = u16::try_from(capacity).unwrap_or(u16::MAX);
        let mut this = Self {
            used: BTreeMap::new(),
            free: (1..end).collect(),
            given_up: BTreeMap::new(),
        };
        for (number, value) in entries {
            if !this.free.remove(&number) {
                continue;
            }
            if in_use.contains(&number) {
                this.used.entry(value).or_insert(number);
            } else {
                let given_up = GivenUp {
                    number,
                    unused_since: None,
                };
                this.given_up.entry(value).or_insert(given_up);
            }
        }
        this
    }

    /// The number for these contents.
    pub(super) fn number(&mut self, value: V) -> Number {
        if let Some(&number) = self.used.get(&value) {
            return Number::Known(number);
        }
        // Its entry says the same as before, so nobody can be misled by it.
        if let Some(given_up) = self.given_up.remove(&value) {
            self.used.insert(value, given_up.number);
            return Number::Known(given_up.number);
        }
        self.free
            .first()
            .map_or(Number::None, |&number| Number::New(number))
    }

    /// Notes that the entry with this number has these contents now.
    pub(super) fn take(&mut self, value: V, number: u16) {
        self.free.remove(&number);
        self.used.insert(value, number);
    }

    /// Gives up all numbers but these.
    pub(super) fn keep(&mut self, wanted: &BTreeSet<u16>) {
        for (value, number) in self
            .used
            .extract_if(.., |_, number| !wanted.contains(number))
        {
            let given_up = GivenUp {
                number,
                unused_since: None,
            };
            self.given_up.insert(value, given_up);
        }
    }

    /// Whether a flow may have a number cached that was given up.
    pub(super) fn may_be_cached(&self) -> bool {
        self.given_up
            .values()
            .any(|given_up| given_up.unused_since.is_none())
    }

    /// Notes that what flows have cached by now counts no more.
    pub(super) fn caches_are_void(&mut self, now: Instant) {
        for given_up in self.given_up.values_mut() {
            given_up.unused_since.get_or_insert(now);
        }
    }

    /// Takes back numbers that nobody can have any more; their entries are to be emptied before the next call of
    /// [`Slots::number`].
    pub(super) fn take_back(&mut self, now: Instant) -> Vec<u16> {
        let rested = |given_up: &GivenUp| {
            given_up
                .unused_since
                .is_some_and(|since| now.duration_since(since) >= REST)
        };
        let numbers: Vec<u16> = self
            .given_up
            .extract_if(.., |_, given_up| rested(given_up))
            .map(|(_, given_up)| given_up.number)
            .collect();
        self.free.extend(&numbers);
        numbers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(slots: &mut Slots<char>, value: char) -> u16 {
        match slots.number(value) {
            Number::Known(number) => number,
            Number::New(number) => {
                slots.take(value, number);
                number
            }
            Number::None => 0,
        }
    }

    fn later(start: Instant, milliseconds: u64) -> Instant {
        start + Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_number_is_given_again_a_second_after_flows_forgot_it_and_not_before() {
        let start = Instant::now();
        let mut slots = Slots::new(3, [], &BTreeSet::new());
        assert_eq!((add(&mut slots, 'a'), add(&mut slots, 'b')), (1, 2));
        slots.keep(&BTreeSet::from([2]));
        assert!(slots.may_be_cached());
        assert!(slots.take_back(later(start, 60_000)).is_empty());
        assert_eq!(slots.number('c'), Number::None);
        slots.caches_are_void(start);
        assert!(!slots.may_be_cached());
        assert!(slots.take_back(later(start, 999)).is_empty());
        assert_eq!(slots.number('c'), Number::None);
        assert_eq!(slots.take_back(later(start, 1_000)), [1]);
        assert_eq!(slots.number('c'), Number::New(1));
    }

    #[test]
    fn contents_that_come_back_have_their_old_number() {
        let mut slots = Slots::new(9, [], &BTreeSet::new());
        assert_eq!((add(&mut slots, 'a'), add(&mut slots, 'b')), (1, 2));
        slots.keep(&BTreeSet::new());
        assert_eq!(slots.number('b'), Number::Known(2));
        assert_eq!(slots.number('c'), Number::New(3));
    }

    #[test]
    fn what_is_referred_to_keeps_its_number_after_a_restart_and_the_rest_is_not_reused_at_once() {
        let entries = [(4, 'a'), (7, 'b'), (9, 'c')];
        let mut slots = Slots::new(9, entries, &BTreeSet::from([4, 9]));
        assert_eq!(slots.number('a'), Number::Known(4));
        assert!(slots.may_be_cached());
        slots.caches_are_void(Instant::now());
        let numbers: Vec<u16> = ('d'..='z').map(|value| add(&mut slots, value)).collect();
        assert_eq!(numbers[..7], [1, 2, 3, 5, 6, 8, 0]);
    }

    #[test]
    fn a_number_that_was_not_written_is_offered_again() {
        let slots = &mut Slots::new(9, [], &BTreeSet::new());
        assert_eq!(slots.number('a'), Number::New(1));
        assert_eq!(slots.number('b'), Number::New(1));
    }
}
