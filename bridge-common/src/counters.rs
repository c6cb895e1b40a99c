//! What is counted of packets.

use crate::abi::capacity;
use crate::drops::DropReason;

/// One of the counters: what was done with packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Forwarded from a client to a backend.
    ToBackend,
    /// Forwarded from a backend to a client.
    ToClient,
    /// Forwarded from a client to a backend by XDP; not among [`Self::ToBackend`].
    XdpToBackend,
    /// Forwarded from a backend to a client by XDP; not among [`Self::ToClient`].
    XdpToClient,
    /// Flows opened.
    FlowOpened,
    /// Answers sent: ICMP errors, resets, echo replies.
    Answered,
    /// Answers that the rate limit held back.
    AnswerSuppressed,
    /// Pings to a service address that were answered here.
    PingAnswered,
    /// Dropped, for this reason.
    Drop(DropReason),
}

impl Count {
    const FIRST_DROP: u32 = 16;

    /// The index in the `counters` table.
    #[must_use]
    #[inline]
    pub const fn index(self) -> u32 {
        match self {
            Self::ToBackend => 0,
            Self::ToClient => 1,
            Self::FlowOpened => 2,
            Self::Answered => 3,
            Self::AnswerSuppressed => 4,
            Self::PingAnswered => 5,
            Self::XdpToBackend => 6,
            Self::XdpToClient => 7,
            Self::Drop(reason) => Self::FIRST_DROP + reason as u32,
        }
    }

    /// What is not a drop, in the order of the table.
    pub const TRAFFIC: &[Self] = &[
        Self::ToBackend,
        Self::ToClient,
        Self::XdpToBackend,
        Self::XdpToClient,
        Self::FlowOpened,
        Self::Answered,
        Self::AnswerSuppressed,
        Self::PingAnswered,
    ];

    /// The name that commands and metrics show.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ToBackend => "to-backend",
            Self::ToClient => "to-client",
            Self::XdpToBackend => "xdp-to-backend",
            Self::XdpToClient => "xdp-to-client",
            Self::FlowOpened => "flow-opened",
            Self::Answered => "answered",
            Self::AnswerSuppressed => "answer-suppressed",
            Self::PingAnswered => "ping-answered",
            Self::Drop(reason) => reason.name(),
        }
    }
}

const _: () = assert!(Count::FIRST_DROP as usize + DropReason::ALL.len() <= capacity::COUNTERS);

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::vec::Vec;

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
