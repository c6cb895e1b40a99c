//! Sending a packet on, translated: out of an interface of ours to choose, or where the kernel sends it.

use crate::abi::{Ipv4, PartsState, Route};
use crate::conntrack::fragments;
use crate::drops::DropReason;
use crate::packet::parse::{Datagram, Transport, tcp_flag};
use crate::packet::rewrite::{Translation, translate};
use crate::packet::{OutOfBounds, Packet, mss};
use crate::tables::Tables;
use crate::verdict::{LocalReply, LocalReplyKind, SlowPath, Verdict, tag};

/// Sends a packet on, translated, if it may live longer and fits. `IN_FRAGMENTS` as in [`fragment_verdict`].
#[inline(always)]
pub fn deliver<P: Packet, T: Tables, const IN_FRAGMENTS: bool>(
    packet: &mut P,
    tables: &T,
    datagram: &Datagram,
    transport: &Transport,
    translation: &Translation,
    route: &Route,
) -> Verdict {
    if route.is_unreachable() {
        return Verdict::Reject(
            DropReason::NoRoute,
            LocalReplyKind::HostUnreachable.without_mtu(),
        );
    }
    if datagram.ip.ttl <= 1 {
        return Verdict::Reject(
            DropReason::TtlExceeded,
            LocalReplyKind::TimeExceeded.without_mtu(),
        );
    }
    if !fits(packet, datagram, transport, route) {
        return Verdict::Reject(
            DropReason::TooBig,
            LocalReply {
                kind: LocalReplyKind::FragmentationNeeded,
                mtu: route.mtu,
            },
        );
    }
    if let Some(verdict) = fragment_verdict::<_, _, IN_FRAGMENTS>(
        packet,
        tables,
        datagram,
        transport,
        PartsState::Open,
    ) {
        return verdict;
    }
    if clamp_mss(packet, tables, datagram, transport, || route.mtu).is_err() {
        return Verdict::Drop(DropReason::RewriteFailed);
    }
    packet.set_neighbour(route.neighbour(translation.destination.address));
    let ttl = datagram.ip.ttl.wrapping_sub(1);
    match translate(packet, datagram, transport, translation, ttl) {
        Ok(()) => Verdict::Forward {
            ifindex: route.ifindex,
        },
        Err(_) => Verdict::Drop(DropReason::RewriteFailed),
    }
}

/// The verdict on a fragment that must not go on, or not yet; `None` for one that may, and for whole datagrams. `settled`
/// is what becomes of the datagram. Without `IN_FRAGMENTS` every fragment is for the stages of [`super::fragment`].
#[inline(always)]
pub fn fragment_verdict<P: Packet, T: Tables, const IN_FRAGMENTS: bool>(
    packet: &P,
    tables: &T,
    datagram: &Datagram,
    transport: &Transport,
    settled: PartsState,
) -> Option<Verdict> {
    if !datagram.is_fragment() {
        return None;
    }
    if !IN_FRAGMENTS {
        return Some(Verdict::SlowPath(SlowPath::Fragment));
    }
    let ports = u32::from(transport.source_port) << 16 | u32::from(transport.destination_port);
    let verdict = fragments::admit(packet, tables, ports, settled as u8);
    match verdict.tag() {
        tag::CONTINUE => None,
        tag::RELEASE_FRAGMENTS => Some(Verdict::SlowPath(SlowPath::ReleaseFragments)),
        _ if verdict.reason() == Some(DropReason::FragmentOverlap) => {
            Some(Verdict::Drop(DropReason::FragmentOverlap))
        }
        _ => Some(Verdict::Drop(DropReason::FragmentTiny)),
    }
}

/// The largest packet in bytes that both directions of a connection take: `forward` is the MTU towards the destination,
/// and the kernel's route back to `source` says the other. 0 sets no limit: an address without a route, or of the node
/// itself.
#[inline(always)]
pub fn mtu_both_ways<T: Tables>(tables: &T, forward: u32, source: Ipv4) -> u32 {
    let back = tables.route(source).map_or(0, |route| route.mtu);
    if back == 0 || (forward != 0 && forward < back) {
        forward
    } else {
        back
    }
}

/// Lowers the MSS of a SYN to what fits both ways.
#[inline(always)]
fn clamp_mss<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    datagram: &Datagram,
    transport: &Transport,
    forward: impl Fn() -> u32,
) -> Result<(), OutOfBounds> {
    if transport.tcp_flags & tcp_flag::SYN == 0 {
        return Ok(());
    }
    match mtu_both_ways(tables, forward(), datagram.source()) {
        0 => Ok(()),
        mtu => mss::clamp(packet, datagram.header_len, transport.header_len, mtu),
    }
}

/// Translates a packet that the kernel routes itself, and so has looked at its TTL and size, or will.
#[inline(always)]
pub fn translate_in_place<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    datagram: &Datagram,
    transport: &Transport,
    translation: &Translation,
) -> Verdict {
    let forward = || {
        tables
            .route(translation.destination.address)
            .map_or(0, |route| route.mtu)
    };
    if clamp_mss(packet, tables, datagram, transport, forward).is_err() {
        return Verdict::Drop(DropReason::RewriteFailed);
    }
    match translate(packet, datagram, transport, translation, datagram.ip.ttl) {
        Ok(()) => Verdict::Continue,
        Err(_) => Verdict::Drop(DropReason::RewriteFailed),
    }
}

/// Whether a packet, or each segment of a GSO packet, fits the route. A tunnel also takes a larger one
/// that may be fragmented: its outer packet is. Other interfaces are given no such packet, as only
/// the IP stack could fragment it.
#[inline(always)]
fn fits<P: Packet>(packet: &P, datagram: &Datagram, transport: &Transport, route: &Route) -> bool {
    let len = match packet.segment_size() {
        0 => datagram.total_len,
        segment => datagram.header_len + transport.header_len + segment,
    };
    len <= route.mtu || (route.is_tunnel() && !datagram.dont_fragment())
}
