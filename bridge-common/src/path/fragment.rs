//! The stages for a fragment, which is one that [`crate::path::tc`] has found to be ours, or perhaps ours.
//!
//! Fragments are few. So what they take does not lie in the way of other packets, in the kernel not even in their program.

use crate::abi::{DestinationKind, PartsState};
use crate::conntrack::fragments;
use crate::drops::DropReason;
use crate::packet::parse::{Datagram, Payload};
use crate::packet::{Holdable, Packet, Resizable};
use crate::path::by_flow::{Side, translate};
use crate::path::forward::fragment_verdict;
use crate::path::held;
use crate::path::stages::{count_drop, tell_sender};
use crate::tables::Tables;
use crate::verdict::{LocalReplyKind, PackedVerdict, SlowPath, Verdict, tag};

/// The stages, in order. `decided` is what [`PackedVerdict::decided`] gave.
#[inline(always)]
pub fn handle<P: Resizable + Holdable, T: Tables>(
    packet: &mut P,
    tables: &T,
    side: Side,
    decided: PackedVerdict,
) -> PackedVerdict {
    let mut verdict = translate_by_flow(packet, tables, side);
    if verdict.tag() == tag::OPEN_FLOW {
        verdict = without_flow(packet, tables, decided);
    }
    if verdict.tag() == tag::HOLD_FRAGMENT {
        verdict = held::hold(packet, tables);
    }
    if verdict.tag() == tag::RELEASE_FRAGMENTS {
        return held::release(packet, tables);
    }
    count_drop(packet, tables, verdict);
    tell_sender(packet, tables, verdict)
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn translate_by_flow<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    side: Side,
) -> PackedVerdict {
    // What a segment says of its connection is not noted: the end of a fragment is not known.
    translate::<_, _, true>(packet, tables, side)
}

/// Whether a packet that opens no flow is a first fragment after which others are to be treated alike. What the kernel
/// routes to a pod it puts together before.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn is_noted<P: Packet, T: Tables>(packet: &P, tables: &T, verdict: PackedVerdict) -> bool {
    let Some(datagram) = Datagram::parse(packet) else {
        return false;
    };
    let is_routed = verdict.tag() == tag::TO_STACK
        && tables.destination(datagram.destination()) == Some(DestinationKind::Pod);
    datagram.is_first_fragment() && !is_routed && tables.is_office(datagram.source())
}

/// The verdict on a fragment from a client without a flow. Of a first one it is decided. A later one shares the fate of
/// its first, and waits where that is not known yet.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn without_flow<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    decided: PackedVerdict,
) -> PackedVerdict {
    let Some(datagram) = Datagram::parse(packet) else {
        return PackedVerdict::PASS;
    };
    let transport = match Payload::of(packet, &datagram) {
        // The flow is gone again.
        Payload::Transport(_) if decided.tag() == tag::OPEN_FLOW => {
            return PackedVerdict::drop(DropReason::TableFull);
        }
        Payload::Transport(transport) => transport,
        Payload::LaterFragment => {
            let key = fragments::key(&datagram);
            let state = fragments::state_of(tables, &key, tables.now());
            if state == PartsState::Passed as u8 {
                return PackedVerdict::PASS;
            }
            if state == PartsState::Routed as u8 {
                return PackedVerdict::TO_STACK;
            }
            if state == PartsState::Answered as u8 {
                return Verdict::LocalReply(LocalReplyKind::EchoReply.without_mtu()).into();
            }
            return Verdict::SlowPath(SlowPath::HoldFragment).into();
        }
        Payload::IcmpError | Payload::Unsupported => return PackedVerdict::PASS,
    };
    let settled = match decided.tag() {
        tag::PASS => PartsState::Passed,
        tag::TO_STACK => PartsState::Routed,
        _ => PartsState::Answered,
    };
    fragment_verdict::<_, _, true>(packet, tables, &datagram, &transport, settled)
        .map_or(decided, Into::into)
}
