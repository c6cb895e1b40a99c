//! Sending a packet on, translated: out of an interface of ours to choose, or where the kernel sends it.

use crate::abi::Route;
use crate::conntrack::fragments;
use crate::drops::DropReason;
use crate::packet::parse::{Datagram, Transport, tcp_flag};
use crate::packet::rewrite::{Translation, translate};
use crate::packet::{Packet, mss};
use crate::tables::Tables;
use crate::verdict::{Answer, AnswerKind, Verdict};

/// Sends a packet on, translated, if it may live longer and fits.
#[inline(always)]
pub fn deliver<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    datagram: &Datagram,
    transport: &Transport,
    translation: &Translation,
    route: &Route,
) -> Verdict {
    if route.is_unreachable() {
        return Verdict::Reject(DropReason::NoRoute, AnswerKind::HostUnreachable.answer());
    }
    if datagram.ip.ttl <= 1 {
        return Verdict::Reject(DropReason::TtlExceeded, AnswerKind::TimeExceeded.answer());
    }
    if !fits(packet, datagram, transport, route) {
        return Verdict::Reject(
            DropReason::TooBig,
            Answer {
                kind: AnswerKind::FragmentationNeeded,
                mtu: route.mtu,
            },
        );
    }
    fragments::remember(tables, datagram, transport);
    if transport.tcp_flags & tcp_flag::SYN != 0 {
        let back = tables
            .route(datagram.source())
            .map_or(route.mtu, |back| back.mtu);
        let mtu = if back < route.mtu { back } else { route.mtu };
        if mss::clamp(packet, datagram.header_len, transport.header_len, mtu).is_err() {
            return Verdict::Drop(DropReason::RewriteFailed);
        }
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

/// The smaller of two MTUs, where 0 sets no limit: an address without a route, or of the node itself.
#[inline(always)]
const fn narrower(one: u32, other: u32) -> u32 {
    if other == 0 || (one != 0 && one < other) {
        one
    } else {
        other
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
    fragments::remember(tables, datagram, transport);
    if transport.tcp_flags & tcp_flag::SYN != 0 {
        let limit = |address| tables.route(address).map_or(0, |route| route.mtu);
        let mtu = narrower(
            limit(translation.destination.address),
            limit(datagram.source()),
        );
        if mtu != 0 && mss::clamp(packet, datagram.header_len, transport.header_len, mtu).is_err() {
            return Verdict::Drop(DropReason::RewriteFailed);
        }
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
