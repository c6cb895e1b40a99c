//! Replies of our own: a packet that goes no further becomes the ICMP error, TCP reset or echo reply that its
//! sender gets, and goes back where it came from.
//!
//! An ICMP error quotes the packet as its sender wrote it, since it is made before any translation, and
//! comes from the address that the sender's replies would come from: the uplink's towards the
//! office, the NAT address towards the cluster. All of them share one rate limit.

use network_types::icmp::Icmpv4Hdr;
use network_types::ip::Ipv4Hdr;
use network_types::tcp::TcpHdr;

use crate::abi::{DestinationKind, Ipv4};
use crate::conntrack::clients;
use crate::counters::Count;
use crate::packet::checksum::{Difference, Sum, pseudo_header};
use crate::packet::parse::{
    Datagram, ICMP, Payload, TCP, UDP, checksum_offset, icmp_type, tcp_flag,
};
use crate::packet::rewrite::addresses;
use crate::packet::{ChecksumKind, OutOfBounds, QUOTE_MAX, Resizable};
use crate::tables::Tables;
use crate::verdict::LocalReplyKind;

/// TTL of what we send ourselves (RFC 1700; `net.ipv4.ip_default_ttl`).
const TTL: u8 = 64;
const IP_HEADER: usize = Ipv4Hdr::LEN;
const ICMP_HEADER: usize = Icmpv4Hdr::LEN;

/// Turns the packet, still as it arrived, into the reply to its sender. `false` where none is due or possible: the packet
/// may be half written then and must not go on. `kind` is a [`LocalReplyKind`] as a number.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn write<P: Resizable, T: Tables>(packet: &mut P, tables: &T, kind: u8, mtu: u32) -> bool {
    let Some(kind) = LocalReplyKind::from_number(kind) else {
        return false;
    };
    let Some(datagram) = Datagram::parse(packet) else {
        return false;
    };
    if datagram.is_later_fragment() && kind != LocalReplyKind::EchoReply {
        return false;
    }
    if !clients::may_be_answered(tables, datagram.source()) || !tables.take_answer_token() {
        tables.count(Count::AnswerSuppressed, 1, datagram.total_len);
        return false;
    }
    let written = match kind {
        LocalReplyKind::EchoReply => echo_reply(packet, &datagram),
        LocalReplyKind::TcpReset => tcp_reset(packet, tables, &datagram),
        _ => icmp_error(packet, tables, &datagram, kind, mtu),
    };
    if written.is_err() {
        return false;
    }
    let count = if kind == LocalReplyKind::EchoReply {
        Count::PingAnswered
    } else {
        Count::Answered
    };
    tables.count(count, 1, datagram.total_len);
    true
}

/// Fragments are answered one by one: the checksum of the whole is in the first, and changes by what changes there.
#[inline(always)]
fn echo_reply<P: Resizable>(packet: &mut P, datagram: &Datagram) -> Result<(), OutOfBounds> {
    addresses(
        packet,
        0,
        datagram,
        datagram.destination(),
        datagram.source(),
        TTL,
    )?;
    if datagram.is_later_fragment() {
        return Ok(());
    }
    let icmp = datagram.header_len;
    let [kind, code] = packet.load::<2>(icmp)?;
    if kind != icmp_type::ECHO_REQUEST {
        return Err(OutOfBounds);
    }
    packet.store(icmp, &[icmp_type::ECHO_REPLY, code])?;
    packet.update_checksum(
        icmp + checksum_offset(ICMP),
        Difference::default(),
        Difference::default().replace([kind, code], [icmp_type::ECHO_REPLY, code]),
        ChecksumKind::Plain,
    )
}

/// An IPv4 header without options.
#[inline(always)]
fn ip_header(
    tos: u8,
    total_len: u16,
    identification: u16,
    protocol: u8,
    source: Ipv4,
    destination: Ipv4,
) -> [u8; IP_HEADER] {
    let [len0, len1] = total_len.to_be_bytes();
    let [id0, id1] = identification.to_be_bytes();
    let [s0, s1, s2, s3] = source;
    let [d0, d1, d2, d3] = destination;
    let mut header = [
        0x45, tos, len0, len1, id0, id1, 0, 0, TTL, protocol, 0, 0, s0, s1, s2, s3, d0, d1, d2, d3,
    ];
    let [c0, c1] = Sum::default().add(&header).checksum();
    header[10] = c0;
    header[11] = c1;
    header
}

#[inline(always)]
fn tcp_reset<P: Resizable, T: Tables>(
    packet: &mut P,
    tables: &T,
    datagram: &Datagram,
) -> Result<(), OutOfBounds> {
    const LEN: usize = IP_HEADER + TcpHdr::LEN;
    let Payload::Transport(transport) = Payload::of(packet, datagram) else {
        return Err(OutOfBounds);
    };
    // With IPv4 options the TCP checksum, which a network card may have to complete, would stand at another offset.
    if datagram.protocol() != TCP
        || transport.tcp_flags & tcp_flag::RST != 0
        || datagram.header_len != IP_HEADER as u32
    {
        return Err(OutOfBounds);
    }
    let [s0, s1, d0, d1, q0, q1, q2, q3, a0, a1, a2, a3] =
        packet.load::<12>(datagram.header_len)?;
    let (sequence, acknowledgement, flags) = if transport.tcp_flags & tcp_flag::ACK != 0 {
        ([a0, a1, a2, a3], [0; 4], tcp_flag::RST)
    } else {
        let payload = datagram.total_len - datagram.header_len - transport.header_len;
        let controls = u32::from(transport.tcp_flags & tcp_flag::SYN != 0)
            + u32::from(transport.tcp_flags & tcp_flag::FIN != 0);
        let next = u32::from_be_bytes([q0, q1, q2, q3])
            .wrapping_add(payload)
            .wrapping_add(controls);
        ([0; 4], next.to_be_bytes(), tcp_flag::RST | tcp_flag::ACK)
    };
    let checksum_at = (IP_HEADER + 16) as u32;
    let partial = packet.checksum_is_partial(checksum_at);
    packet.truncate(LEN as u32)?;
    let (source, destination) = (datagram.destination(), datagram.source());
    packet.store(
        0,
        &ip_header(
            0,
            LEN as u16,
            tables.random() as u16,
            TCP,
            source,
            destination,
        ),
    )?;
    let [q0, q1, q2, q3] = sequence;
    let [a0, a1, a2, a3] = acknowledgement;
    let mut header = [
        d0, d1, s0, s1, q0, q1, q2, q3, a0, a1, a2, a3, 0x50, flags, 0, 0, 0, 0, 0, 0,
    ];
    let pseudo = pseudo_header(source, destination, TCP, TcpHdr::LEN as u16);
    let [c0, c1] = if partial {
        pseudo.fold().to_ne_bytes()
    } else {
        pseudo.add(&header).checksum()
    };
    header[16] = c0;
    header[17] = c1;
    packet.store(IP_HEADER as u32, &header)
}

#[inline(always)]
fn icmp_error<P: Resizable, T: Tables>(
    packet: &mut P,
    tables: &T,
    datagram: &Datagram,
    kind: LocalReplyKind,
    mtu: u32,
) -> Result<(), OutOfBounds> {
    let (kind, code, rest) = match kind {
        LocalReplyKind::TimeExceeded => (icmp_type::TIME_EXCEEDED, 0, 0),
        LocalReplyKind::FragmentationNeeded => (icmp_type::UNREACHABLE, 4, mtu),
        LocalReplyKind::HostUnreachable => (icmp_type::UNREACHABLE, 1, 0),
        LocalReplyKind::PortUnreachable => (icmp_type::UNREACHABLE, 3, 0),
        _ => (icmp_type::UNREACHABLE, 13, 0),
    };
    let to = datagram.source();
    let from = match tables.destination(datagram.destination()) {
        Some(DestinationKind::Nat) => datagram.destination(),
        // The routes to networks that are none of ours are not mirrored.
        _ => tables
            .route(to)
            .map_or(datagram.destination(), |route| route.source),
    };
    let quoted = if datagram.total_len < QUOTE_MAX {
        datagram.total_len
    } else {
        QUOTE_MAX
    };
    let checksum_at = datagram.header_len + checksum_offset(datagram.protocol());
    let has_checksum = matches!(datagram.protocol(), TCP | UDP) && checksum_at + 2 <= quoted;
    let partial = has_checksum && packet.checksum_is_partial(checksum_at);
    packet.truncate(quoted)?;
    let mut sum = packet.sum(0, quoted)?;
    if partial {
        // The network card completes the quoted checksum on the way out: ours is over what it writes.
        let seed = packet.load::<2>(checksum_at)?;
        let completed = match packet
            .sum(datagram.header_len, quoted - datagram.header_len)?
            .checksum()
        {
            [0, 0] => [0xFF, 0xFF],
            completed => completed,
        };
        sum = sum.add_sum(Sum::from_wsum(
            Difference::default().replace(seed, completed).wsum(),
        ));
    }
    packet.prepend::<{ IP_HEADER + ICMP_HEADER }>()?;
    // Precedence of network control (RFC 1812 4.3.2.5), the sender's own type of service.
    let tos = datagram.ip.tos & 0x1E | 0xC0;
    let total_len = (IP_HEADER + ICMP_HEADER) as u16 + quoted as u16;
    packet.store(
        0,
        &ip_header(tos, total_len, tables.random() as u16, ICMP, from, to),
    )?;
    let [r0, r1, r2, r3] = rest.to_be_bytes();
    let header = [kind, code, 0, 0, r0, r1, r2, r3];
    let [c0, c1] = Sum::default().add(&header).add_sum(sum).checksum();
    packet.store(IP_HEADER as u32, &[kind, code, c0, c1, r0, r1, r2, r3])
}
