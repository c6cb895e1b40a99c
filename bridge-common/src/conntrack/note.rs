//! Noting what a TCP segment says of its connection where that is more than that it goes on: few do. It is translated by
//! then, so its flow is found by what it has become, and the paths need nothing for this on their stacks.

use crate::conntrack::flow::{self, of_backend, of_client};
use crate::conntrack::sequence::{self, Direction, Segment};
use crate::conntrack::tcp_state::Seen;
use crate::packet::Packet;
use crate::packet::integrity::has_sound_tcp_checksum;
use crate::packet::parse::{Datagram, Payload, tcp_flag};
use crate::tables::{Slot, Tables};

/// Says of a verdict that [`to_backend`] is for the packet.
pub const TO_BACKEND: u8 = 1;
/// Says of a verdict that [`to_client`] is for the packet.
pub const TO_CLIENT: u8 = 2;

const ENDS: u8 = tcp_flag::FIN | tcp_flag::RST;

/// Notes a segment that was translated for the backend, and which side is the first to close.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn to_backend<P: Packet, T: Tables>(packet: &P, tables: &T) {
    let Some(datagram) = Datagram::parse(packet) else {
        return;
    };
    // The end of a fragment is not known.
    let transport = match Payload::of(packet, &datagram) {
        Payload::Transport(transport) if !datagram.is_fragment() => transport,
        _ => return,
    };
    let segment = Segment::of(&datagram, &transport);
    let key = flow::key_of_answer(&datagram, &transport);
    let Some(reply_slot) = tables.reply(&key) else {
        return;
    };
    let flow_key = reply_slot.with(|reply| key.flow_key(reply));
    let Some(slot) = tables.flow(&flow_key) else {
        return;
    };
    let own = slot.with(|flow| of_client(flow));
    let other = reply_slot.with(|reply| of_backend(reply));
    let Some(after) = believed(packet, own, other, &segment) else {
        return;
    };
    let now = tables.now();
    let flags = segment.flags;
    slot.with(|flow| {
        if is_first_reset(flags, own) {
            flow.last_seen = now;
        }
        flow.tcp_seen = after.seen.0;
        flow.tcp_next = after.next;
    });
    if flags & ENDS != 0 && other.seen.0 & Seen::FIN == 0 {
        reply_slot.with(|reply| reply.set_tcp_seen(other.seen.0 | Seen::CLOSED_BY_OTHER));
    }
}

/// Notes a segment that was translated for the client.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn to_client<P: Packet, T: Tables>(packet: &P, tables: &T) {
    let Some(datagram) = Datagram::parse(packet) else {
        return;
    };
    // The end of a fragment is not known.
    let transport = match Payload::of(packet, &datagram) {
        Payload::Transport(transport) if !datagram.is_fragment() => transport,
        _ => return,
    };
    let segment = Segment::of(&datagram, &transport);
    let key = flow::key_of_answered(&datagram, &transport);
    let Some(flow_slot) = tables.flow(&key) else {
        return;
    };
    let reply_key = flow_slot.with(|flow| key.reply_key(flow));
    let Some(slot) = tables.reply(&reply_key) else {
        return;
    };
    let own = slot.with(|reply| of_backend(reply));
    let other = flow_slot.with(|flow| of_client(flow));
    if sequence::repeats_handshake(own, &segment) {
        flow_slot.with(|flow| flow.tcp_seen &= !Seen::ACK);
    }
    let Some(after) = believed(packet, own, other, &segment) else {
        return;
    };
    let now = tables.now();
    slot.with(|reply| {
        if is_first_reset(segment.flags, own) {
            reply.last_seen = now;
        }
        reply.set_tcp_seen(after.seen.0);
        reply.tcp_next = after.next;
    });
}

#[inline(always)]
fn believed<P: Packet>(
    packet: &P,
    own: Direction,
    other: Direction,
    segment: &Segment,
) -> Option<Direction> {
    let after = sequence::follow(own, other, segment)?;
    (!sequence::is_decisive(own, segment) || has_sound_tcp_checksum(packet)).then_some(after)
}

/// A second reset does not keep a flow alive (RFC 7857 section 2.2).
const fn is_first_reset(flags: u8, own: Direction) -> bool {
    flags & tcp_flag::RST != 0 && own.seen.0 & Seen::RST == 0
}
