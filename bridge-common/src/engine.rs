//! The engine: one packet in, one verdict out.

use crate::answer::{self, Answer, AnswerKind};
use crate::flow::{self, Mapping};
use crate::fragment;
use crate::icmp_error;
use crate::layout::{DestinationKind, Layer, Reply, ReplyKey, Route, Seconds};
use crate::lifetime::{is_expired, since};
use crate::mss;
use crate::packet::{Answerable, Packet};
use crate::parse::{Datagram, ICMP, Payload, SCTP, Transport};
use crate::rewrite::{Endpoint, Translation, translate};
use crate::tables::{Slot, Tables};
use crate::tcp::flag;
use crate::verdict::{Count, Detour, DropReason, PackedVerdict, Verdict, tag};

/// Where a packet came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// An interface where clients come in. In a host-gw cluster replies may come in there too.
    Uplink,
    /// An interface behind which the backends are.
    Cluster,
}

/// Handles a packet to the end: decides, translates or answers it, and counts what became of it.
pub fn run<P: Answerable, T: Tables>(packet: &mut P, tables: &T, side: Side) -> Verdict {
    handle(packet, tables, side).into()
}

/// [`run`], with the verdict in a register.
#[inline(always)]
pub fn handle<P: Answerable, T: Tables>(packet: &mut P, tables: &T, side: Side) -> PackedVerdict {
    let mut verdict = forward(packet, tables, side);
    if verdict.tag() == tag::OPEN_FLOW {
        verdict = flow::open(packet, tables);
        if verdict.tag() == tag::OPEN_FLOW {
            verdict = forward(packet, tables, side);
            if verdict.tag() == tag::OPEN_FLOW {
                // The flow went as soon as it had come: another CPU's doing.
                verdict = PackedVerdict::drop(DropReason::TableFull);
            }
        }
    }
    if verdict.tag() == tag::LEAVES_CLUSTER {
        flow::leave_to_kernel(packet, tables);
        return PackedVerdict::PASS;
    }
    if verdict.tag() == tag::ICMP_ERROR {
        let mut found = icmp_error::Found::default();
        verdict = if icmp_error::find(packet, tables, false, &mut found) {
            icmp_error::translate(packet, tables, &found)
        } else {
            icmp_error::leave(packet, tables)
        };
    }
    if matches!(verdict.tag(), tag::DROP | tag::REJECT)
        && let Some(reason) = verdict.reason()
    {
        tables.count(Count::Drop(reason), packet.segments(), packet.len());
    }
    if matches!(verdict.tag(), tag::ANSWER | tag::REJECT) {
        if answer::write(packet, tables, verdict.answer(), verdict.value()) {
            return PackedVerdict::BOUNCE;
        }
        // The sender isn't told after all. A rejection is counted already.
        return match verdict.reason() {
            Some(reason) if verdict.tag() == tag::REJECT => PackedVerdict::drop(reason),
            _ => {
                tables.count(Count::Drop(DropReason::RewriteFailed), 1, packet.len());
                PackedVerdict::drop(DropReason::RewriteFailed)
            }
        };
    }
    verdict
}

/// The fast path: a packet whose flow is there. The slower ways are functions of their own beside it, not below it: a
/// program in the kernel has 512 bytes of stack for a whole chain of calls.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn forward<P: Packet, T: Tables>(packet: &mut P, tables: &T, side: Side) -> PackedVerdict {
    let Some(datagram) = Datagram::parse(packet) else {
        return Verdict::Pass.into();
    };
    match (tables.destination(datagram.destination()), side) {
        (Some(DestinationKind::Nat), _) => from_backend(packet, tables, &datagram),
        (Some(kind), Side::Uplink) => from_client(packet, tables, &datagram, kind),
        (None, Side::Cluster) if tables.is_office(datagram.destination()) => {
            Verdict::Detour(Detour::LeavesCluster)
        }
        (Some(_), Side::Cluster) | (None, _) => Verdict::Pass,
    }
    .into()
}

#[inline(always)]
fn from_client<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    datagram: &Datagram,
    kind: DestinationKind,
) -> Verdict {
    let transport = match Payload::of(packet, datagram) {
        Payload::Transport(transport) => transport,
        Payload::IcmpError => return Verdict::Detour(Detour::IcmpError),
        Payload::LaterFragment if Transport::portless(datagram).is_none() => {
            match fragment::recall(tables, datagram) {
                Some(transport) => transport,
                None => return untranslatable(tables, datagram, kind, DropReason::FragmentUnknown),
            }
        }
        Payload::LaterFragment | Payload::Unsupported => {
            return untranslatable(tables, datagram, kind, DropReason::UnsupportedProtocol);
        }
    };
    let key = flow::key(datagram, &transport);
    let now = tables.now();
    let Some(slot) = flow::find(tables, &key, &transport, now) else {
        return Verdict::Detour(Detour::OpenFlow);
    };
    let mapping = slot.with(|flow| Mapping::of(flow));
    let (packets, bytes) = (packet.segments(), datagram.total_len);
    let record = || {
        slot.with(|flow| flow::record(flow, now, transport.tcp_flags, packets, bytes));
    };
    if mapping.layer != Layer::Tc as u8 {
        // What the stack path carries is recorded where it leaves.
        if mapping.layer == Layer::Kernel as u8 {
            record();
        }
        fragment::remember(tables, datagram, &transport);
        return left_to_kernel(mapping.layer, kind);
    }
    let Some(route) = tables.route(mapping.backend.address) else {
        return Verdict::Drop(DropReason::NoRoute);
    };
    let verdict = deliver(
        packet,
        tables,
        datagram,
        &transport,
        &mapping.translation(),
        &route,
    );
    if let Verdict::Forward { .. } = verdict {
        record();
        tables.count(Count::ToBackend, packets, bytes);
    }
    verdict
}

/// The verdict on a packet from a client whose flow is not the TC path's: a pod's own connection is none of ours.
#[must_use]
#[inline(always)]
pub fn left_to_kernel(layer: u8, kind: DestinationKind) -> Verdict {
    if layer == Layer::Kernel as u8 && kind == DestinationKind::Pod {
        Verdict::Pass
    } else {
        Verdict::ToStack
    }
}

/// A packet for the cluster that has no ports to translate. A pod's may pass, as the kernel would forward
/// it anyway; a service's must not, as it would circle between here and the office router.
#[inline(always)]
pub fn untranslatable<T: Tables>(
    tables: &T,
    datagram: &Datagram,
    kind: DestinationKind,
    reason: DropReason,
) -> Verdict {
    let Some(settings) = tables.settings() else {
        return Verdict::Pass;
    };
    let ours = match (reason, kind) {
        (DropReason::FragmentUnknown, DestinationKind::Pod) => settings.stack_only == 0,
        (_, DestinationKind::Service) if settings.authoritative == 0 => false,
        // kube-proxy may translate it, and SCTP to an address that no other service has.
        (_, DestinationKind::Service) if settings.stack_only != 0 => {
            datagram.protocol() != SCTP && !flow::is_known(tables, datagram.destination(), 0, ICMP)
        }
        (_, DestinationKind::Service) => true,
        _ => false,
    };
    let is_followed = match reason {
        DropReason::FragmentUnknown => true,
        DropReason::UnsupportedProtocol => Transport::portless(datagram).is_some(),
        _ => false,
    };
    match (ours, is_followed) {
        (false, false) => Verdict::Pass,
        _ if !tables.is_office(datagram.source()) => Verdict::Pass,
        (true, _) => Verdict::Drop(reason),
        (false, true) => Verdict::ToStack,
    }
}

/// What a packet from the backend becomes.
#[must_use]
#[inline(always)]
pub const fn to_client(reply: &Reply) -> Translation {
    Translation {
        source: Endpoint {
            address: reply.destination,
            port: reply.destination_port,
        },
        destination: Endpoint {
            address: reply.client,
            port: reply.client_port,
        },
    }
}

#[inline(always)]
fn from_backend<P: Packet, T: Tables>(packet: &mut P, tables: &T, datagram: &Datagram) -> Verdict {
    let transport = match Payload::of(packet, datagram) {
        Payload::Transport(transport) => transport,
        Payload::IcmpError => return Verdict::Detour(Detour::IcmpError),
        Payload::LaterFragment | Payload::Unsupported => {
            match Transport::portless(datagram).or_else(|| fragment::recall(tables, datagram)) {
                Some(transport) => transport,
                None => return Verdict::Pass,
            }
        }
    };
    let key = flow::reply_key(datagram, &transport);
    let Some(slot) = tables.reply(&key) else {
        return Verdict::Pass;
    };
    let now = tables.now();
    let (translation, seen, layer) =
        slot.with(|reply| (to_client(reply), reply.last_seen, reply.layer));
    if since(now, seen) >= QUESTIONABLE && has_expired(tables, &key) {
        return Verdict::Pass;
    }
    let verdict = if layer == Layer::Stack as u8 {
        translate_in_place(packet, tables, datagram, &transport, &translation)
    } else {
        let Some(route) = tables.route(translation.destination.address) else {
            return Verdict::Drop(DropReason::NoRoute);
        };
        deliver(packet, tables, datagram, &transport, &translation, &route)
    };
    if let Verdict::Forward { .. } | Verdict::Continue = verdict {
        let (packets, bytes) = (packet.segments(), datagram.total_len);
        let is_brimful = slot.with(|reply| {
            flow::record_reply(reply, now, transport.tcp_flags, packets, bytes);
            reply.is_brimful()
        });
        if is_brimful {
            flow::pour(tables, &key);
        }
        tables.count(Count::ToClient, packets, bytes);
    }
    verdict
}

/// Seconds of silence after which a reply entry is checked for having run out; below the shortest timeout.
pub(crate) const QUESTIONABLE: Seconds = 8;

#[cfg_attr(target_arch = "bpf", inline(never))]
fn has_expired<T: Tables>(tables: &T, key: &ReplyKey) -> bool {
    let (Some(slot), Some(settings)) = (tables.reply(key), tables.settings()) else {
        return true;
    };
    let reply = slot.with(|reply| *reply);
    let flow = tables
        .flow(&key.flow_key(&reply))
        .map(|slot| slot.with(|flow| *flow))
        .unwrap_or_default();
    is_expired(
        key.protocol,
        &flow,
        &reply,
        tables.now(),
        &settings.timeouts,
    )
}

/// Sends a packet on, translated, if it may live longer and fits.
#[inline(always)]
fn deliver<P: Packet, T: Tables>(
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
    fragment::remember(tables, datagram, transport);
    if transport.tcp_flags & flag::SYN != 0 {
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
    fragment::remember(tables, datagram, transport);
    if transport.tcp_flags & flag::SYN != 0 {
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
