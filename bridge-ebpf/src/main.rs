//! office-bridge's engine in the kernel: TC and XDP programs over one set of tables.
//!
//! [`maps`] declares the tables and binds them to the engine's `Tables`, [`skb`] binds a socket buffer
//! to its `Packet` and [`xdp`] a frame to its `Frame`. What to do with a packet is decided in `bridge-common`;
//! this crate only turns the verdict into an action.

#![no_std]
#![no_main]
#![allow(
    clippy::inline_always,
    reason = "a call costs stack, and what is not a call of its own must be inlined"
)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "sizes of a few bytes, and helpers that return a small number in 64 bits"
)]
#![allow(
    clippy::needless_pass_by_value,
    reason = "how the attribute of a program passes the context"
)]
#![allow(
    missing_docs,
    reason = "the attribute of a program makes a second function, without the documentation of the first"
)]

mod maps;
mod skb;
mod xdp;

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action};
use aya_ebpf::btf_maps::ProgramArray;
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use aya_log_ebpf::warn;
use bridge_common::counters::Count;
use bridge_common::drops::DropReason;
use bridge_common::path::tc::Side;
use bridge_common::path::xdp::Step;
use bridge_common::path::{self, fragment, local, stack, tc};
use bridge_common::tables::Tables as _;
use bridge_common::verdict::{PackedVerdict, tag};

use crate::maps::{Maps, TC_NEXT, XDP_NEXT, XDP_NEXT_FRAGS};
use crate::skb::Skb;
use crate::xdp::Xdp;

/// Interfaces where clients come in.
#[classifier]
pub fn uplink_ingress(context: TcContext) -> i32 {
    classify(&context, Side::Uplink)
}

/// Interfaces behind which the backends are.
#[classifier]
pub fn cluster_ingress(context: TcContext) -> i32 {
    classify(&context, Side::Cluster)
}

/// Fragments, behind [`uplink_ingress`] and [`cluster_ingress`].
#[classifier]
pub fn fragment_ingress(context: TcContext) -> i32 {
    let Some(mut packet) = Skb::ipv4(&context) else {
        return TC_ACT_UNSPEC;
    };
    let (decided, is_uplink) = packet.handed_over();
    let side = if is_uplink {
        Side::Uplink
    } else {
        Side::Cluster
    };
    let decided = PackedVerdict::from_word(decided);
    let verdict = fragment::handle(&mut packet, &Maps, side, decided);
    act(&context, &mut packet, verdict, Hook::Ingress)
}

/// Interfaces by which the kernel sends to backends. Where the uplink is one, this does what [`uplink_egress`] does.
#[classifier]
pub fn cluster_egress(context: TcContext) -> i32 {
    let Some(mut packet) = Skb::ipv4(&context) else {
        return TC_ACT_UNSPEC;
    };
    if packet.take_from_uplink() {
        handle_egress(&context, &mut packet)
    } else {
        handle_own(&context, &mut packet)
    }
}

/// Interfaces where clients come in, where a service has a backend on this node itself.
#[classifier]
pub fn uplink_egress(context: TcContext) -> i32 {
    match Skb::ipv4(&context) {
        Some(mut packet) => handle_own(&context, &mut packet),
        None => TC_ACT_UNSPEC,
    }
}

/// What this node itself has made.
#[inline(always)]
fn handle_own(context: &TcContext, packet: &mut Skb) -> i32 {
    if !packet.is_of_this_node() {
        return TC_ACT_UNSPEC;
    }
    let verdict = local::handle(packet, &Maps);
    act(context, packet, verdict, Hook::Egress)
}

/// [`cluster_egress`] for any packet, wherever it comes from. Never attached: a test run of the kernel can't say
/// where a packet comes from.
#[classifier]
pub fn any_egress(context: TcContext) -> i32 {
    match Skb::ipv4(&context) {
        Some(mut packet) => handle_egress(&context, &mut packet),
        None => TC_ACT_UNSPEC,
    }
}

#[inline(always)]
fn handle_egress(context: &TcContext, packet: &mut Skb) -> i32 {
    let verdict = stack::handle(packet, &Maps);
    act(context, packet, verdict, Hook::Egress)
}

/// Interfaces of both sides: packets of flows that are there.
#[xdp]
pub fn xdp_fast(context: XdpContext) -> u32 {
    match path::xdp::forward(&mut Xdp::new(&context), &Maps) {
        Step::OpenFlow => continue_with(&XDP_NEXT, &context),
        step => Xdp::act(step),
    }
}

/// The first packets of flows, behind [`xdp_fast`].
#[xdp]
pub fn xdp_open(context: XdpContext) -> u32 {
    Xdp::act(path::xdp::open(&mut Xdp::new(&context), &Maps))
}

/// [`xdp_fast`] where the MTU is too large for one buffer. Frames that need several are left to TC: not every driver
/// that receives such frames can send them.
#[xdp(frags)]
pub fn xdp_fast_frags(context: XdpContext) -> u32 {
    let mut frame = Xdp::new(&context);
    if frame.has_frags() {
        return xdp_action::XDP_PASS;
    }
    match path::xdp::forward(&mut frame, &Maps) {
        Step::OpenFlow => continue_with(&XDP_NEXT_FRAGS, &context),
        step => Xdp::act(step),
    }
}

/// [`xdp_open`] behind [`xdp_fast_frags`].
#[xdp(frags)]
pub fn xdp_open_frags(context: XdpContext) -> u32 {
    Xdp::act(path::xdp::open(&mut Xdp::new(&context), &Maps))
}

/// Lets another program have the packet as it is; where there is none, TC.
#[inline(always)]
fn continue_with(next: &ProgramArray<1>, context: &XdpContext) -> u32 {
    // SAFETY: returns only if there is no such program, and nothing was done by then.
    unsafe { next.tail_call(context, 0) };
    xdp_action::XDP_PASS
}

/// Where a packet that is reflected to its sender is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hook {
    Ingress,
    Egress,
}

#[inline(always)]
fn classify(context: &TcContext, side: Side) -> i32 {
    let Some(mut packet) = Skb::ipv4(context) else {
        return TC_ACT_UNSPEC;
    };
    // What a promiscuous uplink hears of others. At a bridge's port every frame is for another: the bridge.
    if side == Side::Uplink
        && !packet.is_for_host()
        && !packet
            .link_address()
            .is_some_and(|address| Maps::takes(&address))
    {
        return TC_ACT_UNSPEC;
    }
    let verdict = tc::handle(&mut packet, &Maps, side);
    if let Some(decided) = verdict.decided() {
        packet.hand_over(decided.to_word(), side == Side::Uplink);
        // SAFETY: returns only if there is no such program, and nothing was done by then.
        unsafe { TC_NEXT.tail_call(context, 0) };
        Maps.count(Count::Drop(DropReason::FragmentUnknown), 1, context.len());
        return TC_ACT_SHOT;
    }
    act(context, &mut packet, verdict, Hook::Ingress)
}

#[inline(always)]
fn act(context: &TcContext, packet: &mut Skb, verdict: PackedVerdict, hook: Hook) -> i32 {
    match verdict.tag() {
        // On TCX this continues with the next program and on clsact with the next filter; without
        // another the kernel goes on as if we were not there.
        tag::PASS | tag::CONTINUE => TC_ACT_UNSPEC,
        tag::TO_STACK => {
            packet.note_from_uplink();
            TC_ACT_UNSPEC
        }
        tag::FORWARD | tag::REFLECT if packet.remove_priority_tag().is_err() => TC_ACT_SHOT,
        tag::FORWARD => packet.redirect_to_neighbour(verdict.value()),
        tag::REFLECT => packet.reflect(hook == Hook::Egress),
        // TCX knows no verdict for what goes on by another way.
        tag::HELD => TC_ACT_SHOT,
        _ => {
            if verdict.tag() == tag::DROP {
                report(context, verdict.reason());
            }
            TC_ACT_SHOT
        }
    }
}

/// Logs what should not happen on a healthy node. Everything else is in the counters.
#[inline(always)]
fn report(context: &TcContext, reason: Option<DropReason>) {
    if !matches!(
        reason,
        Some(DropReason::RewriteFailed | DropReason::LocalBackend)
    ) || !Maps.may_log()
    {
        return;
    }
    let (len, ifindex) = (context.len(), Skb::ifindex(context));
    if reason == Some(DropReason::LocalBackend) {
        warn!(
            context,
            "dropped {} bytes from interface {}: the backend is this node itself", len, ifindex
        );
    } else {
        warn!(
            context,
            "dropped {} bytes from interface {}: the packet can't be rewritten", len, ifindex
        );
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
