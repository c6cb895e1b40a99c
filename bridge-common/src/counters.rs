//! What is counted of packets: what was done with them, and the reasons of drops.
//!
//! The place of a count in the `counters` table outlives the program: a new one takes the next free place.

use crate::abi::capacity;
use crate::drops::DropReason;

macro_rules! counts {
    ($($count:ident = $index:literal $name:literal: $meaning:literal,)+) => {
        /// One of the counters. What XDP forwards is counted apart; commands and metrics add it to the count for both.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Count {
            $(
                #[doc = $meaning]
                $count,
            )+
            /// Dropped, for this reason.
            Drop(DropReason),
        }

        impl Count {
            /// What is not a drop, in the order in which it is shown.
            pub const TRAFFIC: &[Self] = &[$(Self::$count),+];

            /// The index in the `counters` table.
            #[must_use]
            #[inline]
            pub const fn index(self) -> u32 {
                match self {
                    $(Self::$count => $index,)+
                    Self::Drop(reason) => Self::FIRST_DROP + reason as u32,
                }
            }

            /// The name that commands and metrics show.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$count => $name,)+
                    Self::Drop(reason) => reason.name(),
                }
            }

            /// What is counted, in a sentence.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$count => $meaning,)+
                    Self::Drop(reason) => reason.meaning(),
                }
            }
        }
    };
}

counts! {
    ToBackend = 0 "to-backend": "Forwarded from a client to a backend.",
    ToClient = 1 "to-client": "Forwarded from a backend to a client.",
    XdpToBackend = 6 "xdp-to-backend": "Forwarded from a client to a backend by XDP.",
    XdpToClient = 7 "xdp-to-client": "Forwarded from a backend to a client by XDP.",
    FlowOpened = 2 "flow-opened": "Flows opened.",
    Answered = 3 "answered": "Answered by the bridge itself: ICMP errors, resets, echo replies.",
    AnswerSuppressed = 4 "answer-suppressed": "Answers that the rate limit held back.",
    FlowAdopted = 8 "flow-adopted": "Flows opened for TCP connections that were under way: the tables had lost or never known them.",
    FragmentHeld = 9 "fragment-held": "Fragments held back until the first of their datagram comes.",
    FragmentReleased = 10 "fragment-released": "Fragments that were held back and went on behind their first.",
    PingAnswered = 5 "ping-answered": "Pings to a service address, answered by the bridge.",
}

impl Count {
    /// The place of the first drop reason: room for as many counts of traffic.
    const FIRST_DROP: u32 = 16;
}

const _: () = assert!(Count::FIRST_DROP as usize + DropReason::ALL.len() <= capacity::COUNTERS);

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::vec::Vec;

    #[test]
    fn places_in_the_table_stay() {
        let traffic: Vec<(u32, &str)> = Count::TRAFFIC
            .iter()
            .map(|count| (count.index(), count.name()))
            .collect();
        assert_eq!(
            traffic,
            [
                (0, "to-backend"),
                (1, "to-client"),
                (6, "xdp-to-backend"),
                (7, "xdp-to-client"),
                (2, "flow-opened"),
                (3, "answered"),
                (4, "answer-suppressed"),
                (8, "flow-adopted"),
                (9, "fragment-held"),
                (10, "fragment-released"),
                (5, "ping-answered"),
            ]
        );
        assert_eq!(Count::Drop(DropReason::TtlExceeded).index(), 16);
    }

    #[test]
    fn every_counter_has_its_own_index_and_name() {
        let all: Vec<Count> = Count::TRAFFIC
            .iter()
            .copied()
            .chain(DropReason::ALL.iter().map(|&reason| Count::Drop(reason)))
            .collect();
        let indices: BTreeSet<u32> = all.iter().map(|count| count.index()).collect();
        let names: BTreeSet<&str> = all.iter().map(|count| count.name()).collect();
        assert_eq!(indices.len(), all.len());
        assert_eq!(names.len(), all.len());
        assert!(
            indices
                .iter()
                .all(|&index| (index as usize) < capacity::COUNTERS)
        );
    }
}
