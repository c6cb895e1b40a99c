//! The numbers of entries that other entries refer to, in an array.
//!
//! Programs read an entry while it is written, so one in use is never changed: other contents get another number. A
//! number that was retired may still be in a packet's hands, or cached in a flow, for a while: it stays in quarantine.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::{Duration, Instant};

/// Longer than any packet is on its way through the programs.
const QUARANTINE: Duration = Duration::from_secs(1);

/// Gives entries of an array their numbers. Number 0 stands for none.
#[derive(Debug)]
pub(super) struct NumberAllocator<V> {
    known: BTreeMap<V, u16>,
    taken: BTreeSet<u16>,
    /// Numbers that were not looked at yet.
    rest: Range<u16>,
}

/// The number for an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Allocation {
    /// The entry is there.
    Known(u16),
    /// The entry is to be written.
    New(u16),
    /// There is no number left.
    Exhausted,
}

impl<V: Copy + Ord> NumberAllocator<V> {
    /// For an array of `capacity` entries, of which those in `entries` are not empty and those with numbers in `in_use`
    /// are referred to.
    pub(super) fn new(
        capacity: usize,
        entries: impl Iterator<Item = (u16, V)> + Clone,
        in_use: &BTreeSet<u16>,
    ) -> Self {
        let mut known = BTreeMap::new();
        let (used, retired): (Vec<_>, Vec<_>) = entries
            .clone()
            .partition(|(number, _)| in_use.contains(number));
        // A retired entry with the contents that are asked for is as good as a new one.
        for (number, value) in used.into_iter().chain(retired) {
            known.entry(value).or_insert(number);
        }
        Self {
            known,
            taken: entries.map(|(number, _)| number).collect(),
            rest: 1..u16::try_from(capacity).unwrap_or(u16::MAX),
        }
    }

    /// The number for these contents, the lowest that is free if they are new.
    pub(super) fn allocate(&mut self, value: V) -> Allocation {
        if let Some(&number) = self.known.get(&value) {
            return Allocation::Known(number);
        }
        let taken = &self.taken;
        match self.rest.find(|number| !taken.contains(number)) {
            Some(number) => {
                self.known.insert(value, number);
                Allocation::New(number)
            }
            None => Allocation::Exhausted,
        }
    }
}

/// Retired numbers of an array.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Quarantine {
    /// Since when no flow has the number cached.
    since: BTreeMap<u16, Instant>,
}

impl Quarantine {
    /// Notes that from `now` on no flow has one of these numbers cached.
    pub(super) fn start(&mut self, retired: impl IntoIterator<Item = u16>, now: Instant) {
        for number in retired {
            self.since.entry(number).or_insert(now);
        }
    }

    /// Notes that a number is referred to again, or that its entry is empty.
    pub(super) fn end(&mut self, number: u16) {
        self.since.remove(&number);
    }

    /// Numbers that nobody can have any more at `now`: they may be reclaimed.
    pub(super) fn reclaimable(&self, now: Instant) -> BTreeSet<u16> {
        let is_over = |since: &Instant| now.saturating_duration_since(*since) >= QUARANTINE;
        self.since
            .iter()
            .filter(|(_, since)| is_over(since))
            .map(|(number, _)| *number)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocator(entries: &[(u16, char)], in_use: &[u16]) -> NumberAllocator<char> {
        let in_use = in_use.iter().copied().collect();
        NumberAllocator::new(9, entries.iter().copied(), &in_use)
    }

    #[test]
    fn new_contents_get_the_lowest_free_numbers_and_known_ones_keep_theirs() {
        let mut allocator = allocator(&[(1, 'a'), (3, 'b')], &[1, 3]);
        assert_eq!(allocator.allocate('c'), Allocation::New(2));
        assert_eq!(allocator.allocate('b'), Allocation::Known(3));
        assert_eq!(allocator.allocate('d'), Allocation::New(4));
        assert_eq!(allocator.allocate('c'), Allocation::Known(2));
    }

    #[test]
    fn a_retired_number_is_given_to_the_same_contents_only() {
        let mut allocator = allocator(&[(1, 'a')], &[]);
        assert_eq!(allocator.allocate('b'), Allocation::New(2));
        assert_eq!(allocator.allocate('a'), Allocation::Known(1));
    }

    #[test]
    fn of_two_entries_with_the_same_contents_the_one_in_use_counts() {
        assert_eq!(
            allocator(&[(1, 'a'), (2, 'a')], &[2]).allocate('a'),
            Allocation::Known(2)
        );
    }

    #[test]
    fn a_full_array_gives_no_number() {
        let mut allocator = allocator(&[(4, 'a'), (8, 'b')], &[4]);
        let new = ('c'..='h').map(|value| allocator.allocate(value));
        assert_eq!(
            new.collect::<Vec<_>>(),
            [1, 2, 3, 5, 6, 7].map(Allocation::New)
        );
        assert_eq!(allocator.allocate('i'), Allocation::Exhausted);
        assert_eq!(allocator.allocate('b'), Allocation::Known(8));
    }

    #[test]
    fn a_number_may_be_reclaimed_a_second_after_flows_forgot_it_and_not_before() {
        let start = Instant::now();
        let after = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut quarantine = Quarantine::default();
        quarantine.start([1, 2], start);
        // A later epoch does not begin the wait anew.
        quarantine.start([1, 2, 3], after(500));
        assert!(quarantine.reclaimable(after(999)).is_empty());
        assert_eq!(quarantine.reclaimable(after(1_000)), [1, 2].into());
        quarantine.end(2);
        assert_eq!(quarantine.reclaimable(after(60_000)), [1, 3].into());
    }
}
