//! What measures a forwarder: a generator of packets, a sink that counts them, and the programs that bound
//! what a forwarder can reach. An object of its own; no node has it.
//!
//! The generator is run by `BPF_PROG_TEST_RUN` with `BPF_F_TEST_XDP_LIVE_FRAMES`. The kernel recycles the pages with
//! what the path has written into them, so it writes each packet anew.

#![no_std]
#![no_main]
#![allow(
    clippy::inline_always,
    reason = "a call costs more than most of these functions"
)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "halves of addresses, sizes of a few bytes, and how helpers take their flags"
)]
#![allow(
    clippy::needless_pass_by_value,
    reason = "how the attribute of a program passes the context"
)]
#![allow(
    missing_docs,
    reason = "the attribute of a program makes a second function, without the documentation of the first"
)]

mod flows;
mod frame;
#[allow(dead_code, reason = "the bench needs more of it than the programs")]
mod layout;

use core::ptr::NonNull;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{__sk_buff, TC_ACT_OK, TC_ACT_SHOT, xdp_action};
use aya_ebpf::btf_maps::{Array, PerCpuArray, ProgramArray};
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_xdp_adjust_head};
use aya_ebpf::macros::{btf_map, classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};

use crate::flows::tuple;
use crate::frame::{Frame, Tunnelled};
use crate::layout::{Detour, Expectation, FRAME, Pattern, outcome};

#[btf_map(name = "pattern")]
static PATTERN: Array<Pattern, 1> = Array::new();

/// How many packets were generated: the next one is that flow's.
#[btf_map(name = "position")]
static POSITION: Array<u32, 1> = Array::new();

#[btf_map(name = "expectation")]
static EXPECTATION: Array<Expectation, 1> = Array::new();

#[btf_map(name = "outcomes")]
static OUTCOMES: PerCpuArray<u64, { outcome::BAD_CHECKSUM as usize + 1 }> = PerCpuArray::new();

#[btf_map(name = "detour")]
static DETOUR: Array<Detour, 1> = Array::new();

/// The program whose cost is measured.
#[btf_map(name = "measured_xdp")]
static MEASURED_XDP: ProgramArray<1> = ProgramArray::new();

/// See [`MEASURED_XDP`]; for programs that take packets in more than one buffer. The kernel runs one kind after its like
/// only, and a table holds one kind.
#[btf_map(name = "measured_frags")]
static MEASURED_FRAGS: ProgramArray<1> = ProgramArray::new();

/// See [`MEASURED_XDP`].
#[btf_map(name = "measured_tc")]
static MEASURED_TC: ProgramArray<1> = ProgramArray::new();

/// A view of `T` at the start of the packet.
#[inline(always)]
fn at<'a, T>(data: usize, end: usize) -> Option<&'a mut T> {
    if data + size_of::<T>() > end {
        return None;
    }
    // SAFETY: the bounds were checked, as the verifier demands, nobody else has the packet, and all of these
    // types consist of 16-bit words, at even addresses.
    NonNull::new(data as *mut T).map(|mut view| unsafe { view.as_mut() })
}

/// Writes the next packet.
#[inline(always)]
fn generate(data: usize, end: usize, pattern: &Pattern) -> Option<()> {
    let position = POSITION.get_ptr_mut(0).and_then(NonNull::new)?;
    // SAFETY: an array's element is always there, and one CPU generates.
    let number = unsafe {
        let number = *position.as_ptr();
        *position.as_ptr() = number.wrapping_add(1);
        number
    };
    let number = pattern
        .first
        .wrapping_add(number.checked_rem(pattern.flows)?);
    let tuple = tuple(pattern.kind, number, pattern.services, pattern.nat);
    if pattern.encapsulated == 0 {
        at::<Frame>(data, end)?.write(&pattern.ethernet, &tuple);
    } else {
        let packet: &mut Tunnelled = at(data, end)?;
        packet.outer = pattern.outer;
        packet.frame.write(&pattern.ethernet, &tuple);
    }
    Some(())
}

#[xdp]
pub fn generator(context: XdpContext) -> u32 {
    let Some(pattern) = PATTERN.get(0) else {
        return xdp_action::XDP_ABORTED;
    };
    if generate(context.data(), context.data_end(), pattern).is_none() {
        return xdp_action::XDP_ABORTED;
    }
    // SAFETY: a plain helper call.
    unsafe { bpf_redirect(pattern.ifindex, 0) as u32 }
}

/// Counts what comes in and drops it.
#[xdp]
pub fn sink(context: XdpContext) -> u32 {
    let outcome = EXPECTATION
        .get(0)
        .and_then(|expected| judge(context.data(), context.data_end(), expected));
    if let Some(count) = outcome
        .and_then(|outcome| OUTCOMES.get_ptr_mut(outcome))
        .and_then(NonNull::new)
    {
        // SAFETY: an array's element is always there, and each CPU has its own.
        unsafe { *count.as_ptr() += 1 };
    }
    xdp_action::XDP_DROP
}

/// One of [`outcome`], or nothing if it is no IPv4.
#[inline(always)]
fn judge(data: usize, end: usize, expected: &Expectation) -> Option<u32> {
    let frame = at::<Frame>(data, end).filter(|frame| frame.is_ipv4())?;
    let inner = if expected.tunnel_port == 0 {
        Some(frame)
    } else if frame.is_udp() && u32::from(frame.udp[1]) == expected.tunnel_port {
        at::<Tunnelled>(data, end).map(|packet| &mut packet.frame)
    } else {
        None
    };
    let Some(inner) = inner.filter(|frame| frame.is_udp()) else {
        return Some(outcome::OTHER);
    };
    let (source, destination) = inner.addresses();
    let is_expected = source & expected.source_mask == expected.source
        && destination & expected.destination_mask == expected.destination;
    Some(if !is_expected {
        outcome::OTHER
    } else if expected.verify != 0 && !inner.is_sound() {
        outcome::BAD_CHECKSUM
    } else {
        outcome::EXPECTED
    })
}

/// Sends every packet on as it is, with other Ethernet addresses: the least that a forwarder does.
#[xdp]
pub fn redirect(context: XdpContext) -> u32 {
    let Some(detour) = DETOUR.get(0) else {
        return xdp_action::XDP_ABORTED;
    };
    let Some(addresses) = at::<[u16; 6]>(context.data(), context.data_end()) else {
        return xdp_action::XDP_ABORTED;
    };
    *addresses = detour.addresses;
    // SAFETY: a plain helper call.
    unsafe { bpf_redirect(detour.ifindex, 0) as u32 }
}

#[xdp]
pub fn pass_xdp(_context: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

#[classifier]
pub fn pass_tc(_context: TcContext) -> i32 {
    TC_ACT_OK
}

/// Writes a packet and lets the measured program have it: a test run does not undo what a program has done to the
/// packet before the next repetition.
#[xdp]
pub fn measure_xdp(context: XdpContext) -> u32 {
    prepare_xdp(&context).map_or(xdp_action::XDP_ABORTED, |()| {
        // SAFETY: does not return, or else there is no program to run.
        unsafe { MEASURED_XDP.tail_call(&context, 0) };
        xdp_action::XDP_ABORTED
    })
}

/// [`measure_xdp`] for programs that take packets in more than one buffer.
#[xdp(frags)]
pub fn measure_frags(context: XdpContext) -> u32 {
    prepare_xdp(&context).map_or(xdp_action::XDP_ABORTED, |()| {
        // SAFETY: does not return, or else there is no program to run.
        unsafe { MEASURED_FRAGS.tail_call(&context, 0) };
        xdp_action::XDP_ABORTED
    })
}

#[inline(always)]
fn prepare_xdp(context: &XdpContext) -> Option<()> {
    let pattern = PATTERN.get(0)?;
    let wanted = if pattern.encapsulated == 0 {
        FRAME
    } else {
        size_of::<Tunnelled>()
    };
    let surplus = (context.data_end() - context.data()) as i32 - wanted as i32;
    if surplus != 0 {
        // SAFETY: the context is the kernel's, and the packet's bounds are read again after it.
        (unsafe { bpf_xdp_adjust_head(context.ctx, surplus) } == 0).then_some(())?;
    }
    generate(context.data(), context.data_end(), pattern)
}

/// [`measure_xdp`] for TC programs.
#[classifier]
pub fn measure_tc(context: TcContext) -> i32 {
    let skb: *mut __sk_buff = context.as_ptr().cast();
    // SAFETY: the kernel passes a valid context, and the verifier checks every access to it.
    let (data, end) = unsafe { ((*skb).data as usize, (*skb).data_end as usize) };
    let written = PATTERN
        .get(0)
        .and_then(|pattern| generate(data, end, pattern));
    if written.is_some() {
        // SAFETY: does not return, or else there is no program to run.
        unsafe { MEASURED_TC.tail_call(&context, 0) };
    }
    TC_ACT_SHOT
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
