//! Packets as their senders write them, and what can be read of one.

use bridge_common::abi::Ipv4;
use bridge_common::packet::parse::{ICMP, TCP, UDP};
use bridge_common::packet::rewrite::Endpoint;

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;

/// The flag in the fragment field of a fragment that is not the last.
pub const MORE_FRAGMENTS: u16 = 0x2000;

/// A datagram to be built.
#[derive(Clone, Debug)]
pub struct Wire {
    /// Source address and port; of an echo request the identifier.
    pub source: Endpoint,
    /// Destination address and port; of an echo reply the identifier.
    pub destination: Endpoint,
    /// IANA protocol number.
    pub protocol: u8,
    /// Time to live.
    pub ttl: u8,
    /// IPv4 identification.
    pub identification: u16,
    /// Flags and offset, as the header has them.
    pub fragment: u16,
    /// TCP flags.
    pub flags: u8,
    /// TCP sequence number.
    pub sequence: u32,
    /// TCP acknowledgement number.
    pub acknowledgement: u32,
    /// Whether this is an echo reply, with ICMP.
    pub is_reply: bool,
    /// TCP options; a multiple of four bytes, at most 40.
    pub options: Vec<u8>,
    /// What follows the transport header.
    pub payload: Vec<u8>,
}

impl Wire {
    /// A datagram without payload.
    #[must_use]
    pub const fn new(protocol: u8, source: Endpoint, destination: Endpoint) -> Self {
        Self {
            source,
            destination,
            protocol,
            ttl: 64,
            identification: 7,
            fragment: 0,
            flags: 0,
            sequence: 0,
            acknowledgement: 0,
            is_reply: false,
            options: Vec::new(),
            payload: Vec::new(),
        }
    }

    /// A TCP segment.
    #[must_use]
    pub const fn tcp(source: Endpoint, destination: Endpoint, flags: u8) -> Self {
        let mut wire = Self::new(TCP, source, destination);
        wire.flags = flags;
        wire
    }

    /// Whether it is a fragment other than the first.
    #[must_use]
    pub const fn is_later_fragment(&self) -> bool {
        self.fragment << 3 != 0
    }

    /// From the IPv4 header on, with right checksums. A later fragment has its payload alone behind that header.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        ip(self, &self.transport())
    }

    fn transport(&self) -> Vec<u8> {
        if self.is_later_fragment() {
            return self.payload.clone();
        }
        let ports = [self.source.port, self.destination.port].map(u16::to_be_bytes);
        let mut bytes = ports.concat();
        match self.protocol {
            TCP => {
                bytes.extend(self.sequence.to_be_bytes());
                bytes.extend(self.acknowledgement.to_be_bytes());
                let words = 5 + (self.options.len() / 4).to_le_bytes()[0];
                bytes.extend([words << 4, self.flags, 2, 0, 0, 0, 0, 0]);
                bytes.extend(&self.options);
            }
            UDP => {
                bytes.extend(word(8 + self.payload.len()));
                bytes.extend([0, 0]);
            }
            ICMP => {
                let identifier = self.source.port | self.destination.port;
                bytes = vec![if self.is_reply { 0 } else { 8 }, 0, 0, 0];
                bytes.extend(identifier.to_be_bytes());
                bytes.extend([0, 1]);
            }
            _ => bytes.clear(),
        }
        bytes.extend(&self.payload);
        if let Some(at) = checksum_at(self.protocol) {
            let pseudo = pseudo(
                self.protocol,
                self.source.address,
                self.destination.address,
                bytes.len(),
            );
            let checksum = !fold(pseudo + sum(&bytes));
            bytes[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        }
        bytes
    }
}

/// An IPv4 packet with the header fields of `wire`.
fn ip(wire: &Wire, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x45, 0];
    bytes.extend(word(20 + payload.len()));
    bytes.extend(wire.identification.to_be_bytes());
    bytes.extend(wire.fragment.to_be_bytes());
    bytes.extend([wire.ttl, wire.protocol, 0, 0]);
    bytes.extend(wire.source.address);
    bytes.extend(wire.destination.address);
    let checksum = !fold(sum(&bytes));
    bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// An ICMP error of type and code `kind` from `source` to the sender of `quoted`, as much of it as given.
#[must_use]
pub fn icmp_error(source: Ipv4, kind: [u8; 2], quoted: &[u8]) -> Vec<u8> {
    let to = View::of(quoted).map_or([0; 4], |view| view.source());
    let at = |address| Endpoint { address, port: 0 };
    let mut message = vec![kind[0], kind[1], 0, 0, 0, 0, 5, 0];
    message.extend(quoted);
    let checksum = !fold(sum(&message));
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    ip(&Wire::new(ICMP, at(source), at(to)), &message)
}

/// A length as two bytes of a header; no packet here is longer.
fn word(len: usize) -> [u8; 2] {
    u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes()
}

/// Where the checksum stands in a transport header.
#[must_use]
pub const fn checksum_at(protocol: u8) -> Option<usize> {
    match protocol {
        TCP => Some(16),
        UDP => Some(6),
        ICMP => Some(2),
        _ => None,
    }
}

/// The sum of 16-bit words (RFC 1071); an odd last byte counts as if a zero followed.
#[must_use]
pub fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2);
    words
        .map(|word| u32::from(word[0]) << 8 | word.get(1).copied().map_or(0, u32::from))
        .sum()
}

/// A sum in 16 bits.
#[must_use]
pub const fn fold(mut sum: u32) -> u16 {
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    let [_, _, high, low] = sum.to_be_bytes();
    u16::from_be_bytes([high, low])
}

/// The sum of the pseudo-header; ICMP has none.
#[must_use]
pub fn pseudo(protocol: u8, source: Ipv4, destination: Ipv4, len: usize) -> u32 {
    if protocol == ICMP {
        return 0;
    }
    sum(&source) + sum(&destination) + u32::from(protocol) + sum(&word(len))
}

/// A packet whose IPv4 header can be read.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// From the IPv4 header on.
    pub bytes: &'a [u8],
    /// Bytes of that header.
    pub header_len: usize,
    /// Bytes of header and payload, as the header says, up to the end of `bytes`.
    pub total_len: usize,
}

impl<'a> View<'a> {
    /// `None` if that is no IPv4 header.
    #[must_use]
    pub fn of(bytes: &'a [u8]) -> Option<Self> {
        let &[first, _, l0, l1, ..] = bytes else {
            return None;
        };
        let header_len = usize::from(first & 0x0F) * 4;
        let said = usize::from(u16::from_be_bytes([l0, l1]));
        let total_len = if said == 0 { bytes.len() } else { said }.min(bytes.len());
        (first >> 4 == 4 && header_len >= 20 && total_len >= header_len).then_some(Self {
            bytes,
            header_len,
            total_len,
        })
    }

    fn word(&self, at: usize) -> Option<u16> {
        let word = self.bytes.get(at..at + 2)?;
        Some(u16::from_be_bytes([word[0], word[1]]))
    }

    fn address(&self, at: usize) -> Ipv4 {
        let mut address = [0; 4];
        address.copy_from_slice(&self.bytes[at..at + 4]);
        address
    }

    /// Source address.
    #[must_use]
    pub fn source(&self) -> Ipv4 {
        self.address(12)
    }

    /// Destination address.
    #[must_use]
    pub fn destination(&self) -> Ipv4 {
        self.address(16)
    }

    /// IANA protocol number.
    #[must_use]
    pub const fn protocol(&self) -> u8 {
        self.bytes[9]
    }

    /// Flags and offset of a fragment.
    #[must_use]
    pub fn fragment(&self) -> u16 {
        self.word(6).unwrap_or_default() & 0x3FFF
    }

    /// Whether it is a fragment other than the first.
    #[must_use]
    pub fn is_later_fragment(&self) -> bool {
        self.fragment() & 0x1FFF != 0
    }

    /// From the transport header to the end of the packet.
    #[must_use]
    pub fn transport(&self) -> &'a [u8] {
        &self.bytes[self.header_len..self.total_len]
    }

    /// Source and destination, with the ports or the identifier where there are some.
    #[must_use]
    pub fn endpoints(&self) -> (Endpoint, Endpoint) {
        let at = |address, port| Endpoint { address, port };
        let transport = self.transport();
        let ports = match (self.protocol(), transport) {
            _ if self.is_later_fragment() => (0, 0),
            (TCP | UDP, &[s0, s1, d0, d1, ..]) => {
                (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]))
            }
            (ICMP, &[8, _, _, _, i0, i1, ..]) => (u16::from_be_bytes([i0, i1]), 0),
            (ICMP, &[0, _, _, _, i0, i1, ..]) => (0, u16::from_be_bytes([i0, i1])),
            _ => (0, 0),
        };
        (at(self.source(), ports.0), at(self.destination(), ports.1))
    }

    /// Whether it is one of the messages that no ICMP error may be sent about (RFC 1122 section 3.2.2).
    #[must_use]
    pub fn is_icmp_error(&self) -> bool {
        self.protocol() == ICMP
            && !self.is_later_fragment()
            && matches!(self.transport().first(), Some(3 | 4 | 5 | 11 | 12))
    }
}
