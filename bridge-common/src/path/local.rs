//! What a backend on this node itself sends to a client: at the uplink's egress its source becomes what the client
//! addressed. The client's packets are translated at TC ingress ([`crate::path::tc`]) and go up the node's own stack, so
//! netfilter sees both directions between client and backend. What the node pings itself is not taken for a client's.

use crate::abi::{Layer, since};
use crate::conntrack::{flow, fragments, nat_ports, note};
use crate::counters::Count;
use crate::packet::Packet;
use crate::packet::parse::{Datagram, ICMP, Payload};
use crate::path::forward::translate_in_place;
use crate::path::icmp_error;
use crate::path::stages::count_drop;
use crate::tables::{Slot, Tables};
use crate::verdict::{PackedVerdict, SlowPath, Verdict, tag};

/// Handles a packet that this node sends by the uplink.
pub fn run<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Verdict {
    handle(packet, tables).into()
}

/// The stages of the path, in order. The verdict comes in a register.
#[inline(always)]
pub fn handle<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> PackedVerdict {
    let mut verdict = translate_by_flow(packet, tables);
    if verdict.note() == note::TO_CLIENT {
        note::to_client(packet, tables);
    }
    if verdict.tag() == tag::ICMP_ERROR {
        let mut found = icmp_error::ErrorTranslation::default();
        verdict = if icmp_error::find_of_local_backend(packet, tables, &mut found) {
            icmp_error::translate(packet, tables, &found)
        } else {
            PackedVerdict::PASS
        };
    }
    count_drop(packet, tables, verdict);
    verdict
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn translate_by_flow<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> PackedVerdict {
    let Some(datagram) = Datagram::parse(packet) else {
        return PackedVerdict::PASS;
    };
    let transport = match Payload::of(packet, &datagram) {
        Payload::Transport(transport) => transport,
        Payload::IcmpError => return Verdict::SlowPath(SlowPath::IcmpError).into(),
        Payload::LaterFragment => match fragments::recall(tables, &datagram) {
            Some(transport) => transport,
            None => return PackedVerdict::PASS,
        },
        Payload::Unsupported => return PackedVerdict::PASS,
    };
    if datagram.protocol() == ICMP && transport.opens {
        nat_ports::yield_identifier(tables, &datagram, &transport);
        return PackedVerdict::PASS;
    }
    let key = flow::reply_key(&datagram, &transport);
    let Some(slot) = tables.reply(&key) else {
        return PackedVerdict::PASS;
    };
    let now = tables.now();
    let (translation, seen, layer) =
        slot.with(|reply| (flow::to_client(reply), reply.last_seen, reply.layer()));
    if layer != Layer::Local as u8
        || since(now, seen) >= flow::EXPIRY_CHECK_AFTER && flow::has_expired(tables, &key)
    {
        return PackedVerdict::PASS;
    }
    let (packets, bytes) = (packet.segments(), datagram.total_len);
    fragments::remember(tables, &datagram, &transport);
    let verdict = translate_in_place(packet, tables, &datagram, &transport, &translation);
    if verdict != Verdict::Continue {
        return verdict.into();
    }
    tables.count(Count::ToClient, packets, bytes);
    if flow::record_answer(tables, &slot, &key, now, &datagram, &transport, packets) {
        return PackedVerdict::CONTINUE.with_note(note::TO_CLIENT);
    }
    PackedVerdict::CONTINUE
}
