//! Choosing the NAT port: on the tuple after DNAT, so that each backend port has the whole range.
//!
//! The mapping is address- and port-dependent (a documented deviation from RFC 4787 REQ-1, allowed
//! by RFC 7857 section 3): nobody traverses a NAT into a cluster, and a thousand laptops on one `MySQL`
//! need the space. The client's own port is kept where it is free.

use crate::abi::{FlowKey, Reply, ReplyKey, since};
use crate::conntrack::lifetime::{is_expired, is_reusable};
use crate::packet::parse::{Datagram, ICMP, TCP, Transport, UDP};
use crate::tables::{Insertion, Slot, Tables};

/// Ports tried for one that nobody holds.
const PROBES: u32 = 24;

/// Ports tried after that for one whose holder has run out.
const TAKEOVERS: u32 = 8;

/// Why no port was claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Every port tried is taken.
    NoPort,
    /// The table is full.
    TableFull,
}

/// How much a port is needed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Others are free.
    Ordinary,
    /// Hardly any is: connections that are over keep theirs no longer than they must.
    Pressing,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Attempt {
    Claimed,
    Taken,
    Full,
}

/// Claims a reply entry for the flow `key`. `wanted` holds all of its key but the port.
///
/// # Errors
/// When there is no port or no room.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn claim<T: Tables>(
    tables: &T,
    key: &FlowKey,
    wanted: &ReplyKey,
    reply: &Reply,
) -> Result<u16, Refused> {
    let mut candidate = *wanted;
    candidate.nat_port = key.client_port;
    if may_keep(tables, key, wanted) {
        match attempt(tables, key, &candidate, reply, Need::Ordinary) {
            Attempt::Claimed => return Ok(candidate.nat_port),
            Attempt::Full => return Err(Refused::TableFull),
            Attempt::Taken => {}
        }
    }
    if !matches!(key.protocol, TCP | UDP | ICMP) {
        return Err(Refused::NoPort);
    }
    // Without a look at who holds a taken port: that is most of the work, for the kernel's verifier too, and while most
    // ports are free the next probe finds one sooner.
    for _ in 0..PROBES {
        let Some(port) = random(tables, key.protocol) else {
            break;
        };
        candidate.nat_port = port;
        match tables.insert_reply(&candidate, reply) {
            Insertion::Done => return Ok(candidate.nat_port),
            Insertion::Full => return Err(Refused::TableFull),
            Insertion::Exists => {}
        }
    }
    for _ in 0..TAKEOVERS {
        let Some(port) = random(tables, key.protocol) else {
            break;
        };
        candidate.nat_port = port;
        match attempt(tables, key, &candidate, reply, Need::Pressing) {
            Attempt::Claimed => return Ok(candidate.nat_port),
            Attempt::Full => return Err(Refused::TableFull),
            Attempt::Taken => {}
        }
    }
    Err(Refused::NoPort)
}

/// Claims a reply entry with the client's own port. `wanted` is its key.
#[inline(always)]
pub(super) fn claim_own<T: Tables>(
    tables: &T,
    key: &FlowKey,
    wanted: &ReplyKey,
    reply: &Reply,
) -> bool {
    may_keep(tables, key, wanted)
        && attempt(tables, key, wanted, reply, Need::Ordinary) == Attempt::Claimed
}

/// Gives up a client's identifier that this node's own echo request uses towards the same host: the answer is the node's.
/// The client's next request opens a flow anew. Ports need no such thing, as the node's own are never given out.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn yield_identifier<T: Tables>(tables: &T, datagram: &Datagram, transport: &Transport) {
    let key = ReplyKey {
        backend: datagram.destination(),
        nat: datagram.source(),
        backend_port: transport.destination_port,
        nat_port: transport.source_port,
        protocol: datagram.protocol(),
        pad: 0,
        pad2: 0,
    };
    if let Some(slot) = tables.reply(&key) {
        let holder = slot.with(|reply| key.flow_key(reply));
        tables.remove_flow(&holder);
        tables.remove_reply(&key);
    }
}

/// Any of the ports that may be chosen, or any identifier; none without settings.
#[inline(always)]
fn random<T: Tables>(tables: &T, protocol: u8) -> Option<u16> {
    let random = tables.random();
    if protocol == ICMP {
        return Some(random as u16);
    }
    let count = tables.settings()?.nat_port_count;
    if count == 0 {
        return None;
    }
    Some(tables.nat_port((random % count) as u16)?.candidate)
}

/// Whether the client's own port is one that the node never uses itself. Identifiers all are, and so is the
/// missing port of other protocols. Where the client's address is kept, so may its port be.
#[inline(always)]
fn may_keep<T: Tables>(tables: &T, key: &FlowKey, wanted: &ReplyKey) -> bool {
    !matches!(key.protocol, TCP | UDP)
        || wanted.nat == key.client
        || tables
            .nat_port(key.client_port)
            .is_some_and(|port| port.reserved == 0)
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn attempt<T: Tables>(
    tables: &T,
    key: &FlowKey,
    candidate: &ReplyKey,
    reply: &Reply,
    need: Need,
) -> Attempt {
    match tables.insert_reply(candidate, reply) {
        Insertion::Done => return Attempt::Claimed,
        Insertion::Full => return Attempt::Full,
        Insertion::Exists => {}
    }
    let Some(slot) = tables.reply(candidate) else {
        return Attempt::Taken;
    };
    let holder = slot.with(|held| *held);
    let holder_key = candidate.flow_key(&holder);
    if holder_key == *key {
        // Another CPU opens the same flow, or its forward entry was lost: one mapping serves both.
        // How an earlier connection ended says nothing about this one.
        slot.with(|held| held.tcp_seen = 0);
        return Attempt::Claimed;
    }
    if !release(tables, candidate, &holder_key, &holder, need) {
        return Attempt::Taken;
    }
    tables.remove_reply(candidate);
    match tables.insert_reply(candidate, reply) {
        Insertion::Done => Attempt::Claimed,
        Insertion::Exists => Attempt::Taken,
        Insertion::Full => Attempt::Full,
    }
}

/// Whether the mapping that holds `candidate` has run out, or can be done without; its forward entry is removed then.
#[inline(always)]
fn release<T: Tables>(
    tables: &T,
    candidate: &ReplyKey,
    holder_key: &FlowKey,
    holder: &Reply,
    need: Need,
) -> bool {
    let now = tables.now();
    let Some(settings) = tables.settings() else {
        return false;
    };
    let Some(flow) = tables.flow(holder_key).map(|slot| slot.with(|flow| *flow)) else {
        // A reply entry without its flow is left over, unless another CPU is about to add the flow.
        return since(now, holder.last_seen) > 1;
    };
    if holder_key.reply_key(&flow) != *candidate {
        return true;
    }
    let protocol = candidate.protocol;
    let may_go = is_expired(protocol, &flow, holder, now, &settings.timeouts)
        || (need == Need::Pressing && is_reusable(protocol, &flow, holder, now));
    if !may_go {
        return false;
    }
    tables.remove_flow(holder_key);
    true
}
