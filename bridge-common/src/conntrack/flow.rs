//! Flow lookup, accounting and repair.
//!
//! A flow is two entries: one in `flows`, with the addresses and ports that the client wrote as its key, and one in
//! `replies`, with those that the backend wrote. Either may be lost: [`find`] compares the two every few seconds, and puts
//! a missing reply entry back.

use crate::abi::{Flow, FlowKey, Layer, Reply, ReplyKey, Seconds, since};
use crate::conntrack::lifetime::{FlowState, is_expired, untranslated_timeout};
use crate::conntrack::tcp_state::Seen;
use crate::packet::parse::{Datagram, Transport, tcp_flag};
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
    if (due || transport.tcp_flags & (tcp_flag::SYN | tcp_flag::FIN | tcp_flag::RST) != 0)
        && !confirm(tables, key, transport.tcp_flags)
    {
        return None;
    }
    Some(slot)
}

/// Counts a packet from the client, which keeps the flow alive.
#[inline(always)]
pub fn record(
    flow: &mut Flow,
    now: Seconds,
    datagram: &Datagram,
    transport: &Transport,
    packets: u32,
) {
    refresh(
        &mut flow.last_seen,
        &mut flow.tcp_seen,
        now,
        transport.tcp_flags,
    );
    flow.tcp_seen = flow.tcp_seen & !Seen::ASKS | asks(datagram, transport);
    flow.count(packets, datagram.total_len);
}

/// [`Seen::ASKS`] for a packet that a living backend answers: data, a SYN or a FIN. A bare acknowledgement gets none.
#[inline(always)]
const fn asks(datagram: &Datagram, transport: &Transport) -> u8 {
    let has_payload = datagram.total_len > datagram.header_len + transport.header_len;
    if has_payload || transport.tcp_flags & (tcp_flag::SYN | tcp_flag::FIN) != 0 {
        Seen::ASKS
    } else {
        0
    }
}

/// Counts a packet from the backend in its entry, and what has come together there in the flow's before it overflows.
#[inline(always)]
pub fn record_answer<T: Tables>(
    tables: &T,
    slot: &T::ReplySlot,
    key: &ReplyKey,
    now: Seconds,
    tcp_flags: u8,
    packets: u32,
    bytes: u32,
) {
    let is_near_overflow = slot.with(|reply| {
        refresh(&mut reply.last_seen, &mut reply.tcp_seen, now, tcp_flags);
        reply.count(packets, bytes);
        reply.is_near_overflow()
    });
    if is_near_overflow {
        flush_counters(tables, key);
    }
}

/// Adds the counters of a reply entry to those of its flow. Without a lock, so a packet that the client sends through
/// another CPU at the same time may overwrite the sum: these are statistics only.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn flush_counters<T: Tables>(tables: &T, key: &ReplyKey) {
    let Some(slot) = tables.reply(key) else {
        return;
    };
    let reply = slot.with(|reply| *reply);
    if let Some(flow) = tables.flow(&key.flow_key(&reply)) {
        flow.with(|flow| slot.with(|reply| reply.flush_into(flow)));
    }
}

/// Sets when a direction was last used, and with which TCP flags. A second reset does not refresh the flow (RFC 7857
/// section 2.2).
#[inline(always)]
pub fn refresh(last_seen: &mut Seconds, tcp_seen: &mut u8, now: Seconds, tcp_flags: u8) {
    let repeated_reset = tcp_flags & tcp_flag::RST != 0 && *tcp_seen & Seen::RST != 0;
    if !repeated_reset {
        *last_seen = now;
    }
    *tcp_seen = Seen(*tcp_seen).and(tcp_flags).0;
}

/// Whether both entries of a flow exist, belong together and have not expired. Puts back a lost reply entry of a live
/// flow, and removes what is left of any other. Notes which side is the first to close.
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
    if tcp_flags & (tcp_flag::FIN | tcp_flag::RST) != 0
        && reply.tcp_seen & Seen::FIN == 0
        && let Some(slot) = tables.reply(&reply_key)
    {
        slot.with(|reply| reply.tcp_seen |= Seen::CLOSED_BY_OTHER);
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
        bytes: 0,
        packets: 0,
        tcp_seen: 0,
        layer,
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
