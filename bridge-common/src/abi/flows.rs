//! `flows` and `replies`: the two halves of each connection.

use super::types::{Ipv4, Seconds};

/// Key of `flows`: what the client wrote on the packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowKey {
    /// Office host.
    pub client: Ipv4,
    /// What the client addressed: a pod or a service.
    pub destination: Ipv4,
    /// Source port, or the identifier of an ICMP echo.
    pub client_port: u16,
    /// Destination port; 0 with ICMP.
    pub destination_port: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// Always 0.
    pub pad: u8,
    /// Always 0; a field of its own, so that no access to it is wider than it is aligned.
    pub pad2: u16,
}

/// Value of `flows`: how packets from the client are translated.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// The pod that really gets it.
    pub backend: Ipv4,
    /// Source address that the backend sees.
    pub nat: Ipv4,
    /// The backend's port; 0 with ICMP.
    pub backend_port: u16,
    /// Source port, or ICMP identifier, that the backend sees.
    pub nat_port: u16,
    /// When the client's last packet came by.
    pub last_seen: Seconds,
    /// Packets from the client, and those from the backend that no longer fit into its [`Reply`]; wraps.
    pub packets: u32,
    /// Bytes of these, IPv4 header included: the lower 32 bits.
    pub bytes_low: u32,
    /// The upper 16 bits.
    pub bytes_high: u16,
    /// [`crate::conntrack::tcp_state::Seen`] of the client's packets.
    pub tcp_seen: u8,
    /// A [`Layer`] as a number.
    pub layer: u8,
    /// The TCP sequence number after the client's last one, see [`crate::conntrack::sequence::Direction::next`].
    pub tcp_next: u32,
}

impl Flow {
    /// Bytes counted, IPv4 headers included.
    #[must_use]
    #[inline]
    pub const fn bytes(&self) -> u64 {
        (self.bytes_high as u64) << 32 | self.bytes_low as u64
    }

    /// Counts packets and bytes.
    #[inline(always)]
    pub const fn count(&mut self, packets: u32, bytes: u32) {
        self.packets = self.packets.wrapping_add(packets);
        let (low, carry) = self.bytes_low.overflowing_add(bytes);
        self.bytes_low = low;
        if carry {
            self.bytes_high = self.bytes_high.wrapping_add(1);
        }
    }
}

/// Key of `replies`: what the backend wrote on the packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplyKey {
    /// The pod.
    pub backend: Ipv4,
    /// Our NAT address.
    pub nat: Ipv4,
    /// The pod's port; 0 with ICMP.
    pub backend_port: u16,
    /// NAT port, or ICMP identifier.
    pub nat_port: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// Always 0.
    pub pad: u8,
    /// Always 0; a field of its own, so that no access to it is wider than it is aligned.
    pub pad2: u16,
}

/// Value of `replies`: how packets from the backend are translated.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// Office host.
    pub client: Ipv4,
    /// What the client addressed, so what it expects as the source.
    pub destination: Ipv4,
    /// The client's port, or ICMP identifier.
    pub client_port: u16,
    /// The port that the client addressed; 0 with ICMP.
    pub destination_port: u16,
    /// When the backend's last packet came by; when the flow was opened, before the first.
    pub last_seen: Seconds,
    /// The TCP sequence number after the backend's last one, see [`crate::conntrack::sequence::Direction::next`].
    pub tcp_next: u32,
    /// Bytes from the backend, IPv4 header included, since they were last added to the flow's.
    pub bytes: u16,
    /// Packets from the backend since then; 0 only before the first.
    pub packets: u8,
    /// What the backend's packets have shown, and the layer: [`Reply::tcp_seen`], [`Reply::layer`].
    pub state: u8,
}

impl Reply {
    /// Bits of `state` that stand for layers; none of them is [`Layer::Tc`].
    const LAYERS: u8 = Self::STACK | Self::LOCAL;
    const STACK: u8 = 0x40;
    const LOCAL: u8 = 0x80;

    /// `state` of an entry whose backend has sent nothing yet.
    #[must_use]
    #[inline(always)]
    pub const fn initial_state(layer: u8) -> u8 {
        if layer == Layer::Stack as u8 {
            Self::STACK
        } else if layer == Layer::Local as u8 {
            Self::LOCAL
        } else {
            0
        }
    }

    /// [`crate::conntrack::tcp_state::Seen`] of the backend's packets.
    #[must_use]
    #[inline(always)]
    pub const fn tcp_seen(&self) -> u8 {
        self.state & !Self::LAYERS
    }

    /// Sets the same.
    #[inline(always)]
    pub const fn set_tcp_seen(&mut self, seen: u8) {
        self.state = self.state & Self::LAYERS | seen & !Self::LAYERS;
    }

    /// A [`Layer`] as a number: only those that translate answers.
    #[must_use]
    #[inline(always)]
    pub const fn layer(&self) -> u8 {
        match self.state & Self::LAYERS {
            0 => Layer::Tc as u8,
            Self::STACK => Layer::Stack as u8,
            _ => Layer::Local as u8,
        }
    }

    /// Counts packets and bytes, if there is room for them. Else the counters are to be added to the flow's first, by
    /// [`Reply::flush_into`].
    #[inline(always)]
    pub const fn count(&mut self, packets: u32, bytes: u32) -> bool {
        let packets = self.packets as u32 + packets;
        let bytes = self.bytes as u32 + bytes;
        if packets > u8::MAX as u32 || bytes > u16::MAX as u32 {
            return false;
        }
        self.packets = packets as u8;
        self.bytes = bytes as u16;
        true
    }

    /// Adds the counters to the flow's, and `packets` and `bytes` that there was no room for, but for one packet: that
    /// there was one is what tells an answered flow.
    #[inline(always)]
    pub const fn flush_into(&mut self, flow: &mut Flow, packets: u32, bytes: u32) {
        let all = (self.packets as u32).wrapping_add(packets);
        flow.count(all.saturating_sub(1), bytes.wrapping_add(self.bytes as u32));
        self.bytes = 0;
        self.packets = 1;
    }
}

/// The layer that carries a flow. A flow stays on the layer that created it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// Translated and redirected at TC ingress.
    Tc = 1,
    /// Not ours: a connection that a pod opened, whose answers the kernel forwards as they are, or one to a service
    /// that kube-proxy translates.
    Kernel = 2,
    /// Routed by the kernel; its source is translated at TC egress, after netfilter.
    Stack = 3,
    /// Not ours either: a connection that a pod opened over another node. The office's answers are sent on as they are,
    /// past the kernel: netfilter, which has not seen the pod's side, would call them invalid.
    Passed = 4,
    /// To a backend that is an address of this node itself: its destination alone is translated, at TC ingress, and
    /// that of what answers it at TC egress of the uplink.
    Local = 5,
    /// None any more: the connection was ended because its backend is gone for good. The next segment is answered with a
    /// reset instead of being taken for one of a connection that the tables have lost.
    Ended = 6,
}

impl Layer {
    /// The layer for a number in a table.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Tc),
            2 => Some(Self::Kernel),
            3 => Some(Self::Stack),
            4 => Some(Self::Passed),
            5 => Some(Self::Local),
            6 => Some(Self::Ended),
            _ => None,
        }
    }

    /// Whether the flow is not there to be translated: it has no reply entry.
    #[must_use]
    #[inline(always)]
    pub const fn is_untranslated(number: u8) -> bool {
        number == Self::Kernel as u8 || number == Self::Passed as u8 || number == Self::Ended as u8
    }

    /// Whether the uplink's program itself sends the client's packets on.
    #[must_use]
    #[inline(always)]
    pub const fn is_forwarded(number: u8) -> bool {
        number == Self::Tc as u8 || number == Self::Passed as u8
    }

    /// The name that commands show.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tc => "tc",
            Self::Kernel | Self::Passed => "kernel",
            Self::Stack => "stack",
            Self::Local => "local",
            Self::Ended => "ended",
        }
    }
}

impl FlowKey {
    /// The key of the entry that translates this flow's replies.
    #[must_use]
    #[inline]
    pub const fn reply_key(&self, flow: &Flow) -> ReplyKey {
        ReplyKey {
            backend: flow.backend,
            nat: flow.nat,
            backend_port: flow.backend_port,
            nat_port: flow.nat_port,
            protocol: self.protocol,
            pad: 0,
            pad2: 0,
        }
    }
}

impl ReplyKey {
    /// The key of the entry that translates the client's packets.
    #[must_use]
    #[inline]
    pub const fn flow_key(&self, reply: &Reply) -> FlowKey {
        FlowKey {
            client: reply.client,
            destination: reply.destination,
            client_port: reply.client_port,
            destination_port: reply.destination_port,
            protocol: self.protocol,
            pad: 0,
            pad2: 0,
        }
    }
}
