//! The stage of the TC path that most packets need and no other: translation by the flow that is there.

use crate::abi::{DestinationKind, Layer, PartsState, since};
use crate::conntrack::flow::{self, Mapping};
use crate::conntrack::fragments;
use crate::counters::Count;
use crate::drops::DropReason;
use crate::packet::Packet;
use crate::packet::parse::{Datagram, Payload, Transport};
use crate::packet::rewrite::Translation;
use crate::path::forward::{deliver, fragment_verdict, translate_in_place};
use crate::path::unsupported::{other_layer_verdict, unsupported_verdict};
use crate::tables::{Slot, Tables};
use crate::verdict::{LocalReplyKind, SlowPath, Verdict};

/// Where a packet came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// An interface where clients come in. In a host-gw cluster replies may come in there too.
    Uplink,
    /// An interface behind which the backends are.
    Cluster,
}

/// Translates a packet whose flow is known, of whole datagrams only, or with `IN_FRAGMENTS` of others.
#[inline(always)]
pub fn translate<P: Packet, T: Tables, const IN_FRAGMENTS: bool>(
    packet: &mut P,
    tables: &T,
    side: Side,
) -> Verdict {
    let Some(datagram) = Datagram::parse(packet) else {
        return Verdict::Pass;
    };
    match (tables.destination(datagram.destination()), side) {
        (Some(DestinationKind::Nat), _) => {
            from_backend::<_, _, IN_FRAGMENTS>(packet, tables, &datagram)
        }
        (Some(kind), Side::Uplink) => {
            from_client::<_, _, IN_FRAGMENTS>(packet, tables, &datagram, kind)
        }
        (None, side) if !IN_FRAGMENTS && may_come_from_pod(tables, &datagram, side) => {
            Verdict::SlowPath(SlowPath::LeavesCluster)
        }
        (Some(_), Side::Cluster) | (None, _) => Verdict::Pass,
    }
}

/// Whether a packet to none of our networks may be a pod's own to the office. Other nodes may send theirs by the uplink.
#[inline(always)]
fn may_come_from_pod<T: Tables>(tables: &T, datagram: &Datagram, side: Side) -> bool {
    (side == Side::Cluster || tables.destination(datagram.source()) == Some(DestinationKind::Pod))
        && tables.is_office(datagram.destination())
}

#[inline(always)]
fn from_client<P: Packet, T: Tables, const IN_FRAGMENTS: bool>(
    packet: &mut P,
    tables: &T,
    datagram: &Datagram,
    kind: DestinationKind,
) -> Verdict {
    let transport = match Payload::of(packet, datagram) {
        Payload::Transport(transport) => transport,
        Payload::IcmpError => return Verdict::SlowPath(SlowPath::IcmpError),
        Payload::LaterFragment if Transport::portless(datagram).is_none() => {
            if !IN_FRAGMENTS {
                return Verdict::SlowPath(SlowPath::Fragment);
            }
            match fragments::recall(tables, datagram) {
                Some(transport) => transport,
                None => return unknown_fragment_verdict(tables, datagram, kind),
            }
        }
        Payload::Unsupported if fragments::ports_of_tiny(packet, datagram).is_some() => {
            return unsupported_verdict(tables, datagram, kind, DropReason::FragmentTiny);
        }
        Payload::LaterFragment | Payload::Unsupported => {
            return unsupported_verdict(tables, datagram, kind, DropReason::UnsupportedProtocol);
        }
    };
    let key = flow::key(datagram, &transport);
    let now = tables.now();
    let Some(slot) = flow::find(tables, &key, &transport, now) else {
        return Verdict::SlowPath(SlowPath::OpenFlow);
    };
    let mapping = slot.with(|flow| Mapping::of(flow));
    let (packets, bytes) = (packet.segments(), datagram.total_len);
    let record = || {
        slot.with(|flow| flow::record(flow, now, datagram, &transport, packets));
    };
    if mapping.layer == Layer::Kernel as u8 || mapping.layer == Layer::Stack as u8 {
        // The stack path counts its packets at egress.
        if mapping.layer == Layer::Kernel as u8 {
            record();
        }
        let verdict = other_layer_verdict(mapping.layer, kind);
        let settled = if verdict == Verdict::Pass {
            PartsState::Passed
        } else {
            PartsState::Routed
        };
        return fragment_verdict::<_, _, IN_FRAGMENTS>(
            packet, tables, datagram, &transport, settled,
        )
        .unwrap_or(verdict);
    }
    if mapping.layer == Layer::Ended as u8 {
        return Verdict::Reject(DropReason::NoFlow, LocalReplyKind::TcpReset.without_mtu());
    }
    let translation = mapping.translation();
    let verdict = if mapping.layer == Layer::Local as u8 {
        in_place::<_, _, IN_FRAGMENTS>(packet, tables, datagram, &transport, &translation)
    } else {
        match tables.route(mapping.backend.address) {
            Some(route) => deliver::<_, _, IN_FRAGMENTS>(
                packet,
                tables,
                datagram,
                &transport,
                &translation,
                &route,
            ),
            None => Verdict::Drop(DropReason::NoRoute),
        }
    };
    match verdict {
        Verdict::Forward { .. } | Verdict::Continue => {
            record();
            tables.count(Count::ToBackend, packets, bytes);
        }
        // The client waits for an answer all the same.
        Verdict::Drop(DropReason::NoRoute) | Verdict::Reject(DropReason::NoRoute, _) => record(),
        _ => {}
    }
    verdict
}

/// The verdict on a later fragment whose first has not come: it waits for it where it would be dropped otherwise. Where the
/// kernel takes it, that puts datagrams together in any order.
#[inline(always)]
fn unknown_fragment_verdict<T: Tables>(
    tables: &T,
    datagram: &Datagram,
    kind: DestinationKind,
) -> Verdict {
    match unsupported_verdict(tables, datagram, kind, DropReason::FragmentUnknown) {
        Verdict::Drop(_) => Verdict::SlowPath(SlowPath::HoldFragment),
        verdict => verdict,
    }
}

/// Whether a packet to a NAT address may be a reply, as far as its addresses tell. Whose those of other nodes are only
/// the ports tell, and they may be the node's own: they are not held back.
#[inline(always)]
fn may_be_reply<T: Tables>(tables: &T, datagram: &Datagram) -> bool {
    tables.destination(datagram.source()) == Some(DestinationKind::Pod)
}

/// The verdict on what is no reply, and so the node's own. The first of its fragments tells what the others are.
#[inline(always)]
fn pass_reply<P: Packet, T: Tables, const IN_FRAGMENTS: bool>(
    packet: &P,
    tables: &T,
    datagram: &Datagram,
    transport: &Transport,
) -> Verdict {
    if datagram.is_first_fragment() && may_be_reply(tables, datagram) {
        return fragment_verdict::<_, _, IN_FRAGMENTS>(
            packet,
            tables,
            datagram,
            transport,
            PartsState::Passed,
        )
        .unwrap_or(Verdict::Pass);
    }
    Verdict::Pass
}

/// [`translate_in_place`] for a packet that the kernel has not put together.
#[inline(always)]
fn in_place<P: Packet, T: Tables, const IN_FRAGMENTS: bool>(
    packet: &mut P,
    tables: &T,
    datagram: &Datagram,
    transport: &Transport,
    translation: &Translation,
) -> Verdict {
    fragment_verdict::<_, _, IN_FRAGMENTS>(packet, tables, datagram, transport, PartsState::Open)
        .unwrap_or_else(|| translate_in_place(packet, tables, datagram, transport, translation))
}

#[inline(always)]
fn from_backend<P: Packet, T: Tables, const IN_FRAGMENTS: bool>(
    packet: &mut P,
    tables: &T,
    datagram: &Datagram,
) -> Verdict {
    let transport = match Payload::of(packet, datagram) {
        Payload::Transport(transport) => transport,
        Payload::IcmpError => return Verdict::SlowPath(SlowPath::IcmpError),
        Payload::LaterFragment | Payload::Unsupported => {
            let known = Transport::portless(datagram)
                .or_else(|| fragments::ports_of_tiny(packet, datagram));
            if !IN_FRAGMENTS && known.is_none() && datagram.is_later_fragment() {
                return Verdict::SlowPath(SlowPath::Fragment);
            }
            match known.or_else(|| fragments::recall(tables, datagram)) {
                Some(transport) => transport,
                None if datagram.is_later_fragment() && may_be_reply(tables, datagram) => {
                    return Verdict::SlowPath(SlowPath::HoldFragment);
                }
                None => return Verdict::Pass,
            }
        }
    };
    let key = flow::reply_key(datagram, &transport);
    let Some(slot) = tables.reply(&key) else {
        return pass_reply::<_, _, IN_FRAGMENTS>(packet, tables, datagram, &transport);
    };
    let now = tables.now();
    let (translation, seen, layer) =
        slot.with(|reply| (flow::to_client(reply), reply.last_seen, reply.layer));
    if since(now, seen) >= flow::EXPIRY_CHECK_AFTER && flow::has_expired(tables, &key) {
        return pass_reply::<_, _, IN_FRAGMENTS>(packet, tables, datagram, &transport);
    }
    let verdict = if layer == Layer::Stack as u8 {
        in_place::<_, _, IN_FRAGMENTS>(packet, tables, datagram, &transport, &translation)
    } else {
        let Some(route) = tables.route(translation.destination.address) else {
            return Verdict::Drop(DropReason::NoRoute);
        };
        deliver::<_, _, IN_FRAGMENTS>(packet, tables, datagram, &transport, &translation, &route)
    };
    if let Verdict::Forward { .. } | Verdict::Continue = verdict {
        let (packets, bytes) = (packet.segments(), datagram.total_len);
        flow::record_answer(
            tables,
            &slot,
            &key,
            now,
            transport.tcp_flags,
            packets,
            bytes,
        );
        tables.count(Count::ToClient, packets, bytes);
    }
    verdict
}
