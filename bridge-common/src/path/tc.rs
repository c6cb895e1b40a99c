//! The TC path, which handles every packet that XDP and the kernel do not: one packet in, one verdict out.

use crate::abi::{DestinationKind, Layer, since};
use crate::conntrack::flow::{self, Mapping};
use crate::conntrack::{fragments, kernel_owned, note, open};
use crate::counters::Count;
use crate::drops::DropReason;
use crate::packet::parse::{Datagram, Payload, Transport};
use crate::packet::{Packet, Resizable};
use crate::path::forward::{deliver, translate_in_place};
use crate::path::stages::{count_drop, translate_icmp_error, with_flow};
use crate::path::unsupported::{other_layer_verdict, unsupported_verdict};
use crate::path::{icmp_error, local_reply};
use crate::tables::{Slot, Tables};
use crate::verdict::{LocalReplyKind, PackedVerdict, SlowPath, Verdict, tag};

/// Where a packet came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// An interface where clients come in. In a host-gw cluster replies may come in there too.
    Uplink,
    /// An interface behind which the backends are.
    Cluster,
}

/// Handles a packet to the end: decides, translates or answers it, and counts what became of it.
pub fn run<P: Resizable, T: Tables>(packet: &mut P, tables: &T, side: Side) -> Verdict {
    handle(packet, tables, side).into()
}

/// The stages of the path, in order. The verdict comes in a register.
#[inline(always)]
pub fn handle<P: Resizable, T: Tables>(packet: &mut P, tables: &T, side: Side) -> PackedVerdict {
    let mut verdict = with_flow(
        packet,
        tables,
        |packet, tables| translate_by_flow(packet, tables, side),
        open::open,
    );
    match verdict.note() {
        note::TO_BACKEND => note::to_backend(packet, tables),
        note::TO_CLIENT => note::to_client(packet, tables),
        _ => {}
    }
    if verdict.tag() == tag::LEAVES_CLUSTER {
        kernel_owned::mark_connection_of_pod(packet, tables);
        return PackedVerdict::PASS;
    }
    if verdict.tag() == tag::ICMP_ERROR {
        verdict = translate_icmp_error(packet, tables, false, icmp_error::unmatched_verdict);
    }
    count_drop(packet, tables, verdict);
    tell_sender(packet, tables, verdict)
}

/// Turns a packet that is to be answered or rejected into what its sender gets.
#[inline(always)]
fn tell_sender<P: Resizable, T: Tables>(
    packet: &mut P,
    tables: &T,
    verdict: PackedVerdict,
) -> PackedVerdict {
    if !matches!(verdict.tag(), tag::LOCAL_REPLY | tag::REJECT) {
        return verdict;
    }
    if local_reply::write(packet, tables, verdict.reply_kind(), verdict.value()) {
        return PackedVerdict::REFLECT;
    }
    // No reply could be made. A rejection is counted already.
    match verdict.reason() {
        Some(reason) if verdict.tag() == tag::REJECT => PackedVerdict::drop(reason),
        _ => {
            tables.count(Count::Drop(DropReason::RewriteFailed), 1, packet.len());
            PackedVerdict::drop(DropReason::RewriteFailed)
        }
    }
}

/// Translates a packet whose flow is known; any other is for a later stage. The stages are functions beside each other,
/// not below each other: a program in the kernel has 512 bytes of stack for a whole chain of calls.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn translate_by_flow<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    side: Side,
) -> PackedVerdict {
    let Some(datagram) = Datagram::parse(packet) else {
        return PackedVerdict::PASS;
    };
    match (tables.destination(datagram.destination()), side) {
        (Some(DestinationKind::Nat), _) => from_backend(packet, tables, &datagram),
        (Some(kind), Side::Uplink) => from_client(packet, tables, &datagram, kind),
        (None, side) if may_come_from_pod(tables, &datagram, side) => {
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
fn from_client<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    datagram: &Datagram,
    kind: DestinationKind,
) -> PackedVerdict {
    let transport = match Payload::of(packet, datagram) {
        Payload::Transport(transport) => transport,
        Payload::IcmpError => return Verdict::SlowPath(SlowPath::IcmpError).into(),
        Payload::LaterFragment if Transport::portless(datagram).is_none() => {
            match fragments::recall(tables, datagram) {
                Some(transport) => transport,
                None => {
                    return unsupported_verdict(
                        tables,
                        datagram,
                        kind,
                        DropReason::FragmentUnknown,
                    )
                    .into();
                }
            }
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
        // The stack path counts its packets at egress.
        if mapping.layer == Layer::Kernel as u8 {
            slot.with(|flow| flow::record_untranslated(flow, now, datagram, &transport, packets));
        }
        fragments::remember(tables, datagram, &transport);
        return other_layer_verdict(mapping.layer, kind).into();
    }
    if mapping.layer == Layer::Ended as u8 {
        return PackedVerdict::reject(DropReason::NoFlow, LocalReplyKind::TcpReset);
    }
    let translation = mapping.translation();
    let verdict: PackedVerdict = if mapping.layer == Layer::Local as u8 {
        translate_in_place(packet, tables, datagram, &transport, &translation).into()
    } else {
        match tables.route(mapping.backend.address) {
            Some(route) => {
                deliver(packet, tables, datagram, &transport, &translation, &route).into()
            }
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

#[inline(always)]
fn from_backend<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    datagram: &Datagram,
) -> PackedVerdict {
    let transport = match Payload::of(packet, datagram) {
        Payload::Transport(transport) => transport,
        Payload::IcmpError => return Verdict::SlowPath(SlowPath::IcmpError).into(),
        Payload::LaterFragment | Payload::Unsupported => {
            match Transport::portless(datagram).or_else(|| fragments::recall(tables, datagram)) {
                Some(transport) => transport,
                None => return PackedVerdict::PASS,
            }
        }
    };
    let key = flow::reply_key(datagram, &transport);
    let Some(slot) = tables.reply(&key) else {
        return PackedVerdict::PASS;
    };
    let now = tables.now();
    let (translation, seen, layer) =
        slot.with(|reply| (flow::to_client(reply), reply.last_seen, reply.layer()));
    if since(now, seen) >= flow::EXPIRY_CHECK_AFTER && flow::has_expired(tables, &key) {
        return PackedVerdict::PASS;
    }
    let verdict: PackedVerdict = if layer == Layer::Stack as u8 {
        translate_in_place(packet, tables, datagram, &transport, &translation).into()
    } else {
        let Some(route) = tables.route(translation.destination.address) else {
            return PackedVerdict::drop(DropReason::NoRoute);
        };
        deliver(packet, tables, datagram, &transport, &translation, &route).into()
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
