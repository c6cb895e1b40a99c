//! The stage of the TC path that most packets need and no other: translation by the flow that is there.

use crate::abi::{DestinationKind, Layer, PartsState, since};
use crate::conntrack::flow::{self, Mapping};
use crate::conntrack::{fragments, note};
use crate::counters::Count;
use crate::drops::DropReason;
use crate::packet::Packet;
use crate::packet::parse::{Datagram, Payload, Transport};
use crate::packet::rewrite::Translation;
use crate::path::forward::{deliver, fragment_verdict, translate_in_place};
use crate::path::unsupported::{other_layer_verdict, unsupported_verdict};
use crate::tables::{Slot, Tables};
use crate::verdict::{LocalReplyKind, PackedVerdict, SlowPath, Verdict};

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
) -> PackedVerdict {
    let Some(datagram) = Datagram::parse(packet) else {
        return PackedVerdict::PASS;
    };
    match (tables.destination(datagram.destination()), side) {
        (Some(DestinationKind::Nat), _) => {
            from_backend::<_, _, IN_FRAGMENTS>(packet, tables, &datagram)
        }
        (Some(kind), Side::Uplink) => {
            from_client::<_, _, IN_FRAGMENTS>(packet, tables, &datagram, kind)
        }
        (None, side) if !IN_FRAGMENTS && may_come_from_pod(tables, &datagram, side) => {
            Verdict::SlowPath(SlowPath::LeavesCluster).into()
        }
        (Some(_), Side::Cluster) | (None, _) => PackedVerdict::PASS,
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
) -> PackedVerdict {
    let transport = match Payload::of(packet, datagram) {
        Payload::Transport(transport) => transport,
        Payload::IcmpError => return Verdict::SlowPath(SlowPath::IcmpError).into(),
        Payload::LaterFragment if Transport::portless(datagram).is_none() => {
            if !IN_FRAGMENTS {
                return Verdict::SlowPath(SlowPath::Fragment).into();
            }
            match fragments::recall(tables, datagram) {
                Some(transport) => transport,
                None => return unknown_fragment_verdict(tables, datagram, kind).into(),
            }
        }
        Payload::Unsupported if fragments::ports_of_tiny(packet, datagram).is_some() => {
            return unsupported_verdict(tables, datagram, kind, DropReason::FragmentTiny).into();
        }
        Payload::LaterFragment | Payload::Unsupported => {
            return unsupported_verdict(tables, datagram, kind, DropReason::UnsupportedProtocol)
                .into();
        }
    };
    let key = flow::key(datagram, &transport);
    let now = tables.now();
    let Some(slot) = flow::find(tables, &key, &transport, now) else {
        return Verdict::SlowPath(SlowPath::OpenFlow).into();
    };
    let mapping = slot.with(|flow| Mapping::of(flow));
    let packets = packet.segments();
    if mapping.layer == Layer::Kernel as u8 || mapping.layer == Layer::Stack as u8 {
        let verdict = other_layer_verdict(mapping.layer, kind);
        let settled = if verdict == Verdict::Pass {
            PartsState::Passed
        } else {
            PartsState::Routed
        };
        if let Some(verdict) =
            fragment_verdict::<_, _, IN_FRAGMENTS>(packet, tables, datagram, &transport, settled)
        {
            return verdict.into();
        }
        // The stack path counts its packets at egress.
        if mapping.layer == Layer::Kernel as u8 {
            slot.with(|flow| flow::record_untranslated(flow, now, datagram, &transport, packets));
        }
        return verdict.into();
    }
    if mapping.layer == Layer::Ended as u8 {
        return PackedVerdict::reject(DropReason::NoFlow, LocalReplyKind::TcpReset);
    }
    let translation = mapping.translation();
    let verdict: PackedVerdict = if mapping.layer == Layer::Local as u8 {
        in_place::<_, _, IN_FRAGMENTS>(packet, tables, datagram, &transport, &translation).into()
    } else {
        match tables.route(mapping.backend.address) {
            Some(route) => deliver::<_, _, IN_FRAGMENTS>(
                packet,
                tables,
                datagram,
                &transport,
                &translation,
                &route,
            )
            .into(),
            None => PackedVerdict::drop(DropReason::NoRoute),
        }
    };
    let is_sent = verdict.is_sent();
    // The client waits for an answer all the same where there is no way.
    if is_sent || verdict.reason() == Some(DropReason::NoRoute) {
        let says_more = slot.with(|flow| {
            if Layer::is_untranslated(flow.layer) {
                flow::record_untranslated(flow, now, datagram, &transport, packets);
                false
            } else {
                flow::record(flow, now, datagram, &transport, packets)
            }
        });
        if is_sent {
            tables.count(Count::ToBackend, packets, datagram.total_len);
            if says_more {
                return verdict.with_note(note::TO_BACKEND);
            }
        }
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
) -> PackedVerdict {
    let transport = match Payload::of(packet, datagram) {
        Payload::Transport(transport) => transport,
        Payload::IcmpError => return Verdict::SlowPath(SlowPath::IcmpError).into(),
        Payload::LaterFragment | Payload::Unsupported => {
            let known = Transport::portless(datagram)
                .or_else(|| fragments::ports_of_tiny(packet, datagram));
            if !IN_FRAGMENTS && known.is_none() && datagram.is_later_fragment() {
                return Verdict::SlowPath(SlowPath::Fragment).into();
            }
            match known.or_else(|| fragments::recall(tables, datagram)) {
                Some(transport) => transport,
                None if datagram.is_later_fragment() && may_be_reply(tables, datagram) => {
                    return Verdict::SlowPath(SlowPath::HoldFragment).into();
                }
                None => return PackedVerdict::PASS,
            }
        }
    };
    let key = flow::reply_key(datagram, &transport);
    let Some(slot) = tables.reply(&key) else {
        return pass_reply::<_, _, IN_FRAGMENTS>(packet, tables, datagram, &transport).into();
    };
    let now = tables.now();
    let (translation, seen, layer) =
        slot.with(|reply| (flow::to_client(reply), reply.last_seen, reply.layer()));
    if since(now, seen) >= flow::EXPIRY_CHECK_AFTER && flow::has_expired(tables, &key) {
        return pass_reply::<_, _, IN_FRAGMENTS>(packet, tables, datagram, &transport).into();
    }
    let verdict: PackedVerdict = if layer == Layer::Stack as u8 {
        in_place::<_, _, IN_FRAGMENTS>(packet, tables, datagram, &transport, &translation).into()
    } else {
        let Some(route) = tables.route(translation.destination.address) else {
            return PackedVerdict::drop(DropReason::NoRoute);
        };
        deliver::<_, _, IN_FRAGMENTS>(packet, tables, datagram, &transport, &translation, &route)
            .into()
    };
    if verdict.is_sent() {
        let packets = packet.segments();
        tables.count(Count::ToClient, packets, datagram.total_len);
        if flow::record_answer(tables, &slot, &key, now, datagram, &transport, packets) {
            return verdict.with_note(note::TO_CLIENT);
        }
    }
    verdict
}
