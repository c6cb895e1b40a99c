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
    /// Turned into a reply of our own: back where it came from, link-layer addresses swapped.
    Reflect,
    /// Goes no further, silently.
    Drop(DropReason),
    /// Goes no further as it is: it waits for its first fragment, or it has come in again.
    Held,
    /// Gets a reply of our own.
    LocalReply(LocalReply),
    /// Goes no further, and its sender is to be told.
    Reject(DropReason, LocalReply),
    /// Needs another stage first. Only stages of a path say this to each other.
    SlowPath(SlowPath),
}

/// What the sender of a packet is told.
///
/// A plain struct rather than an enum with a field, for the reason that [`PackedVerdict`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalReply {
    /// What kind of message.
    pub kind: LocalReplyKind,
    /// The next hop's MTU in bytes for [`LocalReplyKind::FragmentationNeeded`], else 0.
    pub mtu: u32,
}

/// What the bridge itself sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum LocalReplyKind {
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

impl LocalReplyKind {
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

    /// The reply, of every kind but [`Self::FragmentationNeeded`].
    #[must_use]
    #[inline(always)]
    pub const fn without_mtu(self) -> LocalReply {
        LocalReply { kind: self, mtu: 0 }
    }
}

/// The stages that few packets need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlowPath {
    /// A packet from a client without a flow.
    OpenFlow,
    /// A pod's own packet to the office.
    LeavesCluster,
    /// An ICMP error, which belongs to the flow of the packet that it quotes.
    IcmpError,
    /// A fragment of ours: the stages of [`crate::path::fragment`] are for it.
    Fragment,
    /// A later fragment whose first has not come.
    HoldFragment,
    /// A first fragment that others wait for.
    ReleaseFragments,
}

/// A verdict in one register: the way in which verdicts cross function calls in the kernel. Of an enum whose variants
/// differ in their fields the compiler leaves some bytes undefined, and the verifier refuses to see them copied.
///
/// From the lowest byte on: tag, drop reason, kind of reply, [note](PackedVerdict::with_note), and 32 bits of interface index or MTU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedVerdict(u64);

/// What a [`PackedVerdict`] is.
#[allow(
    missing_docs,
    reason = "each is the variant of Verdict or SlowPath that has its name"
)]
pub mod tag {
    pub const PASS: u8 = 0;
    pub const FORWARD: u8 = 1;
    pub const REFLECT: u8 = 2;
    pub const DROP: u8 = 3;
    pub const LOCAL_REPLY: u8 = 4;
    pub const REJECT: u8 = 5;
    pub const OPEN_FLOW: u8 = 6;
    pub const ICMP_ERROR: u8 = 7;
    pub const LEAVES_CLUSTER: u8 = 8;
    pub const CONTINUE: u8 = 9;
    pub const TO_STACK: u8 = 10;
    pub const HOLD_FRAGMENT: u8 = 11;
    pub const RELEASE_FRAGMENTS: u8 = 12;
    pub const HELD: u8 = 13;
    pub const FRAGMENT: u8 = 14;
}

impl PackedVerdict {
    /// [`Verdict::Pass`].
    pub const PASS: Self = Self::new(tag::PASS, 0, 0, 0);
    /// [`Verdict::ToStack`].
    pub const TO_STACK: Self = Self::new(tag::TO_STACK, 0, 0, 0);
    /// [`Verdict::Continue`].
    pub const CONTINUE: Self = Self::new(tag::CONTINUE, 0, 0, 0);
    /// [`Verdict::Reflect`].
    pub const REFLECT: Self = Self::new(tag::REFLECT, 0, 0, 0);
    /// [`Verdict::Held`].
    pub const HELD: Self = Self::new(tag::HELD, 0, 0, 0);
    /// [`SlowPath::ReleaseFragments`].
    pub const RELEASE_FRAGMENTS: Self = Self::new(tag::RELEASE_FRAGMENTS, 0, 0, 0);

    #[inline(always)]
    const fn new(tag: u8, reason: u8, reply: u8, value: u32) -> Self {
        Self(tag as u64 | (reason as u64) << 8 | (reply as u64) << 16 | (value as u64) << 32)
    }

    /// [`Verdict::Drop`].
    #[must_use]
    #[inline(always)]
    pub const fn drop(reason: DropReason) -> Self {
        Self::new(tag::DROP, reason as u8, 0, 0)
    }

    /// [`Verdict::Reject`] with a reply of any kind but [`LocalReplyKind::FragmentationNeeded`].
    #[must_use]
    #[inline(always)]
    pub const fn reject(reason: DropReason, reply: LocalReplyKind) -> Self {
        Self::new(tag::REJECT, reason as u8, reply as u8, 0)
    }

    /// [`SlowPath::Fragment`], with what was decided of it: a packet that opens no flow and passes, or is answered.
    #[must_use]
    #[inline(always)]
    pub const fn fragment(decided: Self) -> Self {
        Self::new(tag::FRAGMENT, decided.tag(), decided.reply_kind(), 1)
    }

    /// What [`Self::fragment`] was made of; `None` if this is no such verdict. Where nothing was decided it is
    /// [`SlowPath::OpenFlow`].
    #[must_use]
    #[inline(always)]
    pub const fn decided(self) -> Option<Self> {
        match (self.tag(), self.value()) {
            (tag::FRAGMENT, 0) => Some(Self::new(tag::OPEN_FLOW, 0, 0, 0)),
            (tag::FRAGMENT, _) => Some(Self::new((self.0 >> 8) as u8, 0, self.reply_kind(), 0)),
            _ => None,
        }
    }

    /// The lower half, which is all of a verdict whose [`Self::value`] is 0.
    #[must_use]
    #[inline(always)]
    pub const fn to_word(self) -> u32 {
        self.0 as u32
    }

    /// The verdict with this lower half.
    #[must_use]
    #[inline(always)]
    pub const fn from_word(word: u32) -> Self {
        Self(word as u64)
    }

    /// Whether the packet goes on, translated.
    #[must_use]
    #[inline(always)]
    pub const fn is_sent(self) -> bool {
        matches!(self.tag(), tag::FORWARD | tag::CONTINUE)
    }

    /// The same of a packet that is to be noted: [`note::TO_BACKEND`](crate::conntrack::note::TO_BACKEND),
    /// [`note::TO_CLIENT`](crate::conntrack::note::TO_CLIENT), or 0 if not.
    #[must_use]
    #[inline(always)]
    pub const fn with_note(self, note: u8) -> Self {
        Self(self.0 | (note as u64) << 24)
    }

    /// The note of [`Self::with_note`].
    #[must_use]
    #[inline(always)]
    pub const fn note(self) -> u8 {
        (self.0 >> 24) as u8
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

    /// The [`LocalReplyKind`] of a reply or rejection, as a number.
    #[must_use]
    #[inline(always)]
    pub const fn reply_kind(self) -> u8 {
        (self.0 >> 16) as u8
    }

    /// The interface index to forward to, or the MTU that a reply tells.
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
            Verdict::Reflect => Self::REFLECT,
            Verdict::Held => Self::HELD,
            Verdict::Drop(reason) => Self::drop(reason),
            Verdict::LocalReply(reply) => {
                Self::new(tag::LOCAL_REPLY, 0, reply.kind as u8, reply.mtu)
            }
            Verdict::Reject(reason, reply) => {
                Self::new(tag::REJECT, reason as u8, reply.kind as u8, reply.mtu)
            }
            Verdict::SlowPath(SlowPath::OpenFlow) => Self::new(tag::OPEN_FLOW, 0, 0, 0),
            Verdict::SlowPath(SlowPath::IcmpError) => Self::new(tag::ICMP_ERROR, 0, 0, 0),
            Verdict::SlowPath(SlowPath::LeavesCluster) => Self::new(tag::LEAVES_CLUSTER, 0, 0, 0),
            Verdict::SlowPath(SlowPath::Fragment) => Self::new(tag::FRAGMENT, 0, 0, 0),
            Verdict::SlowPath(SlowPath::HoldFragment) => Self::new(tag::HOLD_FRAGMENT, 0, 0, 0),
            Verdict::SlowPath(SlowPath::ReleaseFragments) => Self::RELEASE_FRAGMENTS,
        }
    }
}

impl From<PackedVerdict> for Verdict {
    fn from(packed: PackedVerdict) -> Self {
        let value = packed.value();
        let reply = LocalReplyKind::from_number(packed.reply_kind())
            .map(|kind| LocalReply { kind, mtu: value });
        match (packed.tag(), packed.reason(), reply) {
            (tag::FORWARD, ..) => Self::Forward { ifindex: value },
            (tag::TO_STACK, ..) => Self::ToStack,
            (tag::CONTINUE, ..) => Self::Continue,
            (tag::REFLECT, ..) => Self::Reflect,
            (tag::DROP, Some(reason), _) => Self::Drop(reason),
            (tag::LOCAL_REPLY, _, Some(reply)) => Self::LocalReply(reply),
            (tag::REJECT, Some(reason), Some(reply)) => Self::Reject(reason, reply),
            (tag::OPEN_FLOW, ..) => Self::SlowPath(SlowPath::OpenFlow),
            (tag::ICMP_ERROR, ..) => Self::SlowPath(SlowPath::IcmpError),
            (tag::LEAVES_CLUSTER, ..) => Self::SlowPath(SlowPath::LeavesCluster),
            (tag::FRAGMENT, ..) => Self::SlowPath(SlowPath::Fragment),
            (tag::HOLD_FRAGMENT, ..) => Self::SlowPath(SlowPath::HoldFragment),
            (tag::RELEASE_FRAGMENTS, ..) => Self::SlowPath(SlowPath::ReleaseFragments),
            (tag::HELD, ..) => Self::Held,
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
        let replies = (0..=u8::MAX)
            .filter_map(LocalReplyKind::from_number)
            .map(|kind| LocalReply { kind, mtu: 1450 });
        let replies: Vec<LocalReply> = replies.collect();
        assert_eq!(replies.len(), 7);
        let mut verdicts = Vec::from([
            Verdict::Pass,
            Verdict::ToStack,
            Verdict::Continue,
            Verdict::Reflect,
            Verdict::SlowPath(SlowPath::OpenFlow),
            Verdict::SlowPath(SlowPath::IcmpError),
            Verdict::SlowPath(SlowPath::LeavesCluster),
            Verdict::SlowPath(SlowPath::Fragment),
            Verdict::SlowPath(SlowPath::HoldFragment),
            Verdict::SlowPath(SlowPath::ReleaseFragments),
            Verdict::Held,
            Verdict::Forward {
                ifindex: 0x0102_0304,
            },
        ]);
        verdicts.extend(replies.iter().map(|&reply| Verdict::LocalReply(reply)));
        for &reason in DropReason::ALL {
            verdicts.push(Verdict::Drop(reason));
            verdicts.extend(replies.iter().map(|&reply| Verdict::Reject(reason, reply)));
        }
        for verdict in verdicts {
            assert_eq!(Verdict::from(PackedVerdict::from(verdict)), verdict);
        }
    }
}
