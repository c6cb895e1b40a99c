//! The XDP path: frames that need nothing but translation, sent on before the kernel has made socket buffers of them.
//!
//! It gives the same translation as [`crate::path::tc`], from the same tables, to packets that need nothing but that: TCP,
//! UDP and ICMP echo without IPv4 options, in one piece, that fit, may live longer, and whose next hop is known. Every
//! other frame is left as it is, for the TC programs behind it. Nothing is written before all of that is settled.

use crate::abi::{
    CachedHop, DestinationKind, FastPath, FlowKey, Ipv4, Layer, NextHop, Tunnel, XdpPort, since,
};
use crate::conntrack::flow::{self, EXPIRY_CHECK_AFTER, Mapping, to_client};
use crate::conntrack::{note, open};
use crate::counters::Count;
use crate::drops::DropReason;
use crate::packet::frame::{ETHERNET, Frame, Inside};
use crate::packet::parse::{Datagram, Payload, TCP, Transport, UDP, tcp_flag};
use crate::packet::rewrite::{Translation, translate};
use crate::packet::vxlan::{self, ETH_P_IP, INNER, OVERHEAD};
use crate::packet::{Packet, mss};
use crate::path::forward::mtu_both_ways;
use crate::tables::{Slot, Tables};
use crate::verdict::tag;

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Untouched: the kernel's, and the TC programs'.
    Pass,
    /// Out of the interface that it came in by.
    Reflect,
    /// Out of another interface.
    Redirect {
        /// Its index.
        ifindex: u32,
    },
    /// Goes no further: half written.
    Drop,
    /// The first of its flow, which is for [`open()`]. [`handle`] never returns it.
    OpenFlow,
}

/// A step in one register, the way in which it crosses function calls in the kernel; see
/// [`crate::verdict::PackedVerdict`]. The lower 32 bits are the index of the interface to redirect to; values above them are the
/// other steps.
#[derive(Clone, Copy, PartialEq, Eq)]
struct PackedStep(u64);

impl PackedStep {
    const PASS: Self = Self(1 << 32);
    const REFLECT: Self = Self(2 << 32);
    const DROP: Self = Self(3 << 32);
    const OPEN_FLOW: Self = Self(4 << 32);
}

impl From<Step> for PackedStep {
    #[inline(always)]
    fn from(step: Step) -> Self {
        match step {
            Step::Redirect { ifindex } => Self(u64::from(ifindex)),
            Step::Pass => Self::PASS,
            Step::Reflect => Self::REFLECT,
            Step::Drop => Self::DROP,
            Step::OpenFlow => Self::OPEN_FLOW,
        }
    }
}

impl From<PackedStep> for Step {
    #[inline(always)]
    fn from(packed: PackedStep) -> Self {
        match packed {
            PackedStep::PASS => Self::Pass,
            PackedStep::REFLECT => Self::Reflect,
            PackedStep::DROP => Self::Drop,
            PackedStep::OPEN_FLOW => Self::OpenFlow,
            PackedStep(ifindex) => Self::Redirect {
                ifindex: ifindex as u32,
            },
        }
    }
}

/// A packet that can be sent on, and how.
struct ForwardPlan<'a> {
    datagram: Datagram,
    transport: Transport,
    translation: Translation,
    hop: &'a NextHop,
    /// For the tunnel's source port.
    hash: u32,
    /// The largest TCP packet that both directions take; 0 to leave the MSS alone.
    clamp: u32,
}

/// Handles a frame to the end.
#[inline(always)]
pub fn handle<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Step {
    match forward(frame, tables) {
        Step::OpenFlow => open(frame, tables),
        step => step,
    }
}

/// Opens the flow that [`forward`] has missed, and sends the frame on.
#[inline(always)]
pub fn open<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Step {
    let packet = Inside::<F, ETHERNET>(frame);
    if open::open(&packet, tables).tag() != tag::OPEN_FLOW {
        // Whoever is refused is told so by TC, which finds the same.
        return Step::Pass;
    }
    match forward_first(frame, tables).into() {
        // Another CPU has removed the flow since.
        Step::OpenFlow => Step::Pass,
        step => step,
    }
}

/// [`forward`] beside [`open::open`], not above it: the stack of a program in the kernel is for a whole chain of calls.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn forward_first<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> PackedStep {
    forward(frame, tables).into()
}

/// The stages of the path, in order: sends a frame of a flow that is there; [`Step::OpenFlow`] for one that is the first
/// of its flow.
///
/// In the kernel a program of its own, without a call that every packet would make: to return from one takes as long as
/// looking a flow up, on CPUs that must not predict where it returns to.
#[inline(always)]
pub fn forward<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Step {
    let Some(fast) = tables.fast_path() else {
        return Step::Pass;
    };
    let Some(port) = ingress_port(frame, fast) else {
        return Step::Pass;
    };
    let Some(outer) = plain_header(&Inside::<F, ETHERNET>(frame)) else {
        return Step::Pass;
    };
    let kind = destination(tables, fast, outer.destination());
    match kind {
        Some(DestinationKind::Nat) => {}
        Some(_) if port.is_uplink != 0 => return from_client(frame, tables, fast, outer),
        _ => {}
    }
    if comes_from_tunnel(frame, fast, &outer) {
        let Some(inner) = plain_header(&Inside::<F, INNER>(frame)) else {
            return Step::Pass;
        };
        if !is_sound_tunnel_packet(frame, &outer, &inner) {
            return Step::Pass;
        }
        return match destination(tables, fast, inner.destination()) {
            Some(DestinationKind::Nat) => from_backend::<F, T, INNER>(frame, tables, fast, inner),
            _ => Step::Pass,
        };
    }
    match kind {
        Some(DestinationKind::Nat) => from_backend::<F, T, ETHERNET>(frame, tables, fast, outer),
        _ => Step::Pass,
    }
}

/// The interface that the frame came in by, if it is IPv4 for us.
#[inline(always)]
fn ingress_port<'a, F: Frame>(frame: &F, fast: &'a FastPath) -> Option<&'a XdpPort> {
    let [d0, d1, d2, d3, d4, d5, .., t0, t1] = frame.load::<{ ETHERNET as usize }>(0).ok()?;
    let ingress = frame.ingress();
    let port = fast.ports.iter().find(|port| port.ifindex == ingress)?;
    (port.mac == [d0, d1, d2, d3, d4, d5] && [t0, t1] == ETH_P_IP).then_some(port)
}

/// [`Tables::destination`] with `fast` at hand.
#[inline(always)]
fn destination<T: Tables>(tables: &T, fast: &FastPath, address: Ipv4) -> Option<DestinationKind> {
    fast.destination(address)
        .unwrap_or_else(|| tables.destination(address))
}

/// The header of a packet that the XDP path may take: no options, no fragment.
#[inline(always)]
fn plain_header<P: Packet>(packet: &P) -> Option<Datagram> {
    let datagram = Datagram::without_options(packet)?;
    (!datagram.is_fragment()).then_some(datagram)
}

/// Whether the frame comes out of one of our tunnels.
#[inline(always)]
fn comes_from_tunnel<F: Frame>(frame: &F, fast: &FastPath, outer: &Datagram) -> bool {
    fast.tunnels
        .iter()
        .any(|tunnel: &Tunnel| vxlan::belongs(frame, outer, tunnel))
}

/// Whether the outer packet of a tunnel fills the frame and holds all of the inner one. Bytes behind it are not the inner
/// one's, and the kernel cuts them off.
#[inline(always)]
fn is_sound_tunnel_packet<F: Frame>(frame: &F, outer: &Datagram, inner: &Datagram) -> bool {
    let ends_inside = inner.total_len + (INNER - ETHERNET) > outer.total_len;
    let has_more = frame.len() != outer.total_len + ETHERNET;
    !(ends_inside | has_more | !outer.has_sound_checksum())
}

#[inline(always)]
fn from_client<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    fast: &FastPath,
    datagram: Datagram,
) -> Step {
    let packet = Inside::<F, ETHERNET>(frame);
    let Payload::Transport(transport) = Payload::of(&packet, &datagram) else {
        return Step::Pass;
    };
    if datagram.ip.ttl <= 1 {
        return Step::Pass;
    }
    let key = flow::key(&datagram, &transport);
    let now = tables.now();
    if now > fast.valid_until {
        return Step::Pass;
    }
    let Some(slot) = flow::find(tables, &key, &transport, now) else {
        return Step::OpenFlow;
    };
    let mapping = slot.with(|flow| Mapping::of(flow));
    if mapping.layer != Layer::Tc as u8 {
        return Step::Pass;
    }
    let Some(hop) = usable(tables, next_hop(tables, fast, mapping.backend.address)) else {
        return Step::Pass;
    };
    let plan = ForwardPlan {
        datagram,
        transport,
        translation: mapping.translation(),
        hop,
        hash: if hop.vtep == 0 {
            0
        } else {
            vxlan::flow_hash(&key)
        },
        clamp: clamp(tables, &datagram, &transport, hop),
    };
    let step = send_native(frame, tables, &plan);
    if is_sent(step) {
        if slot.with(|flow| flow::record(flow, now, &datagram, &transport, 1)) {
            if hop.vtep == 0 {
                note::to_backend(&Inside::<F, ETHERNET>(frame), tables);
            } else {
                note::to_backend(&Inside::<F, INNER>(frame), tables);
            }
        }
        tables.count(Count::XdpToBackend, 1, datagram.total_len);
    }
    step
}

#[inline(always)]
fn from_backend<F: Frame, T: Tables, const AT: u32>(
    frame: &mut F,
    tables: &T,
    fast: &FastPath,
    datagram: Datagram,
) -> Step {
    let packet = Inside::<F, AT>(frame);
    let Payload::Transport(transport) = Payload::of(&packet, &datagram) else {
        return Step::Pass;
    };
    if datagram.ip.ttl <= 1 {
        return Step::Pass;
    }
    let key = flow::reply_key(&datagram, &transport);
    // Reserved ports mostly carry the node's own traffic. TC handles a flow that got such a port before it was reserved.
    if matches!(key.protocol, TCP | UDP)
        && tables
            .nat_port(key.nat_port)
            .is_none_or(|port| port.reserved != 0)
        && tables
            .settings()
            .is_none_or(|settings| settings.exclusive == 0)
    {
        return Step::Pass;
    }
    let Some(slot) = tables.reply(&key) else {
        return Step::Pass;
    };
    let now = tables.now();
    let (translation, seen, layer) =
        slot.with(|reply| (to_client(reply), reply.last_seen, reply.layer()));
    // TC checks whether an idle flow has expired.
    if layer != Layer::Tc as u8 || since(now, seen) >= EXPIRY_CHECK_AFTER || now > fast.valid_until
    {
        return Step::Pass;
    }
    let client = translation.destination;
    let Some(hop) = usable(tables, next_hop(tables, fast, client.address)) else {
        return Step::Pass;
    };
    let plan = ForwardPlan {
        datagram,
        transport,
        translation,
        hop,
        hash: if hop.vtep == 0 {
            0
        } else {
            vxlan::flow_hash(&FlowKey {
                client: datagram.source(),
                destination: client.address,
                client_port: transport.source_port,
                destination_port: client.port,
                protocol: datagram.protocol(),
                pad: 0,
                pad2: 0,
            })
        },
        clamp: clamp(tables, &datagram, &transport, hop),
    };
    let step = if AT == INNER {
        send_decapsulated(frame, tables, &plan)
    } else {
        send_native(frame, tables, &plan)
    };
    if is_sent(step) {
        if flow::record_answer(tables, &slot, &key, now, &datagram, &transport, 1) {
            note::to_client(&Inside::<F, ETHERNET>(frame), tables);
        }
        tables.count(Count::XdpToClient, 1, datagram.total_len);
    }
    step
}

const fn is_sent(step: Step) -> bool {
    matches!(step, Step::Reflect | Step::Redirect { .. })
}

#[inline(always)]
fn next_hop<T: Tables>(tables: &T, fast: &FastPath, address: Ipv4) -> u16 {
    // Read before the route: a change that comes in between advances it again.
    let epoch = fast.epoch as u16;
    let index = CachedHop::index(address);
    let cached = tables.cached_hop(index).unwrap_or_default();
    if let Some(number) = cached.number(address, epoch) {
        return number;
    }
    let number = tables.route(address).map_or(0, |route| route.next_hop);
    tables.set_cached_hop(index, CachedHop::new(address, epoch, number));
    number
}

#[inline(always)]
fn usable<T: Tables>(tables: &T, number: u16) -> Option<&NextHop> {
    if number == 0 {
        return None;
    }
    tables.next_hop(number).filter(|hop| hop.ifindex != 0)
}

/// The largest packet that both directions of a connection take, asked for with a SYN only.
#[inline(always)]
fn clamp<T: Tables>(tables: &T, datagram: &Datagram, transport: &Transport, hop: &NextHop) -> u32 {
    if transport.tcp_flags & tcp_flag::SYN == 0 {
        return 0;
    }
    mtu_both_ways(tables, hop.mtu, datagram.source())
}

/// Sends a packet that came without a tunnel.
#[inline(always)]
fn send_native<F: Frame, T: Tables>(frame: &mut F, tables: &T, plan: &ForwardPlan) -> Step {
    let hop = plan.hop;
    // The whole frame is encapsulated, with the padding of a short one.
    if frame.len() - ETHERNET > hop.mtu {
        return Step::Pass;
    }
    if hop.vtep == 0 {
        let written = rewrite::<F, ETHERNET>(frame, plan)
            && frame
                .store(0, &vxlan::ethernet(hop.destination, hop.source))
                .is_ok();
        return step(frame, tables, plan, written);
    }
    let Some(vtep) = tables.vtep(hop.vtep) else {
        return Step::Pass;
    };
    if frame.grow(OVERHEAD).is_err() {
        return Step::Pass;
    }
    let written = rewrite::<F, INNER>(frame, plan)
        && vxlan::encapsulate(frame, hop, vtep, &plan.datagram, plan.hash).is_ok();
    step(frame, tables, plan, written)
}

/// Sends a packet that came out of a tunnel.
#[inline(always)]
fn send_decapsulated<F: Frame, T: Tables>(frame: &mut F, tables: &T, plan: &ForwardPlan) -> Step {
    let hop = plan.hop;
    if hop.vtep != 0 || frame.len() - INNER > hop.mtu {
        return Step::Pass;
    }
    let written = rewrite::<F, INNER>(frame, plan)
        && frame
            .store(OVERHEAD, &vxlan::ethernet(hop.destination, hop.source))
            .is_ok()
        && frame.shrink(OVERHEAD).is_ok();
    step(frame, tables, plan, written)
}

#[inline(always)]
fn rewrite<F: Frame, const AT: u32>(frame: &mut F, plan: &ForwardPlan) -> bool {
    let ForwardPlan {
        datagram,
        transport,
        translation,
        clamp,
        ..
    } = plan;
    let mut packet = Inside::<F, AT>(frame);
    if *clamp != 0
        && mss::clamp(
            &mut packet,
            datagram.header_len,
            transport.header_len,
            *clamp,
        )
        .is_err()
    {
        return false;
    }
    let ttl = datagram.ip.ttl.wrapping_sub(1);
    translate(&mut packet, datagram, transport, translation, ttl).is_ok()
}

#[inline(always)]
fn step<F: Frame, T: Tables>(frame: &F, tables: &T, plan: &ForwardPlan, written: bool) -> Step {
    if !written {
        tables.count(
            Count::Drop(DropReason::RewriteFailed),
            1,
            plan.datagram.total_len,
        );
        return Step::Drop;
    }
    if plan.hop.ifindex == frame.ingress() {
        Step::Reflect
    } else {
        Step::Redirect {
            ifindex: plan.hop.ifindex,
        }
    }
}
