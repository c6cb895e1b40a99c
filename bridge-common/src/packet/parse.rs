//! Reading the IPv4 and transport headers.

use core::mem::offset_of;

use network_types::icmp::Icmpv4Hdr;
use network_types::ip::{IpProto, Ipv4Hdr};
use network_types::tcp::TcpHdr;
use network_types::udp::UdpHdr;

use crate::abi::Ipv4;
use crate::packet::Packet;
use crate::packet::checksum::Sum;

/// TCP as the protocol field has it.
pub const TCP: u8 = IpProto::Tcp as u8;
/// UDP as the protocol field has it.
pub const UDP: u8 = IpProto::Udp as u8;
/// ICMP as the protocol field has it.
pub const ICMP: u8 = IpProto::Icmp as u8;
/// SCTP as the protocol field has it.
pub const SCTP: u8 = IpProto::Sctp as u8;

/// ICMP message types (RFC 792) that matter here; a plain number, since any may arrive.
pub mod icmp_type {
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 0;
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 3;
    /// Echo request.
    pub const ECHO_REQUEST: u8 = 8;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 11;
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 12;
}

/// TCP header flags (RFC 9293 section 3.1).
pub mod tcp_flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 0x10;
}

/// Where the checksum stands in a transport header.
#[must_use]
#[inline]
pub const fn checksum_offset(protocol: u8) -> u32 {
    match protocol {
        TCP => 16,
        UDP => offset_of!(UdpHdr, check) as u32,
        _ => offset_of!(Icmpv4Hdr, check) as u32,
    }
}

const _: () = assert!(checksum_offset(TCP) as usize == offset_of!(TcpHdr, check));

/// An IPv4 packet whose header is sound.
#[derive(Clone, Copy, Debug)]
pub struct Datagram {
    /// The header without options.
    pub ip: Ipv4Hdr,
    /// Bytes of the header with options.
    pub header_len: u32,
    /// Bytes of header and payload; link-layer padding is not among them.
    pub total_len: u32,
}

impl Datagram {
    /// Reads the header at offset 0; `None` for whatever is not a complete IPv4 packet.
    #[inline(always)]
    pub fn parse<P: Packet>(packet: &P) -> Option<Self> {
        let datagram = Self::at(packet, 0)?;
        (datagram.total_len <= packet.len()).then_some(datagram)
    }

    /// [`Self::parse`] for packets without options only, in fewer instructions.
    #[inline(always)]
    pub fn without_options<P: Packet>(packet: &P) -> Option<Self> {
        const HEADER_LEN: u32 = Ipv4Hdr::LEN as u32;
        const VERSION_AND_LENGTH: u8 = 0x45;
        let ip = Self::header(packet, 0)?;
        let total_len = u32::from(u16::from_be_bytes(ip.tot_len));
        (ip.vihl == VERSION_AND_LENGTH && total_len >= HEADER_LEN && packet.len() >= total_len)
            .then_some(Self {
                ip,
                header_len: HEADER_LEN,
                total_len,
            })
    }

    #[inline(always)]
    fn header<P: Packet>(packet: &P, offset: u32) -> Option<Ipv4Hdr> {
        let bytes = packet.load::<{ Ipv4Hdr::LEN }>(offset).ok()?;
        Some(Ipv4Hdr {
            vihl: bytes[0],
            tos: bytes[1],
            tot_len: [bytes[2], bytes[3]],
            id: [bytes[4], bytes[5]],
            frags: [bytes[6], bytes[7]],
            ttl: bytes[8],
            proto: bytes[9],
            check: [bytes[10], bytes[11]],
            src_addr: [bytes[12], bytes[13], bytes[14], bytes[15]],
            dst_addr: [bytes[16], bytes[17], bytes[18], bytes[19]],
        })
    }

    /// Reads a header at `offset`, of a packet that may be cut off after it.
    #[inline(always)]
    pub fn at<P: Packet>(packet: &P, offset: u32) -> Option<Self> {
        let ip = Self::header(packet, offset)?;
        let header_len = u32::from(ip.ihl());
        // A packet above 65,535 bytes that the kernel still has to segment says 0 (BIG TCP).
        let total_len = match u32::from(u16::from_be_bytes(ip.tot_len)) {
            0 if packet.segment_size() != 0 => packet.len(),
            len => len,
        };
        (ip.version() == 4 && header_len >= Ipv4Hdr::LEN as u32 && total_len >= header_len)
            .then_some(Self {
                ip,
                header_len,
                total_len,
            })
    }

    /// Whether the header's checksum is right (RFC 1122 section 3.2.1.2), of a header without options.
    #[must_use]
    #[inline(always)]
    pub fn has_sound_checksum(&self) -> bool {
        let Ipv4Hdr {
            vihl,
            tos,
            tot_len: [l0, l1],
            id: [i0, i1],
            frags: [f0, f1],
            ttl,
            proto,
            check: [c0, c1],
            src_addr,
            dst_addr,
        } = self.ip;
        Sum::default()
            .add(&[vihl, tos, l0, l1, i0, i1, f0, f1, ttl, proto, c0, c1])
            .add(&src_addr)
            .add(&dst_addr)
            .fold()
            == 0xFFFF
    }

    /// Source address.
    #[must_use]
    #[inline(always)]
    pub const fn source(&self) -> Ipv4 {
        self.ip.src_addr
    }

    /// Destination address.
    #[must_use]
    #[inline(always)]
    pub const fn destination(&self) -> Ipv4 {
        self.ip.dst_addr
    }

    /// IANA protocol number.
    #[must_use]
    #[inline(always)]
    pub const fn protocol(&self) -> u8 {
        self.ip.proto
    }

    const fn fragment_word(&self) -> u16 {
        u16::from_be_bytes(self.ip.frags)
    }

    /// Whether the sender forbids fragmentation.
    #[must_use]
    #[inline(always)]
    pub const fn dont_fragment(&self) -> bool {
        self.fragment_word() & 0x4000 != 0
    }

    /// Whether this is one of several fragments.
    #[must_use]
    #[inline(always)]
    pub const fn is_fragment(&self) -> bool {
        self.fragment_word() & 0x3FFF != 0
    }

    /// Whether more of the datagram follows behind this fragment.
    #[must_use]
    #[inline(always)]
    pub const fn has_more_fragments(&self) -> bool {
        self.fragment_word() & 0x2000 != 0
    }

    /// Where a fragment stands in its datagram, in units of 8 bytes.
    #[must_use]
    #[inline(always)]
    pub const fn fragment_offset(&self) -> u16 {
        self.fragment_word() & 0x1FFF
    }

    /// Whether this is the first of several fragments.
    #[must_use]
    #[inline(always)]
    pub const fn is_first_fragment(&self) -> bool {
        self.is_fragment() && !self.is_later_fragment()
    }

    /// Whether this is a fragment other than the first.
    #[must_use]
    #[inline(always)]
    pub const fn is_later_fragment(&self) -> bool {
        self.fragment_word() & 0x1FFF != 0
    }
}

/// What tells one flow from another between the same two addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transport {
    /// Source port; the identifier of an ICMP echo request.
    pub source_port: u16,
    /// Destination port; the identifier of an ICMP echo reply.
    pub destination_port: u16,
    /// TCP flags; 0 with other protocols.
    pub tcp_flags: u8,
    /// Bytes of the transport header; 0 in a later fragment, which has none.
    pub header_len: u32,
    /// TCP sequence number, in host byte order; 0 with other protocols.
    pub sequence: u32,
    /// TCP acknowledgement number, in host byte order; 0 with other protocols.
    pub acknowledgement: u32,
    /// Whether such a packet may open a flow.
    pub opens: bool,
}

impl Transport {
    /// What tells flows apart in a protocol whose ports, if any, are not known here: nothing. `None` for
    /// protocols that have ports, and for those whose checksum covers addresses and would have to be translated
    /// too (UDP-Lite, RFC 3828 section 3.1; DCCP, RFC 4340 section 9.1).
    #[must_use]
    #[inline(always)]
    pub fn portless(datagram: &Datagram) -> Option<Self> {
        const DCCP: u8 = IpProto::Dccp as u8;
        const UDP_LITE: u8 = IpProto::UdpLite as u8;
        match datagram.protocol() {
            TCP | UDP | ICMP | DCCP | UDP_LITE => None,
            _ => Some(Self {
                opens: true,
                ..Self::default()
            }),
        }
    }
}

/// What stands behind the IPv4 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Something with ports or an identifier.
    Transport(Transport),
    /// An ICMP error, about a packet that it quotes.
    IcmpError,
    /// A fragment other than the first.
    LaterFragment,
    /// Whatever can't be translated.
    Unsupported,
}

impl Payload {
    /// Reads the transport header at `offset` of a packet with `available` bytes from there on.
    #[inline(always)]
    pub fn at<P: Packet>(packet: &P, offset: u32, available: u32, protocol: u8) -> Self {
        if available < 8 {
            return Self::Unsupported;
        }
        let Ok(head) = packet.load::<8>(offset) else {
            return Self::Unsupported;
        };
        let first = u16::from_be_bytes([head[0], head[1]]);
        let second = u16::from_be_bytes([head[2], head[3]]);
        match protocol {
            TCP => Self::tcp(packet, offset, available, head),
            UDP => Self::Transport(Transport {
                source_port: first,
                destination_port: second,
                header_len: UdpHdr::LEN as u32,
                opens: true,
                ..Transport::default()
            }),
            ICMP => {
                let identifier = u16::from_be_bytes([head[4], head[5]]);
                let echo = Transport {
                    source_port: identifier,
                    header_len: 8,
                    opens: true,
                    ..Transport::default()
                };
                match head[0] {
                    icmp_type::ECHO_REQUEST => Self::Transport(echo),
                    icmp_type::ECHO_REPLY => Self::Transport(Transport {
                        source_port: 0,
                        destination_port: identifier,
                        opens: false,
                        ..echo
                    }),
                    icmp_type::UNREACHABLE
                    | icmp_type::TIME_EXCEEDED
                    | icmp_type::PARAMETER_PROBLEM => Self::IcmpError,
                    _ => Self::Unsupported,
                }
            }
            _ => Self::Unsupported,
        }
    }

    #[inline(always)]
    fn tcp<P: Packet>(packet: &P, offset: u32, available: u32, head: [u8; 8]) -> Self {
        let [s0, s1, d0, d1, n0, n1, n2, n3] = head;
        let Ok([a0, a1, a2, a3, data_offset, flags]) = packet.load::<6>(offset + 8) else {
            return Self::Unsupported;
        };
        let header_len = u32::from(data_offset >> 4) * 4;
        if header_len < TcpHdr::LEN as u32 || header_len > available {
            return Self::Unsupported;
        }
        Self::Transport(Transport {
            source_port: u16::from_be_bytes([s0, s1]),
            destination_port: u16::from_be_bytes([d0, d1]),
            tcp_flags: flags,
            header_len,
            sequence: u32::from_be_bytes([n0, n1, n2, n3]),
            acknowledgement: u32::from_be_bytes([a0, a1, a2, a3]),
            opens: flags & (tcp_flag::SYN | tcp_flag::ACK | tcp_flag::RST) == tcp_flag::SYN,
        })
    }

    /// Reads what follows the header of `datagram` at offset 0.
    #[inline(always)]
    pub fn of<P: Packet>(packet: &P, datagram: &Datagram) -> Self {
        if datagram.is_later_fragment() {
            return Self::LaterFragment;
        }
        Self::at(
            packet,
            datagram.header_len,
            datagram.total_len - datagram.header_len,
            datagram.protocol(),
        )
    }
}
