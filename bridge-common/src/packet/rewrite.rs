//! Translating a packet: addresses, ports, TTL, and every checksum that covers them.

use crate::abi::Ipv4;
use crate::packet::checksum::Difference;
use crate::packet::parse::{Datagram, ICMP, Transport, UDP, checksum_offset};
use crate::packet::{ChecksumKind, OutOfBounds, Packet};

/// An address and a port, or ICMP identifier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// Address.
    pub address: Ipv4,
    /// Port in host order.
    pub port: u16,
}

/// What source and destination become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Translation {
    /// The new source.
    pub source: Endpoint,
    /// The new destination.
    pub destination: Endpoint,
}

/// Offset of the identifier in an ICMP echo message.
pub const ICMP_IDENTIFIER: u32 = 4;

/// Writes the new addresses into the IPv4 header at `offset` and brings its checksum up to date.
///
/// Returns what changed in the addresses, which the transport checksum wants to know.
///
/// # Errors
/// When the packet can't be written.
#[inline(always)]
pub fn addresses<P: Packet>(
    packet: &mut P,
    offset: u32,
    header: &Datagram,
    source: Ipv4,
    destination: Ipv4,
    ttl: u8,
) -> Result<Difference, OutOfBounds> {
    let changed = Difference::default()
        .replace(header.source(), source)
        .replace(header.destination(), destination);
    let [s0, s1, s2, s3] = source;
    let [d0, d1, d2, d3] = destination;
    let protocol = header.protocol();
    let [c0, c1] = changed
        .replace([header.ip.ttl, protocol], [ttl, protocol])
        .apply(header.ip.check);
    packet.store(
        offset + 8,
        &[ttl, protocol, c0, c1, s0, s1, s2, s3, d0, d1, d2, d3],
    )?;
    Ok(changed)
}

/// Translates a packet and gives it `ttl`.
///
/// # Errors
/// When the packet can't be written; it may be half translated then and must not go on.
#[inline(always)]
pub fn translate<P: Packet>(
    packet: &mut P,
    datagram: &Datagram,
    transport: &Transport,
    translation: &Translation,
    ttl: u8,
) -> Result<(), OutOfBounds> {
    let Translation {
        source,
        destination,
    } = *translation;
    let changed = addresses(
        packet,
        0,
        datagram,
        source.address,
        destination.address,
        ttl,
    )?;
    if transport.header_len == 0 {
        return Ok(());
    }
    let protocol = datagram.protocol();
    let ports = Difference::default()
        .replace(
            transport.source_port.to_be_bytes(),
            source.port.to_be_bytes(),
        )
        .replace(
            transport.destination_port.to_be_bytes(),
            destination.port.to_be_bytes(),
        );
    let l4 = datagram.header_len;
    if protocol == ICMP {
        // One of the two ports is the identifier, the other is 0 before and after.
        let identifier = source.port | destination.port;
        packet.store(l4 + ICMP_IDENTIFIER, &identifier.to_be_bytes())?;
        return packet.update_checksum(
            l4 + checksum_offset(ICMP),
            Difference::default(),
            ports,
            ChecksumKind::Plain,
        );
    }
    let [s0, s1] = source.port.to_be_bytes();
    let [d0, d1] = destination.port.to_be_bytes();
    packet.store(l4, &[s0, s1, d0, d1])?;
    let kind = if protocol == UDP {
        ChecksumKind::Udp
    } else {
        ChecksumKind::Plain
    };
    packet.update_checksum(l4 + checksum_offset(protocol), changed, ports, kind)
}
