//! What becomes of a packet, and the one list of reasons for which it goes no further.

use crate::answer::{Answer, AnswerKind};

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not ours, or nothing that we understand: the kernel gets it untouched.
    Pass,
    /// Untouched too, but ours: the stack path takes it where the kernel sends it out.
    ToStack,
    /// Translated: out of this interface, to the neighbour that the kernel's route names.
    Forward {
        /// Egress interface.
        ifindex: u32,
    },
    /// Translated in place: the kernel goes on with it.
    Continue,
    /// Turned into an answer: back where it came from, link-layer addresses swapped.
    Bounce,
    /// Goes no further, silently.
    Drop(DropReason),
    /// Is for us to answer.
    Answer(Answer),
    /// Goes no further, and its sender is to be told.
    Reject(DropReason, Answer),
    /// Takes a slower way first. Only parts of the engine say this to each other.
    Detour(Detour),
}

/// The slower ways through the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detour {
    /// A packet from a client without a flow.
    OpenFlow,
    /// A pod's own packet to the office.
    LeavesCluster,
    /// An ICMP error, which belongs to the flow of the packet that it quotes.
    IcmpError,
}

/// A verdict in one register: the way in which verdicts cross function calls in the kernel. Of an enum whose variants
/// differ in their fields the compiler leaves some bytes undefined, and the verifier refuses to see them copied.
///
/// From the lowest byte on: tag, drop reason, kind of answer, 0, and 32 bits of interface index or MTU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedVerdict(u64);

/// What a [`PackedVerdict`] is.
#[allow(
    missing_docs,
    reason = "each is the variant of Verdict or Detour that has its name"
)]
pub mod tag {
    pub const PASS: u8 = 0;
    pub const FORWARD: u8 = 1;
    pub const BOUNCE: u8 = 2;
    pub const DROP: u8 = 3;
    pub const ANSWER: u8 = 4;
    pub const REJECT: u8 = 5;
    pub const OPEN_FLOW: u8 = 6;
    pub const ICMP_ERROR: u8 = 7;
    pub const LEAVES_CLUSTER: u8 = 8;
    pub const CONTINUE: u8 = 9;
    pub const TO_STACK: u8 = 10;
}

impl PackedVerdict {
    /// [`Verdict::Pass`].
    pub const PASS: Self = Self::new(tag::PASS, 0, 0, 0);
    /// [`Verdict::ToStack`].
    pub const TO_STACK: Self = Self::new(tag::TO_STACK, 0, 0, 0);
    /// [`Verdict::Continue`].
    pub const CONTINUE: Self = Self::new(tag::CONTINUE, 0, 0, 0);
    /// [`Verdict::Bounce`].
    pub const BOUNCE: Self = Self::new(tag::BOUNCE, 0, 0, 0);

    #[inline(always)]
    const fn new(tag: u8, reason: u8, answer: u8, value: u32) -> Self {
        Self(tag as u64 | (reason as u64) << 8 | (answer as u64) << 16 | (value as u64) << 32)
    }

    /// [`Verdict::Drop`].
    #[must_use]
    #[inline(always)]
    pub const fn drop(reason: DropReason) -> Self {
        Self::new(tag::DROP, reason as u8, 0, 0)
    }

    /// One of [`tag`].
    #[must_use]
    #[inline(always)]
    pub const fn tag(self) -> u8 {
        self.0 as u8
    }

    /// The reason of a drop or rejection; the first one for everything else.
    #[must_use]
    #[inline(always)]
    pub const fn reason(self) -> Option<DropReason> {
        DropReason::from_number((self.0 >> 8) as u8)
    }

    /// The [`AnswerKind`] of an answer or rejection, as a number.
    #[must_use]
    #[inline(always)]
    pub const fn answer(self) -> u8 {
        (self.0 >> 16) as u8
    }

    /// The interface index to forward to, or the MTU that an answer tells.
    #[must_use]
    #[inline(always)]
    pub const fn value(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

impl From<Verdict> for PackedVerdict {
    #[inline(always)]
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Pass => Self::PASS,
            Verdict::Forward { ifindex } => Self::new(tag::FORWARD, 0, 0, ifindex),
            Verdict::ToStack => Self::TO_STACK,
            Verdict::Continue => Self::CONTINUE,
            Verdict::Bounce => Self::BOUNCE,
            Verdict::Drop(reason) => Self::drop(reason),
            Verdict::Answer(answer) => Self::new(tag::ANSWER, 0, answer.kind as u8, answer.mtu),
            Verdict::Reject(reason, answer) => {
                Self::new(tag::REJECT, reason as u8, answer.kind as u8, answer.mtu)
            }
            Verdict::Detour(Detour::OpenFlow) => Self::new(tag::OPEN_FLOW, 0, 0, 0),
            Verdict::Detour(Detour::IcmpError) => Self::new(tag::ICMP_ERROR, 0, 0, 0),
            Verdict::Detour(Detour::LeavesCluster) => Self::new(tag::LEAVES_CLUSTER, 0, 0, 0),
        }
    }
}

impl From<PackedVerdict> for Verdict {
    fn from(packed: PackedVerdict) -> Self {
        let value = packed.value();
        let answer =
            AnswerKind::from_number(packed.answer()).map(|kind| Answer { kind, mtu: value });
        match (packed.tag(), packed.reason(), answer) {
            (tag::FORWARD, ..) => Self::Forward { ifindex: value },
            (tag::TO_STACK, ..) => Self::ToStack,
            (tag::CONTINUE, ..) => Self::Continue,
            (tag::BOUNCE, ..) => Self::Bounce,
            (tag::DROP, Some(reason), _) => Self::Drop(reason),
            (tag::ANSWER, _, Some(answer)) => Self::Answer(answer),
            (tag::REJECT, Some(reason), Some(answer)) => Self::Reject(reason, answer),
            (tag::OPEN_FLOW, ..) => Self::Detour(Detour::OpenFlow),
            (tag::ICMP_ERROR, ..) => Self::Detour(Detour::IcmpError),
            (tag::LEAVES_CLUSTER, ..) => Self::Detour(Detour::LeavesCluster),
            _ => Self::Pass,
        }
    }
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

            /// The reason with this number.
            #[must_use]
            #[inline(always)]
            pub const fn from_number(number: u8) -> Option<Self> {
                match number {
                    $(number if number == Self::$reason as u8 => Some(Self::$reason),)+
                    _ => None,
                }
            }

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
    /// An ICMP error, addressed to a service, about a packet that no flow knows or that it quotes too little of.
    IcmpUnmatched = "icmp-unmatched",
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

    #[test]
    fn a_verdict_survives_a_register() {
        let answers = (0..=u8::MAX)
            .filter_map(AnswerKind::from_number)
            .map(|kind| Answer { kind, mtu: 1450 });
        let answers: Vec<Answer> = answers.collect();
        assert_eq!(answers.len(), 7);
        let mut verdicts = Vec::from([
            Verdict::Pass,
            Verdict::ToStack,
            Verdict::Continue,
            Verdict::Bounce,
            Verdict::Detour(Detour::OpenFlow),
            Verdict::Detour(Detour::IcmpError),
            Verdict::Detour(Detour::LeavesCluster),
            Verdict::Forward {
                ifindex: 0x0102_0304,
            },
        ]);
        verdicts.extend(answers.iter().map(|&answer| Verdict::Answer(answer)));
        for &reason in DropReason::ALL {
            verdicts.push(Verdict::Drop(reason));
            verdicts.extend(
                answers
                    .iter()
                    .map(|&answer| Verdict::Reject(reason, answer)),
            );
        }
        for verdict in verdicts {
            assert_eq!(Verdict::from(PackedVerdict::from(verdict)), verdict);
        }
    }
}
