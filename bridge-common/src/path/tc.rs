//! The TC path, which handles every packet that XDP and the kernel do not: one packet in, one verdict out.

use crate::conntrack::{kernel_owned, note, open};
use crate::packet::{Holdable, Packet, Resizable};
use crate::path::by_flow::translate;
use crate::path::stages::{count_drop, tell_sender, translate_icmp_error, with_flow};
use crate::path::{fragment, icmp_error};
use crate::tables::Tables;
use crate::verdict::{PackedVerdict, Verdict, tag};

pub use crate::path::by_flow::Side;

/// Handles a packet to the end: decides, translates or answers it, and counts what became of it.
pub fn run<P: Resizable + Holdable, T: Tables>(packet: &mut P, tables: &T, side: Side) -> Verdict {
    let verdict = handle(packet, tables, side);
    match verdict.decided() {
        Some(decided) => fragment::handle(packet, tables, side, decided),
        None => verdict,
    }
    .into()
}

/// The stages of the path, in order. The verdict comes in a register. A fragment is for [`fragment::handle`] then, in the
/// kernel a program of its own, with [`PackedVerdict::decided`].
#[inline(always)]
pub fn handle<P: Resizable, T: Tables>(packet: &mut P, tables: &T, side: Side) -> PackedVerdict {
    // Only what comes in by the uplink opens flows.
    let mut verdict = if side == Side::Uplink {
        with_flow(packet, tables, translate_by_flow::<_, _, true>, open_flow)
    } else {
        translate_by_flow::<_, _, false>(packet, tables)
    };
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

/// [`open::open`]; a first fragment that opens no flow and goes no further, or to the kernel, is noted for those that
/// follow.
#[inline(always)]
fn open_flow<P: Packet, T: Tables>(packet: &P, tables: &T) -> PackedVerdict {
    let verdict = open::open(packet, tables);
    let is_settled = matches!(verdict.tag(), tag::PASS | tag::TO_STACK | tag::LOCAL_REPLY);
    if is_settled && fragment::is_noted(packet, tables, verdict) {
        PackedVerdict::fragment(verdict)
    } else {
        verdict
    }
}

/// Translates a packet whose flow is known; any other is for a later stage. The stages are functions beside each other,
/// not below each other: a program in the kernel has 512 bytes of stack for a whole chain of calls.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn translate_by_flow<P: Packet, T: Tables, const IS_UPLINK: bool>(
    packet: &mut P,
    tables: &T,
) -> PackedVerdict {
    let side = if IS_UPLINK {
        Side::Uplink
    } else {
        Side::Cluster
    };
    translate::<_, _, false>(packet, tables, side)
}
