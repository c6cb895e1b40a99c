//! Packets, built and checked in full by `etherparse`.

use bridge_common::abi::Ipv4;
use bridge_common::packet::parse::{ICMP, TCP, UDP};
use bridge_common::packet::rewrite::Endpoint;
use bridge_common::sim::SimPacket;
use etherparse::checksum::Sum16BitWords;
use etherparse::{
    IpDscp, IpEcn, IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, TcpHeader, UdpHeader,
};

/// Bytes of an ICMP header.
pub const ICMP_HEADER: usize = 8;

/// What stands between the IPv4 header and the payload.
#[derive(Clone, Debug)]
pub enum Segment {
    Tcp {
        flags: u8,
        sequence: u32,
        acknowledgement: u32,
        options: Vec<u8>,
    },
    Udp {
        checksum: bool,
    },
    /// The identifier is the port of the side that asks; the other side's is 0.
    Echo {
        request: bool,
        sequence: u16,
    },
}

/// A whole datagram.
#[derive(Clone, Debug)]
pub struct Wire {
    pub tos: u8,
    pub ttl: u8,
    pub identification: u16,
    pub dont_fragment: bool,
    pub ip_options: Vec<u8>,
    pub source: Endpoint,
    pub destination: Endpoint,
    pub segment: Segment,
    pub payload: Vec<u8>,
}

pub const fn at(address: Ipv4, port: u16) -> Endpoint {
    Endpoint { address, port }
}

impl Wire {
    pub fn new(source: Endpoint, destination: Endpoint, segment: Segment) -> Self {
        Self {
            tos: 0,
            ttl: 64,
            identification: 0x1234,
            dont_fragment: true,
            ip_options: Vec::new(),
            source,
            destination,
            segment,
            payload: b"an odd number of bytes.".to_vec(),
        }
    }

    pub fn tcp(source: Endpoint, destination: Endpoint, flags: u8) -> Self {
        let segment = Segment::Tcp {
            flags,
            sequence: 0x0102_0304,
            acknowledgement: 0xA0B0_C0D0,
            options: Vec::new(),
        };
        Self::new(source, destination, segment)
    }

    pub fn udp(source: Endpoint, destination: Endpoint) -> Self {
        Self::new(source, destination, Segment::Udp { checksum: true })
    }

    pub fn ping(source: Ipv4, destination: Ipv4, identifier: u16) -> Self {
        let segment = Segment::Echo {
            request: true,
            sequence: 1,
        };
        Self::new(at(source, identifier), at(destination, 0), segment)
    }

    pub fn pong(source: Ipv4, destination: Ipv4, identifier: u16) -> Self {
        let segment = Segment::Echo {
            request: false,
            sequence: 1,
        };
        Self::new(at(source, 0), at(destination, identifier), segment)
    }

    pub fn payload(self, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            payload: payload.into(),
            ..self
        }
    }

    pub fn ttl(self, ttl: u8) -> Self {
        Self { ttl, ..self }
    }

    pub fn ip_options(self, options: &[u8]) -> Self {
        Self {
            ip_options: options.to_vec(),
            ..self
        }
    }

    pub fn fragmentable(self, identification: u16) -> Self {
        Self {
            dont_fragment: false,
            identification,
            ..self
        }
    }

    /// The same datagram between other endpoints.
    pub fn between(&self, source: Endpoint, destination: Endpoint) -> Self {
        Self {
            source,
            destination,
            ..self.clone()
        }
    }

    /// What the receiver of this datagram would send back with the same content.
    pub fn reply(&self) -> Self {
        let mut reply = self.between(self.destination, self.source);
        if let Segment::Echo { request, .. } = &mut reply.segment {
            *request = !*request;
        }
        reply
    }

    pub fn protocol(&self) -> u8 {
        match self.segment {
            Segment::Tcp { .. } => TCP,
            Segment::Udp { .. } => UDP,
            Segment::Echo { .. } => ICMP,
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        ip_packet(self, self.protocol(), &self.transport(), 0, false)
    }

    pub fn packet(&self) -> SimPacket {
        SimPacket::new(self.bytes())
    }

    /// As a local sender hands it to its network card: the checksum field holds the pseudo-header's sum.
    pub fn partial_packet(&self) -> SimPacket {
        let mut bytes = self.bytes();
        let l4 = header_len(&bytes);
        let len = u16::try_from(bytes.len() - l4).unwrap();
        let seed = !pseudo_header(&bytes)
            .add_2bytes(len.to_be_bytes())
            .ones_complement();
        let field = l4 + checksum_field(self.protocol());
        bytes[field..field + 2].copy_from_slice(&seed.to_ne_bytes());
        SimPacket {
            checksum_is_partial: true,
            ..SimPacket::new(bytes)
        }
    }

    /// The datagram in fragments of which each carries at most `size` bytes, a multiple of 8.
    pub fn fragments(&self, size: usize) -> Vec<Vec<u8>> {
        let transport = self.transport();
        let count = transport.len().div_ceil(size);
        transport
            .chunks(size)
            .enumerate()
            .map(|(index, chunk)| {
                ip_packet(
                    self,
                    self.protocol(),
                    chunk,
                    index * size,
                    index + 1 < count,
                )
            })
            .collect()
    }

    fn transport(&self) -> Vec<u8> {
        let (from, to) = (self.source.address, self.destination.address);
        let mut bytes = match &self.segment {
            Segment::Tcp {
                flags,
                sequence,
                acknowledgement,
                options,
            } => {
                let mut header =
                    TcpHeader::new(self.source.port, self.destination.port, *sequence, 512);
                header.acknowledgment_number = *acknowledgement;
                header.fin = flags & 0x01 != 0;
                header.syn = flags & 0x02 != 0;
                header.rst = flags & 0x04 != 0;
                header.psh = flags & 0x08 != 0;
                header.ack = flags & 0x10 != 0;
                header.urg = flags & 0x20 != 0;
                header.ece = flags & 0x40 != 0;
                header.cwr = flags & 0x80 != 0;
                header.set_options_raw(options).unwrap();
                header.checksum = header
                    .calc_checksum_ipv4_raw(from, to, &self.payload)
                    .unwrap();
                header.to_bytes().to_vec()
            }
            Segment::Udp { checksum } => {
                let (source, destination) = (self.source.port, self.destination.port);
                let mut header =
                    UdpHeader::without_ipv4_checksum(source, destination, self.payload.len())
                        .unwrap();
                if *checksum {
                    header.checksum = header
                        .calc_checksum_ipv4_raw(from, to, &self.payload)
                        .unwrap();
                }
                header.to_bytes().to_vec()
            }
            Segment::Echo { request, sequence } => {
                let identifier = self.source.port | self.destination.port;
                let [i0, i1] = identifier.to_be_bytes();
                let [s0, s1] = sequence.to_be_bytes();
                let kind = if *request { 8 } else { 0 };
                return icmp([kind, 0], [i0, i1, s0, s1], &self.payload);
            }
        };
        bytes.extend_from_slice(&self.payload);
        bytes
    }
}

/// An ICMP message with its checksum.
pub fn icmp(kind: [u8; 2], rest: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let checksum = Sum16BitWords::new()
        .add_2bytes(kind)
        .add_4bytes(rest)
        .add_slice(payload)
        .ones_complement()
        .to_ne_bytes();
    [&kind[..], &checksum, &rest, payload].concat()
}

/// An ICMP error from `source` about the packet of which `quote` is what is quoted.
pub fn icmp_error(
    source: Ipv4,
    destination: Ipv4,
    kind: [u8; 2],
    rest: [u8; 4],
    quote: &[u8],
) -> Vec<u8> {
    let outer = Wire::udp(at(source, 0), at(destination, 0));
    ip_packet(&outer, ICMP, &icmp(kind, rest, quote), 0, false)
}

/// An IPv4 packet with the header fields of `wire`.
pub fn ip_packet(
    wire: &Wire,
    protocol: u8,
    payload: &[u8],
    offset: usize,
    more_fragments: bool,
) -> Vec<u8> {
    let len = u16::try_from(payload.len()).unwrap();
    let mut header = Ipv4Header::new(
        len,
        wire.ttl,
        IpNumber(protocol),
        wire.source.address,
        wire.destination.address,
    )
    .unwrap();
    header.dscp = IpDscp::try_new(wire.tos >> 2).unwrap();
    header.ecn = IpEcn::try_new(wire.tos & 3).unwrap();
    header.identification = wire.identification;
    header.dont_fragment = wire.dont_fragment;
    header.more_fragments = more_fragments;
    header.fragment_offset = IpFragOffset::try_new(u16::try_from(offset / 8).unwrap()).unwrap();
    header.options = Ipv4Options::try_from(&wire.ip_options[..]).unwrap();
    header.set_payload_len(payload.len()).unwrap();
    header.header_checksum = header.calc_header_checksum();
    let mut bytes = header.to_bytes().to_vec();
    bytes.extend_from_slice(payload);
    bytes
}

pub fn header_len(bytes: &[u8]) -> usize {
    usize::from(bytes[0] & 0x0F) * 4
}

pub fn protocol(bytes: &[u8]) -> u8 {
    bytes[9]
}

pub fn addresses(bytes: &[u8]) -> (Ipv4, Ipv4) {
    (
        bytes[12..16].try_into().unwrap(),
        bytes[16..20].try_into().unwrap(),
    )
}

/// Source and destination of a TCP or UDP packet.
pub fn endpoints(bytes: &[u8]) -> (Endpoint, Endpoint) {
    let (source, destination) = addresses(bytes);
    let l4 = header_len(bytes);
    let port = |offset: usize| u16::from_be_bytes([bytes[l4 + offset], bytes[l4 + offset + 1]]);
    (at(source, port(0)), at(destination, port(2)))
}

/// The identifier of an ICMP echo message.
pub fn identifier(bytes: &[u8]) -> u16 {
    let l4 = header_len(bytes);
    u16::from_be_bytes([bytes[l4 + 4], bytes[l4 + 5]])
}

/// Type and code of an ICMP message.
pub fn icmp_kind(bytes: &[u8]) -> [u8; 2] {
    assert_eq!(protocol(bytes), ICMP);
    let l4 = header_len(bytes);
    [bytes[l4], bytes[l4 + 1]]
}

/// The packet that an ICMP error quotes, and whatever follows it.
pub fn quote(bytes: &[u8]) -> &[u8] {
    &bytes[header_len(bytes) + ICMP_HEADER..]
}

/// Offset of the checksum in a transport header.
pub fn checksum_field(protocol: u8) -> usize {
    match protocol {
        TCP => 16,
        UDP => 6,
        ICMP => 2,
        other => panic!("no checksum is known for protocol {other}"),
    }
}

fn pseudo_header(bytes: &[u8]) -> Sum16BitWords {
    let (mut sum, protocol) = (Sum16BitWords::new(), protocol(bytes));
    if protocol != ICMP {
        sum = sum.add_slice(&bytes[12..20]).add_2bytes([0, protocol]);
    }
    sum
}

/// The transport checksum, recomputed from the first to the last byte of the datagram.
pub fn full_checksum(bytes: &[u8]) -> [u8; 2] {
    let l4 = header_len(bytes);
    let field = l4 + checksum_field(protocol(bytes));
    let mut zeroed = bytes.to_vec();
    zeroed[field..field + 2].fill(0);
    let mut sum = pseudo_header(bytes).add_slice(&zeroed[l4..]);
    if protocol(bytes) != ICMP {
        sum = sum.add_2bytes(u16::try_from(bytes.len() - l4).unwrap().to_be_bytes());
    }
    if protocol(bytes) == UDP {
        sum.to_ones_complement_with_no_zero().to_ne_bytes()
    } else {
        sum.ones_complement().to_ne_bytes()
    }
}

pub fn assert_header_is_sound(bytes: &[u8]) {
    let (header, _) = Ipv4Header::from_slice(bytes).unwrap();
    assert_eq!(
        header.header_checksum,
        header.calc_header_checksum(),
        "IPv4 header checksum"
    );
}

/// The length and every checksum of a whole datagram.
pub fn assert_sound(bytes: &[u8]) {
    assert_header_is_sound(bytes);
    let total_len = u16::from_be_bytes([bytes[2], bytes[3]]);
    assert_eq!(usize::from(total_len), bytes.len(), "total length");
    let field = header_len(bytes) + checksum_field(protocol(bytes));
    let written = [bytes[field], bytes[field + 1]];
    if protocol(bytes) != UDP || written != [0, 0] {
        assert_eq!(written, full_checksum(bytes), "transport checksum");
    }
}

/// Does what a network card does for a packet that left its checksum to it.
pub fn complete(packet: &mut SimPacket, l4: usize, protocol: u8) {
    assert!(packet.checksum_is_partial);
    let field = l4 + checksum_field(protocol);
    let sum = Sum16BitWords::new().add_slice(&packet.bytes[l4..]);
    let checksum = sum.to_ones_complement_with_no_zero().to_ne_bytes();
    packet.bytes[field..field + 2].copy_from_slice(&checksum);
    packet.checksum_is_partial = false;
}

/// One datagram out of fragments in order.
pub fn reassemble(fragments: &[Vec<u8>]) -> Vec<u8> {
    let mut whole = fragments[0].clone();
    for fragment in &fragments[1..] {
        whole.extend_from_slice(&fragment[header_len(fragment)..]);
    }
    let (mut header, payload) = {
        let (header, payload) = Ipv4Header::from_slice(&whole).unwrap();
        (header, payload.to_vec())
    };
    header.more_fragments = false;
    header.set_payload_len(payload.len()).unwrap();
    header.header_checksum = header.calc_header_checksum();
    let mut bytes = header.to_bytes().to_vec();
    bytes.extend_from_slice(&payload);
    bytes
}
