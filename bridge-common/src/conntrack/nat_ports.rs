//! Choosing the NAT port: on the tuple after DNAT, so that each backend port has the whole range.
//!
//! The mapping is address- and port-dependent (a documented deviation from RFC 4787 REQ-1, allowed
//! by RFC 7857 section 3): nobody traverses a NAT into a cluster, and a thousand laptops on one `MySQL`
//! need the space. The client's own port is kept where it is free, and a privileged one stays privileged.
//!
//! While most ports are free one is found at random. Where hardly any is, each pool (a backend's port and a NAT address) is
//! gone through in order for flows that can be done without.

use crate::abi::{FlowKey, NatPort, PortPool, PortSearch, Reply, ReplyKey, since};
use crate::conntrack::flow;
use crate::conntrack::lifetime::{self, is_expired, is_reusable};
use crate::packet::parse::{Datagram, ICMP, TCP, Transport, UDP};
use crate::tables::{Insertion, Slot, Tables};

/// Ports tried at random for one that nobody holds.
const PROBES: u32 = 8;

/// Ports looked at after that, in order, for one whose holder may have run out.
const LOOKS: u32 = 16;

/// Searches a second that may fail in one pool. The others of that second are not begun: a search that fails costs ten
/// times what all else does to a packet, and who has taken all ports would take the node's time, too.
const FAILURES_PER_SECOND: u32 = 64;

/// Why no port was claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Every port tried is taken.
    NoPort,
    /// None was tried: too many searches have failed in this second.
    Shortage,
    /// The table is full.
    TableFull,
}

/// How much a port is needed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Others are free.
    Ordinary,
    /// Hardly any is: what is over keeps its port no longer than it must.
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
#[inline(always)]
pub fn claim<T: Tables>(
    tables: &T,
    key: &FlowKey,
    wanted: &ReplyKey,
    reply: &Reply,
) -> Result<u16, Refused> {
    match find_and_claim(tables, key, wanted, reply) {
        NO_PORT => Err(Refused::NoPort),
        SHORTAGE_KNOWN => Err(Refused::Shortage),
        TABLE_FULL => Err(Refused::TableFull),
        port => Ok(port as u16),
    }
}

/// What [`find_and_claim`] returns instead of a port: an enum does not come in one register.
const NO_PORT: u32 = 1 << 16;
const SHORTAGE_KNOWN: u32 = 2 << 16;
const TABLE_FULL: u32 = 3 << 16;

#[cfg_attr(target_arch = "bpf", inline(never))]
fn find_and_claim<T: Tables>(tables: &T, key: &FlowKey, wanted: &ReplyKey, reply: &Reply) -> u32 {
    let mut candidate = *wanted;
    candidate.nat_port = key.client_port;
    if may_keep(tables, key, wanted) {
        match attempt(tables, key, &candidate, reply, Need::Ordinary) {
            Attempt::Claimed => return u32::from(candidate.nat_port),
            Attempt::Full => return TABLE_FULL,
            Attempt::Taken => {}
        }
    }
    if !matches!(key.protocol, TCP | UDP | ICMP) {
        return NO_PORT;
    }
    let now = tables.now();
    let pool = pool(wanted);
    let mut search = tables.port_search(&pool).unwrap_or_default();
    if search.second != now {
        search.failures = 0;
    } else if search.failures >= FAILURES_PER_SECOND {
        return SHORTAGE_KNOWN;
    }
    let Some(choice) = Choice::of(tables, key) else {
        return NO_PORT;
    };
    // Without a look at who holds a taken port: that is most of the work, for the kernel's verifier too, and while most
    // ports are free the next probe finds one sooner.
    for _ in 0..PROBES {
        candidate.nat_port = choice.port(tables, tables.random());
        if !choice.is_valid(candidate.nat_port) {
            continue;
        }
        match tables.insert_reply(&candidate, reply) {
            Insertion::Done => return u32::from(candidate.nat_port),
            Insertion::Full => return TABLE_FULL,
            Insertion::Exists => {}
        }
    }
    search.second = now;
    let outcome = if look(tables, &choice, &mut candidate, &mut search) == 0 {
        Attempt::Taken
    } else {
        attempt(tables, key, &candidate, reply, Need::Pressing)
    };
    if outcome == Attempt::Taken {
        search.failures = search.failures.saturating_add(1);
    }
    tables.set_port_search(&pool, &search);
    match outcome {
        Attempt::Claimed => u32::from(candidate.nat_port),
        Attempt::Full => TABLE_FULL,
        Attempt::Taken => NO_PORT,
    }
}

/// Looks at ports from the hand on until one may be had, puts it into `candidate`, and gives whether there was one. Without a
/// look at the holder's forward entry, which is most of the work.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn look<T: Tables>(
    tables: &T,
    choice: &Choice,
    candidate: &mut ReplyKey,
    search: &mut PortSearch,
) -> u32 {
    let now = tables.now();
    let Some(settings) = tables.settings() else {
        return 0;
    };
    for _ in 0..LOOKS {
        candidate.nat_port = choice.port(tables, search.hand);
        search.hand = search.hand.wrapping_add(1);
        if !choice.is_valid(candidate.nat_port) {
            continue;
        }
        let is_promising = tables.reply(candidate).is_none_or(|slot| {
            slot.with(|reply| {
                lifetime::may_be_reusable(candidate.protocol, reply, now, &settings.timeouts)
            })
        });
        if is_promising {
            return 1;
        }
    }
    0
}

const fn pool(wanted: &ReplyKey) -> PortPool {
    PortPool {
        backend: wanted.backend,
        nat: wanted.nat,
        backend_port: wanted.backend_port,
        protocol: wanted.protocol,
        pad: 0,
    }
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
    let key = flow::key_of_answer(datagram, transport);
    if let Some(slot) = tables.reply(&key) {
        let holder = slot.with(|reply| key.flow_key(reply));
        tables.remove_flow(&holder);
        tables.remove_reply(&key);
    }
}

/// The ports that a client may get: all of an interval, or those that a part of `nat_ports` lists.
struct Choice {
    first: u32,
    count: u32,
    is_listed: bool,
}

impl Choice {
    /// `None` where there is none.
    #[inline(always)]
    fn of<T: Tables>(tables: &T, key: &FlowKey) -> Option<Self> {
        let settings = tables.settings()?;
        let is_privileged = key.client_port < NatPort::FIRST_USER;
        let (first, count, is_listed) = if key.protocol == ICMP {
            (0, 1 << 16, false)
        } else if settings.is_exclusive(key.client) && is_privileged {
            (NatPort::FIRST_PRIVILEGED, NatPort::PRIVILEGED, false)
        } else if settings.is_exclusive(key.client) {
            (NatPort::FIRST_USER.into(), NatPort::USER, false)
        } else if is_privileged {
            (NatPort::PRIVILEGED_AT, NatPort::PRIVILEGED, true)
        } else {
            (0, settings.nat_port_count, true)
        };
        (count != 0).then_some(Self {
            first,
            count,
            is_listed,
        })
    }

    /// One of them, by any number; perhaps an invalid one.
    #[inline(always)]
    fn port<T: Tables>(&self, tables: &T, number: u32) -> u16 {
        let chosen = self
            .first
            .wrapping_add(number.checked_rem(self.count).unwrap_or(0)) as u16;
        if self.is_listed {
            tables.nat_port(chosen).map_or(0, |port| port.candidate)
        } else {
            chosen
        }
    }

    /// Whether a port that was chosen is one. A list without entries is of zeros.
    #[inline(always)]
    const fn is_valid(&self, port: u16) -> bool {
        port != 0 || !self.is_listed
    }
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
        || key.client_port != 0
            && tables
                .settings()
                .is_some_and(|settings| settings.is_exclusive(key.client))
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
        slot.with(|held| held.set_tcp_seen(0));
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
