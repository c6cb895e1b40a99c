//! What has gone on of a datagram in fragments, so that nothing goes on twice: what overlaps is there to have the receiver
//! read something else than whoever looked at it on the way (RFC 1858 section 4, RFC 5722).
//!
//! Parts that touch become one, so that a datagram in order takes one entry, and one in any order half as many as it has
//! fragments at most. Where even that is too much, a part goes on without being noted. Several CPUs may write at the same
//! time: then a part may be lost. Where the first fragment ends never is.

use crate::abi::{FragmentParts, Part};

/// What came of noting a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// It may go on.
    Noted,
    /// It may go on, and was the last one missing.
    Completes,
    /// It brings what another one has brought, or goes beyond the datagram's end.
    Overlaps,
}

/// Notes a part other than the first. `is_last` says that the datagram ends with it.
#[inline(always)]
pub fn add(parts: &mut FragmentParts, part: Part, is_last: bool) -> Added {
    let ends_elsewhere =
        parts.end != 0 && (part.end > parts.end || (is_last && part.end != parts.end));
    if ends_elsewhere || part.start < parts.first_end {
        return Added::Overlaps;
    }
    for other in &parts.parts {
        let overlaps = other.start < part.end && part.start < other.end;
        let is_beyond = is_last && other.end > part.end;
        if !other.is_empty() && (overlaps || is_beyond) {
            return Added::Overlaps;
        }
    }
    if is_last {
        parts.end = part.end;
    }
    let mut merged = part;
    for other in &mut parts.parts {
        if other.is_empty() {
            continue;
        }
        if other.end == merged.start {
            merged.start = other.start;
            *other = Part::default();
        } else if other.start == merged.end {
            merged.end = other.end;
            *other = Part::default();
        }
    }
    for other in &mut parts.parts {
        if other.is_empty() {
            *other = merged;
            break;
        }
    }
    if parts.end != 0 && merged.start == 0 && merged.end == parts.end {
        Added::Completes
    } else {
        Added::Noted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn first(end: u16) -> FragmentParts {
        let mut parts = FragmentParts {
            first_end: end,
            ..FragmentParts::default()
        };
        parts.parts[0] = Part { start: 0, end };
        parts
    }

    fn noted(parts: &FragmentParts) -> Vec<Part> {
        let all = parts.parts.iter().copied();
        all.filter(|part| !part.is_empty()).collect()
    }

    const fn part(start: u16, end: u16) -> Part {
        Part { start, end }
    }

    #[test]
    fn a_datagram_is_complete_with_its_last_part_in_any_order() {
        let rest = [part(10, 20), part(20, 30), part(30, 33)];
        for order in [
            [0, 1, 2],
            [0, 2, 1],
            [1, 0, 2],
            [1, 2, 0],
            [2, 0, 1],
            [2, 1, 0],
        ] {
            let mut parts = first(10);
            for (count, index) in (1..).zip(order) {
                let added = add(&mut parts, rest[index], index == 2);
                let expected = if count == 3 {
                    Added::Completes
                } else {
                    Added::Noted
                };
                assert_eq!(added, expected, "{order:?}, {count}");
            }
            assert_eq!(noted(&parts), [part(0, 33)]);
        }
    }

    #[test]
    fn what_another_part_has_brought_overlaps() {
        for again in [
            part(1, 2),
            part(9, 11),
            part(20, 30),
            part(19, 21),
            part(22, 23),
            part(15, 40),
            part(29, 31),
        ] {
            let mut parts = first(10);
            assert_eq!(add(&mut parts, part(20, 30), false), Added::Noted);
            let before = parts;
            assert_eq!(add(&mut parts, again, false), Added::Overlaps, "{again:?}");
            assert_eq!(parts, before);
            assert_eq!(add(&mut parts, part(10, 20), false), Added::Noted);
        }
    }

    #[test]
    fn nothing_goes_beyond_the_end() {
        let mut parts = first(10);
        assert_eq!(add(&mut parts, part(20, 30), true), Added::Noted);
        assert_eq!(add(&mut parts, part(30, 31), false), Added::Overlaps);
        assert_eq!(add(&mut parts, part(31, 32), true), Added::Overlaps);
        // Nor does it end before what it has.
        assert_eq!(add(&mut parts, part(10, 11), true), Added::Overlaps);
        assert_eq!(add(&mut parts, part(10, 20), false), Added::Completes);
    }

    #[test]
    fn the_end_can_not_be_before_what_has_gone_on() {
        let mut parts = first(10);
        assert_eq!(add(&mut parts, part(20, 30), false), Added::Noted);
        assert_eq!(add(&mut parts, part(10, 15), true), Added::Overlaps);
        assert_eq!(parts.end, 0);
    }

    #[test]
    fn the_first_is_never_overlapped_whatever_is_lost() {
        let mut parts = first(10);
        parts.parts[0] = Part::default();
        assert_eq!(add(&mut parts, part(9, 12), false), Added::Overlaps);
    }

    #[test]
    fn more_islands_than_there_is_room_for_go_on_without_being_noted() {
        let mut parts = first(1);
        for island in 1..40 {
            let start = island * 10;
            let added = add(&mut parts, part(start, start + 1), false);
            assert_eq!(added, Added::Noted);
        }
        assert_eq!(noted(&parts).len(), parts.parts.len());
        assert_eq!(add(&mut parts, part(10, 11), false), Added::Overlaps);
    }

    #[test]
    fn sixteen_fragments_are_noted_in_any_order() {
        const UNITS: u16 = 185;
        const COUNT: u16 = 16;
        let mut state = 1_u32;
        let mut next = move |below: usize| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as usize % below
        };
        let every_other = (1..COUNT).step_by(2).chain((2..COUNT).step_by(2));
        let mut order: Vec<u16> = every_other.collect();
        for _ in 0..1_000 {
            let mut parts = first(UNITS);
            let mut last = Added::Noted;
            for &piece in &order {
                let span = part(piece * UNITS, (piece + 1) * UNITS);
                last = add(&mut parts, span, piece == COUNT - 1);
                assert_ne!(last, Added::Overlaps, "{order:?}");
            }
            assert_eq!(last, Added::Completes, "{order:?}");
            for index in (1..order.len()).rev() {
                order.swap(index, next(index + 1));
            }
        }
    }
}
