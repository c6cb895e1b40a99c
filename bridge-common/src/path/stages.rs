//! Stages that the TC and the stack path share.

use crate::counters::Count;
use crate::drops::DropReason;
use crate::packet::{Packet, Resizable};
use crate::path::{icmp_error, local_reply};
use crate::tables::Tables;
use crate::verdict::{PackedVerdict, tag};

/// Translates a packet by its flow. Where there is none, `open` opens one, and `translate` has a second try: between
/// the two, in the kernel, nothing of the first remains on the stack.
#[inline(always)]
pub fn with_flow<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    translate: impl Fn(&mut P, &T) -> PackedVerdict,
    open: impl Fn(&P, &T) -> PackedVerdict,
) -> PackedVerdict {
    let mut verdict = translate(packet, tables);
    if verdict.tag() == tag::OPEN_FLOW {
        verdict = open(packet, tables);
        if verdict.tag() == tag::OPEN_FLOW {
            verdict = translate(packet, tables);
            if verdict.tag() == tag::OPEN_FLOW {
                // Another CPU has removed the flow between the two.
                verdict = PackedVerdict::drop(DropReason::TableFull);
            }
        }
    }
    verdict
}

/// Translates an ICMP error by the flow of the packet that it quotes; `unmatched` is the verdict on one that no flow
/// knows. `is_departing` says that the kernel has routed the error already, and that it is about to leave.
///
/// A function of its own, so that what it needs of the stack is not taken from all others.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn translate_icmp_error<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    is_departing: bool,
    unmatched: impl Fn(&P, &T) -> PackedVerdict,
) -> PackedVerdict {
    let mut found = icmp_error::ErrorTranslation::default();
    if icmp_error::find(packet, tables, is_departing, &mut found) {
        icmp_error::translate(packet, tables, &found)
    } else {
        unmatched(packet, tables)
    }
}

/// Counts a packet that goes no further, by its reason.
#[inline(always)]
pub fn count_drop<P: Packet, T: Tables>(packet: &P, tables: &T, verdict: PackedVerdict) {
    if matches!(verdict.tag(), tag::DROP | tag::REJECT)
        && let Some(reason) = verdict.reason()
    {
        tables.count(Count::Drop(reason), packet.segments(), packet.len());
    }
}

/// Turns a packet that is to be answered or rejected into what its sender gets.
#[inline(always)]
pub fn tell_sender<P: Resizable, T: Tables>(
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
