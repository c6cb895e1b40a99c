//! What one client may take: flows, new flows a second, NAT ports of a backend's port, and answers. What is above its
//! limits is refused before any work is done for it.
//!
//! Counts are as good as they need to be: CPUs add to them without a lock, and garbage collection sets them right.

use crate::abi::{Client, ClientPort, FlowKey, HeldPorts, Ipv4, ReplyKey, Seconds};
use crate::tables::{Insertion, Slot, Tables};

/// Whether the client of `key` may open one more flow towards the backend of `reply_key`. Counts it if so.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn may_open<T: Tables>(tables: &T, key: &FlowKey, reply_key: &ReplyKey) -> bool {
    let Some(settings) = tables.settings() else {
        return false;
    };
    let limits = settings.clients;
    let Some(slot) = entry(tables, key.client) else {
        // More clients than there is room for: nothing is known of this one.
        return true;
    };
    let now = tables.now();
    let may_open = slot.with(|client| {
        if client.opening != now {
            (client.opening, client.opened) = (now, 0);
        }
        let is_within = |limit, value| limit == 0 || value < limit;
        let may_open =
            is_within(limits.flow_rate, client.opened) && is_within(limits.flows, client.flows);
        client.opened = client.opened.saturating_add(1);
        may_open
    });
    // Who has fewer flows than that altogether has fewer towards one port.
    let flows = slot.with(|client| client.flows);
    let may_open = may_open
        && (limits.nat_ports == 0
            || flows < limits.nat_ports
            || may_take_port(tables, key, reply_key, flows, limits.nat_ports));
    slot.with(|client| {
        if may_open {
            client.flows = client.flows.saturating_add(1);
        } else {
            client.refused = client.refused.saturating_add(1);
        }
    });
    may_open
}

#[inline(always)]
fn may_take_port<T: Tables>(
    tables: &T,
    key: &FlowKey,
    reply_key: &ReplyKey,
    flows: u32,
    limit: u32,
) -> bool {
    let port = ClientPort::of(key, reply_key.backend, reply_key.backend_port);
    let Some(slot) = tables.client_port(&port) else {
        // As if all of its flows led there, until garbage collection has counted them.
        tables.insert_client_port(&port, HeldPorts { count: flows });
        return false;
    };
    slot.with(|held| {
        let may_take = held.count < limit;
        if may_take {
            held.count += 1;
        }
        may_take
    })
}

/// Whether the sender of a packet may be answered once more in this second.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn may_be_answered<T: Tables>(tables: &T, sender: Ipv4) -> bool {
    let limit = tables
        .settings()
        .map_or(0, |settings| settings.clients.answer_rate);
    if limit == 0 {
        return true;
    }
    let now = tables.now();
    entry(tables, sender).is_none_or(|slot| slot.with(|client| may_answer(client, now, limit)))
}

const fn may_answer(client: &mut Client, now: Seconds, limit: u32) -> bool {
    if client.answering != now {
        (client.answering, client.answered) = (now, 0);
    }
    let may_answer = client.answered < limit;
    if may_answer {
        client.answered += 1;
    } else {
        client.refused = client.refused.saturating_add(1);
    }
    may_answer
}

/// The entry of a client, made where there is none.
#[inline(always)]
fn entry<T: Tables>(tables: &T, client: Ipv4) -> Option<T::ClientSlot> {
    if let Some(slot) = tables.client(client) {
        return Some(slot);
    }
    match tables.insert_client(client, &Client::default()) {
        Insertion::Done | Insertion::Exists => tables.client(client),
        Insertion::Full => None,
    }
}
