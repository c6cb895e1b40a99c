//! What becomes of a packet.

use crate::drops::DropReason;

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

/// What the sender of a packet is told.
///
/// A plain struct rather than an enum with a field, for the reason that [`PackedVerdict`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What kind of message.
    pub kind: AnswerKind,
    /// The next hop's MTU in bytes for [`AnswerKind::FragmentationNeeded`], else 0.
    pub mtu: u32,
}

/// The kinds of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum AnswerKind {
    /// ICMP 11/0 (RFC 792).
    TimeExceeded,
    /// ICMP 3/4 with the next hop's MTU (RFC 1191).
    FragmentationNeeded,
    /// ICMP 3/1 (RFC 792).
    HostUnreachable,
    /// ICMP 3/3 (RFC 792), as kube-proxy rejects a service without endpoints.
    PortUnreachable,
    /// ICMP 3/13 (RFC 1812 5.2.7.1), which RFC 5508 REQ-8 asks for when resources run out.
    AdministrativelyProhibited,
    /// A TCP reset (RFC 9293 3.10.7.1).
    TcpReset,
    /// The reply to an ICMP echo request.
    EchoReply,
}

impl AnswerKind {
    /// The kind with this number.
    #[must_use]
    #[inline(always)]
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::TimeExceeded,
            1 => Self::FragmentationNeeded,
            2 => Self::HostUnreachable,
            3 => Self::PortUnreachable,
            4 => Self::AdministrativelyProhibited,
            5 => Self::TcpReset,
            6 => Self::EchoReply,
            _ => return None,
        })
    }

    /// The answer, for every kind that needs no MTU.
    #[must_use]
    #[inline(always)]
    pub const fn answer(self) -> Answer {
        Answer { kind: self, mtu: 0 }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

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
