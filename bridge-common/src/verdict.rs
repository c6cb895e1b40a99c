//! What becomes of a packet, and the one list of reasons for which it goes no further.

use crate::answer::Answer;

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not ours, or nothing that we understand: the kernel gets it untouched.
    Pass,
    /// Translated: out of this interface, to the neighbour that the kernel's route names.
    Forward {
        /// Egress interface.
        ifindex: u32,
    },
    /// Turned into an answer: back where it came from, link-layer addresses swapped.
    Bounce,
    /// Goes no further, silently.
    Drop(DropReason),
    /// Is for us to answer.
    Answer(Answer),
    /// Goes no further, and its sender is to be told.
    Reject(DropReason, Answer),
}

macro_rules! drop_reasons {
    ($($(#[$doc:meta])+ $reason:ident = $name:literal,)+) => {
        /// Why a packet goes no further. Counters, logs and commands use these words.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum DropReason {
            $($(#[$doc])+ $reason,)+
        }

        impl DropReason {
            /// Every reason, in the order of the counters.
            pub const ALL: &[Self] = &[$(Self::$reason),+];

            /// The name that commands and metrics show.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$reason => $name,)+
                }
            }
        }
    };
}

drop_reasons! {
    /// The TTL ran out here; answered with ICMP time exceeded.
    TtlExceeded = "ttl-exceeded",
    /// Larger than the egress MTU; answered with ICMP fragmentation needed.
    TooBig = "too-big",
    /// No service has this address and port; answered with ICMP port unreachable or a TCP reset.
    NoService = "no-service",
    /// The service has no ready backend; answered like [`Self::NoService`].
    NoBackend = "no-backend",
    /// The kernel has no route to the backend or back to the client.
    NoRoute = "no-route",
    /// The backend is an address of this node itself.
    LocalBackend = "local-backend",
    /// TCP in the middle of a connection that the tables do not know; answered with a reset.
    NoFlow = "no-flow",
    /// Every NAT port tried towards this backend is taken; answered with ICMP type 3 code 13.
    NoNatPort = "no-nat-port",
    /// The flow tables are full; answered with ICMP type 3 code 13.
    TableFull = "table-full",
    /// A later fragment whose first one was not seen.
    FragmentUnknown = "fragment-unknown",
    /// A protocol that cannot be translated, addressed to a service.
    UnsupportedProtocol = "unsupported-protocol",
    /// An ICMP error about a packet of ours that is too short or malformed to translate.
    IcmpMalformed = "icmp-malformed",
    /// The packet could not be written to, half-way through.
    RewriteFailed = "rewrite-failed",
}

/// One of the counters: what was done with packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Forwarded from a client to a backend.
    ToBackend,
    /// Forwarded from a backend to a client.
    ToClient,
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

    /// Entries of the `counters` table.
    pub const TABLE_SIZE: usize = Self::FIRST_DROP as usize + 48;

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
            Self::Drop(reason) => Self::FIRST_DROP + reason as u32,
        }
    }

    /// What is not a drop, in the order of the table.
    pub const TRAFFIC: &[Self] = &[
        Self::ToBackend,
        Self::ToClient,
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
            Self::FlowOpened => "flow-opened",
            Self::Answered => "answered",
            Self::AnswerSuppressed => "answer-suppressed",
            Self::PingAnswered => "ping-answered",
            Self::Drop(reason) => reason.name(),
        }
    }
}

const _: () = assert!(DropReason::ALL.len() <= Count::TABLE_SIZE - Count::FIRST_DROP as usize);

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
                .all(|&index| (index as usize) < Count::TABLE_SIZE)
        );
    }
}
