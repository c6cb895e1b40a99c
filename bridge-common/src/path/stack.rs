//! The stack path: NAT around netfilter, for what the kernel routes to a pod by itself.
//!
//! Services that only kube-proxy knows, protocols without ports, and everything where the TC path is switched off
//! take the kernel's way. The uplink lets them pass as [`Verdict::ToStack`]; only such a packet is handed to [`run`]
//! as it leaves, after netfilter, and if it goes from an office address to a pod gets its source translated. What answers
//! it is translated back as it arrives, before netfilter ([`crate::path::tc`]).
//! So netfilter sees both directions between client and pod, and kube-proxy's own translation nests inside of ours.
//! Where netfilter has masqueraded, the source is no office address any more, and the packet is left alone.

use crate::abi::{DestinationKind, Layer};
use crate::conntrack::flow::{self, Mapping};
use crate::conntrack::{fragments, note, open};
use crate::counters::Count;
use crate::drops::DropReason;
use crate::packet::parse::{Datagram, ICMP, Payload, TCP, Transport};
use crate::packet::{Packet, Resizable};
use crate::path::forward::translate_in_place;
use crate::path::local_reply;
use crate::path::stages::{count_drop, translate_icmp_error, with_flow};
use crate::tables::{Slot, Tables};
use crate::verdict::{LocalReplyKind, PackedVerdict, SlowPath, Verdict, tag};

/// Handles a packet that came in as [`Verdict::ToStack`], was routed by the kernel, and leaves by an interface behind
/// which pods are.
///
/// [`Verdict::Reflect`] is a reset that has to come in by this interface, as if the pod had sent it.
pub fn run<P: Resizable, T: Tables>(packet: &mut P, tables: &T) -> Verdict {
    handle(packet, tables).into()
}

/// The stages of the path, in order. The verdict comes in a register.
#[inline(always)]
pub fn handle<P: Resizable, T: Tables>(packet: &mut P, tables: &T) -> PackedVerdict {
    let mut verdict = with_flow(packet, tables, translate_by_flow, open_flow);
    if verdict.note() == note::TO_BACKEND {
        note::to_backend(packet, tables);
    }
    if verdict.tag() == tag::ICMP_ERROR {
        verdict = translate_icmp_error(packet, tables, true, |_, _| PackedVerdict::PASS);
    }
    count_drop(packet, tables, verdict);
    reset_sender(packet, tables, verdict)
}

/// Turns a rejected TCP segment into the reset that its sender gets. An ICMP error would come from an address of the
/// node, which the kernel takes from no interface.
#[inline(always)]
fn reset_sender<P: Resizable, T: Tables>(
    packet: &mut P,
    tables: &T,
    verdict: PackedVerdict,
) -> PackedVerdict {
    let Some(reason) = verdict.reason() else {
        return verdict;
    };
    if verdict.tag() != tag::REJECT {
        return verdict;
    }
    if local_reply::write(packet, tables, LocalReplyKind::TcpReset as u8, 0) {
        return PackedVerdict::REFLECT;
    }
    PackedVerdict::drop(reason)
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn translate_by_flow<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> PackedVerdict {
    let Some(datagram) = Datagram::parse(packet) else {
        return PackedVerdict::PASS;
    };
    // Netfilter may have masqueraded it since it came in. An ICMP error may come from a router.
    let is_office = tables.is_office(datagram.source());
    if !is_office && datagram.protocol() != ICMP
        || tables.destination(datagram.destination()) != Some(DestinationKind::Pod)
    {
        return PackedVerdict::PASS;
    }
    let transport = match transport(packet, tables, &datagram) {
        Ok(transport) if is_office => transport,
        Ok(_) => return PackedVerdict::PASS,
        Err(verdict) => return verdict.into(),
    };
    let key = flow::key(&datagram, &transport);
    let now = tables.now();
    let Some(slot) = flow::find(tables, &key, &transport, now) else {
        return Verdict::SlowPath(SlowPath::OpenFlow).into();
    };
    let mapping = slot.with(|flow| Mapping::of(flow));
    if Layer::is_untranslated(mapping.layer) {
        return PackedVerdict::PASS;
    }
    if mapping.layer == Layer::Tc as u8 {
        // The client talks from the same port to the pod itself: the pod could not tell the two apart.
        return PackedVerdict::reject(DropReason::NoNatPort, LocalReplyKind::TcpReset);
    }
    let (packets, bytes) = (packet.segments(), datagram.total_len);
    // Whoever hands over fragments here has put the datagram together before.
    fragments::remember(tables, &datagram, &transport);
    let verdict = translate_in_place(
        packet,
        tables,
        &datagram,
        &transport,
        &mapping.translation(),
    );
    if verdict != Verdict::Continue {
        return verdict.into();
    }
    tables.count(Count::ToBackend, packets, bytes);
    if slot.with(|flow| flow::record(flow, now, &datagram, &transport, packets)) {
        return PackedVerdict::CONTINUE.with_note(note::TO_BACKEND);
    }
    PackedVerdict::CONTINUE
}

/// Ports or identifier of the packet, or the verdict on a packet that has none.
#[inline(always)]
fn transport<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    datagram: &Datagram,
) -> Result<Transport, Verdict> {
    if let Some(portless) = Transport::portless(datagram) {
        return Ok(portless);
    }
    match Payload::of(packet, datagram) {
        Payload::Transport(transport) => Ok(transport),
        Payload::IcmpError => Err(Verdict::SlowPath(SlowPath::IcmpError)),
        Payload::LaterFragment => fragments::recall(tables, datagram).ok_or(Verdict::Pass),
        Payload::Unsupported => Err(Verdict::Pass),
    }
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn open_flow<P: Packet, T: Tables>(packet: &P, tables: &T) -> PackedVerdict {
    match try_open_flow(packet, tables) {
        Ok(()) => Verdict::SlowPath(SlowPath::OpenFlow).into(),
        Err(verdict) => verdict,
    }
}

#[inline(always)]
fn try_open_flow<P: Packet, T: Tables>(packet: &P, tables: &T) -> Result<(), PackedVerdict> {
    let datagram = Datagram::parse(packet).ok_or(Verdict::Pass)?;
    let transport = transport(packet, tables, &datagram)?;
    if datagram.protocol() == TCP && datagram.is_later_fragment() {
        return Err(PackedVerdict::PASS);
    }
    open::open_on_stack_path(tables, &flow::key(&datagram, &transport), &transport)
}
