//! Flow lookup, accounting and repair.
//!
//! A flow is two entries: one in `flows`, with the addresses and ports that the client wrote as its key, and one in
//! `replies`, with those that the backend wrote. Either may be lost: [`find`] compares the two every few seconds, and puts
//! a missing reply entry back.

use crate::abi::{Flow, FlowKey, Layer, Reply, ReplyKey, Seconds, since};
use crate::conntrack::lifetime::{FlowState, is_expired, untranslated_timeout};
use crate::conntrack::sequence::{self, Direction, Segment};
use crate::conntrack::tcp_state::Seen;
use crate::packet::parse::{Datagram, TCP, Transport, tcp_flag};
use crate::packet::rewrite::{Endpoint, Translation};
use crate::tables::{Insertion, Slot, Tables};

/// Seconds after which a forward entry looks at its reply entry again: the bound for noticing that
/// it was removed, expired or closed by the other side. A power of two.
const CONFIRM_PERIOD: Seconds = 8;

/// How packets of a flow from the client are translated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    /// The new destination.
    pub backend: Endpoint,
    /// The new source.
    pub nat: Endpoint,
    /// A [`Layer`] as a number.
    pub layer: u8,
}

impl Mapping {
    /// The mapping that an entry holds.
    #[must_use]
    #[inline(always)]
    pub const fn of(flow: &Flow) -> Self {
        Self {
            backend: Endpoint {
                address: flow.backend,
                port: flow.backend_port,
            },
            nat: Endpoint {
                address: flow.nat,
                port: flow.nat_port,
            },
            layer: flow.layer,
        }
    }

    /// What a packet from the client becomes.
    #[must_use]
    #[inline(always)]
    pub const fn translation(&self) -> Translation {
        Translation {
            source: self.nat,
            destination: self.backend,
        }
    }
}

/// The key of a packet from a client.
#[must_use]
#[inline(always)]
pub const fn key(datagram: &Datagram, transport: &Transport) -> FlowKey {
    FlowKey {
        client: datagram.source(),
        destination: datagram.destination(),
        client_port: transport.source_port,
        destination_port: transport.destination_port,
        protocol: datagram.protocol(),
        pad: 0,
        pad2: 0,
    }
}

/// The key of a packet from a backend.
#[must_use]
#[inline(always)]
pub const fn reply_key(datagram: &Datagram, transport: &Transport) -> ReplyKey {
    ReplyKey {
        backend: datagram.source(),
        nat: datagram.destination(),
        backend_port: transport.source_port,
        nat_port: transport.destination_port,
        protocol: datagram.protocol(),
        pad: 0,
        pad2: 0,
    }
}

/// The key of what answers a packet to a backend.
#[must_use]
#[inline(always)]
pub const fn key_of_answer(datagram: &Datagram, transport: &Transport) -> ReplyKey {
    ReplyKey {
        backend: datagram.destination(),
        nat: datagram.source(),
        backend_port: transport.destination_port,
        nat_port: transport.source_port,
        protocol: datagram.protocol(),
        pad: 0,
        pad2: 0,
    }
}

/// The key of what a packet to a client answers, as the client wrote it.
#[must_use]
#[inline(always)]
pub const fn key_of_answered(datagram: &Datagram, transport: &Transport) -> FlowKey {
    FlowKey {
        client: datagram.destination(),
        destination: datagram.source(),
        client_port: transport.destination_port,
        destination_port: transport.source_port,
        protocol: datagram.protocol(),
        pad: 0,
        pad2: 0,
    }
}

/// The entry of a flow that is there and alive.
#[inline(always)]
pub fn find<T: Tables>(
    tables: &T,
    key: &FlowKey,
    transport: &Transport,
    now: Seconds,
) -> Option<T::FlowSlot> {
    let slot = tables.flow(key)?;
    let seen = slot.with(|flow| flow.last_seen);
    let due = seen / CONFIRM_PERIOD != now / CONFIRM_PERIOD;
    if (due || transport.tcp_flags & tcp_flag::SYN != 0)
        && !confirm(tables, key, transport.tcp_flags)
    {
        return None;
    }
    Some(slot)
}

/// What the client's direction has shown.
pub(super) const fn of_client(flow: &Flow) -> Direction {
    Direction {
        seen: Seen(flow.tcp_seen),
        next: flow.tcp_next,
    }
}

/// What the backend's direction has shown.
pub(super) const fn of_backend(reply: &Reply) -> Direction {
    Direction {
        seen: Seen(reply.tcp_seen()),
        next: reply.tcp_next,
    }
}

/// Counts a packet from the client, which keeps the flow alive. `true` if it is a segment that says more, which
/// [`note`](super::note) is for once it is translated.
#[inline(always)]
#[must_use]
pub fn record(
    flow: &mut Flow,
    now: Seconds,
    datagram: &Datagram,
    transport: &Transport,
    packets: u32,
) -> bool {
    let segment = Segment::of(datagram, transport);
    // What is refreshed by resets would never end (RFC 7857 section 2.2).
    if segment.flags & tcp_flag::RST == 0 {
        flow.last_seen = now;
    }
    flow.tcp_seen = flow.tcp_seen & !Seen::ASKS | asks(&segment);
    flow.count(packets, datagram.total_len);
    if datagram.protocol() != TCP {
        return false;
    }
    let is_plain = sequence::is_plain(of_client(flow), &segment);
    if is_plain {
        flow.tcp_next = segment.end();
    }
    !is_plain
}

/// Counts a packet of a flow that is not translated. Only one side of it is seen, and what it shows is believed: if it was
/// forged, the next answer is marked anew.
#[inline(always)]
pub fn record_untranslated(
    flow: &mut Flow,
    now: Seconds,
    datagram: &Datagram,
    transport: &Transport,
    packets: u32,
) {
    let is_repeated_reset =
        transport.tcp_flags & tcp_flag::RST != 0 && flow.tcp_seen & Seen::RST != 0;
    if !is_repeated_reset {
        flow.last_seen = now;
    }
    flow.tcp_seen = Seen(flow.tcp_seen).and(transport.tcp_flags).0;
    flow.count(packets, datagram.total_len);
}

/// [`Seen::ASKS`] for a packet that a living backend answers: data, a SYN or a FIN. A bare acknowledgement gets none.
#[inline(always)]
const fn asks(segment: &Segment) -> u8 {
    if segment.payload != 0 || segment.flags & (tcp_flag::SYN | tcp_flag::FIN) != 0 {
        Seen::ASKS
    } else {
        0
    }
}

/// Counts a packet from the backend in its entry, and what has come together there in the flow's before it overflows.
/// `true` as of [`record`].
#[inline(always)]
#[must_use]
pub fn record_answer<T: Tables>(
    tables: &T,
    slot: &T::ReplySlot,
    key: &ReplyKey,
    now: Seconds,
    datagram: &Datagram,
    transport: &Transport,
    packets: u32,
) -> bool {
    let segment = Segment::of(datagram, transport);
    let bytes = datagram.total_len;
    let (is_counted, is_plain) = slot.with(|reply| {
        if segment.flags & tcp_flag::RST == 0 {
            reply.last_seen = now;
        }
        let is_tcp = datagram.protocol() == TCP;
        let is_plain = sequence::is_plain(of_backend(reply), &segment);
        if is_tcp && is_plain {
            reply.tcp_next = segment.end();
        }
        (reply.count(packets, bytes), !is_tcp || is_plain)
    });
    if !is_counted {
        flush_counters(tables, key, packets, bytes);
    }
    !is_plain
}

/// Adds the counters of a reply entry to those of its flow, and a packet that there was no room for. Without a lock, so a
/// packet that the client sends through another CPU at the same time may overwrite the sum: these are statistics only.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn flush_counters<T: Tables>(tables: &T, key: &ReplyKey, packets: u32, bytes: u32) {
    let Some(slot) = tables.reply(key) else {
        return;
    };
    let flow_key = slot.with(|reply| key.flow_key(reply));
    if let Some(flow) = tables.flow(&flow_key) {
        flow.with(|flow| slot.with(|reply| reply.flush_into(flow, packets, bytes)));
    }
}

/// Whether both entries of a flow exist, belong together and have not expired. Puts back a lost reply entry of a live
/// flow, and removes what is left of any other.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn confirm<T: Tables>(tables: &T, key: &FlowKey, tcp_flags: u8) -> bool {
    let (Some(slot), Some(settings)) = (tables.flow(key), tables.settings()) else {
        return false;
    };
    let now = tables.now();
    let flow = slot.with(|flow| *flow);
    if Layer::is_untranslated(flow.layer) {
        let opens = tcp_flags & (tcp_flag::SYN | tcp_flag::ACK) == tcp_flag::SYN;
        let alive = since(now, flow.last_seen)
            < untranslated_timeout(key.protocol, &flow, &settings.timeouts)
            && !opens;
        if !alive {
            tables.remove_flow(key);
        }
        return alive;
    }
    let reply_key = key.reply_key(&flow);
    let Some(reply) = tables
        .reply(&reply_key)
        .map(|slot| slot.with(|reply| *reply))
    else {
        let restored = since(now, flow.last_seen) < settings.timeouts.tcp_transitory
            && match tables.insert_reply(&reply_key, &reply_of(key, now, flow.layer)) {
                Insertion::Done => true,
                // Either another CPU has put it back, or another flow has claimed it.
                Insertion::Exists => tables
                    .reply(&reply_key)
                    .is_some_and(|slot| slot.with(|reply| reply_key.flow_key(reply)) == *key),
                Insertion::Full => false,
            };
        if !restored {
            tables.remove_flow(key);
        }
        return restored;
    };
    if reply_key.flow_key(&reply) != *key {
        tables.remove_flow(key);
        return false;
    }
    let expired = is_expired(key.protocol, &flow, &reply, now, &settings.timeouts);
    let replaced =
        tcp_flags & tcp_flag::SYN != 0 && FlowState::of(key.protocol, &flow, &reply).is_over();
    if expired || replaced {
        tables.remove_flow(key);
        tables.remove_reply(&reply_key);
        return false;
    }
    true
}

pub(super) const fn reply_of(key: &FlowKey, now: Seconds, layer: u8) -> Reply {
    Reply {
        client: key.client,
        destination: key.destination,
        client_port: key.client_port,
        destination_port: key.destination_port,
        last_seen: now,
        tcp_next: 0,
        bytes: 0,
        packets: 0,
        state: Reply::initial_state(layer),
    }
}

/// What a packet from the backend becomes.
#[must_use]
#[inline(always)]
pub const fn to_client(reply: &Reply) -> Translation {
    Translation {
        source: Endpoint {
            address: reply.destination,
            port: reply.destination_port,
        },
        destination: Endpoint {
            address: reply.client,
            port: reply.client_port,
        },
    }
}

/// Seconds of silence after which a reply entry is checked for having run out; below the shortest timeout.
pub const EXPIRY_CHECK_AFTER: Seconds = 8;

/// Whether the flow of a reply entry has been idle for longer than its timeout, both directions considered.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn has_expired<T: Tables>(tables: &T, key: &ReplyKey) -> bool {
    let (Some(slot), Some(settings)) = (tables.reply(key), tables.settings()) else {
        return true;
    };
    let reply = slot.with(|reply| *reply);
    let flow = tables
        .flow(&key.flow_key(&reply))
        .map(|slot| slot.with(|flow| *flow))
        .unwrap_or_default();
    is_expired(
        key.protocol,
        &flow,
        &reply,
        tables.now(),
        &settings.timeouts,
    )
}
