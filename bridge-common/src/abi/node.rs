//! `counters`, `clock`, `answer_tokens` and `events`: what each CPU keeps for itself, and what userspace is told.

use super::types::{Ipv4, Mac, Seconds};

/// Value of `counters`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Packets; segments of a GSO packet count one by one.
    pub packets: u64,
    /// Bytes from the IPv4 header on.
    pub bytes: u64,
}

/// Value of `scratch`: room for as much of a packet as an ICMP error quotes, in words because it is summed up.
pub type Scratch = [u64; 16];

/// Value of `clock`, one for each CPU: what `CLOCK_MONOTONIC` said when the kernel's tick was last counted.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// `jiffies_64` (linux/jiffies.h) then.
    pub jiffies: u64,
    /// The time then.
    pub seconds: Seconds,
    /// Zero.
    pub pad: u32,
}

/// Value of `answer_tokens`: a token bucket for the ICMP errors and resets that we make.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AnswerTokens {
    /// Answers that may still be sent.
    pub tokens: u32,
    /// When the bucket was last filled up.
    pub filled: Seconds,
}

impl AnswerTokens {
    /// Answers per second and CPU, and the size of the bucket: enough for a port scan of a VIP,
    /// well below what would make an amplifier of the node (`net.ipv4.icmp_msgs_per_sec` is 10,000).
    pub const PER_SECOND: u32 = 2_000;

    /// Takes one token, filling the bucket first when a second has passed.
    #[inline]
    pub fn take(&mut self, now: Seconds) -> bool {
        if self.filled != now {
            self.filled = now;
            self.tokens = Self::PER_SECOND;
        }
        if self.tokens == 0 {
            return false;
        }
        self.tokens -= 1;
        true
    }
}

/// Key of `link_addresses`: an Ethernet address beside the interface's own that this host takes frames for there.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkAddress {
    /// The interface that the frames come in by.
    pub ifindex: u32,
    /// The address of a device above it: a macvlan, as VRRP makes one.
    pub mac: Mac,
    /// Always 0.
    pub pad: u16,
}

/// Value of `link_addresses`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UpperLink {
    /// The device that has the address.
    pub ifindex: u32,
}

/// Key of `other_sources`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceNetwork {
    /// Its network address; the network is a /24.
    pub address: Ipv4,
}

impl SourceNetwork {
    /// The network of a source.
    #[must_use]
    #[inline(always)]
    pub const fn of(source: Ipv4) -> Self {
        let [a, b, c, _] = source;
        Self {
            address: [a, b, c, 0],
        }
    }
}

/// Value of `other_sources`: what came from a network that is none of the office's, to a service.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OtherSource {
    /// Packets that were refused.
    pub packets: u64,
    /// When the last one came.
    pub last_seen: Seconds,
    /// Always 0.
    pub pad: u32,
}

/// A record of the `events` ring: something rare that userspace should act on.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// An [`EventKind`] as a number.
    pub kind: u32,
    /// The client's address.
    pub client: Ipv4,
    /// The destination's address.
    pub destination: Ipv4,
    /// The client's port.
    pub client_port: u16,
    /// The destination's port.
    pub destination_port: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// Always 0.
    pub pad: u8,
    /// Always 0; a field of its own, so that no access to it is wider than it is aligned.
    pub pad2: u16,
}

/// What an [`Event`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A new flow found the tables full: collect garbage now.
    TableFull = 1,
    /// Every NAT port tried towards one backend was taken.
    NoNatPort = 2,
}

impl EventKind {
    /// The kind for a number in a record.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::TableFull),
            2 => Some(Self::NoNatPort),
            _ => None,
        }
    }
}
