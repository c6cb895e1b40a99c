//! Removing flows that have run out or lost what they need, and making room when the tables fill up.
//!
//! A flow is judged by both of its entries, by the same rule as in the datapath
//! ([`bridge_common::conntrack::lifetime`]). The plan is a pure function of the tables, of [`Policy`] and of what earlier
//! looks have seen; [`GarbageCollector`] carries it out.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::Mutex;

use bridge_common::abi::{
    Flow, FlowKey, Layer, OtherSource, Reply, ReplyKey, Seconds, SourceNetwork, name, since,
};
use bridge_common::conntrack::lifetime::{
    FlowState, idle, is_expired, is_reusable, untranslated_timeout,
};
use bridge_common::conntrack::tcp_state::Seen;
use bridge_common::packet::parse::TCP;

use super::eviction::{self, Candidate, Value};
use super::in_use::InUse;
use super::load::Load;
use super::policy::{Loss, Policy};
use crate::conntrack::removal::remove;
use crate::kernel::clock::now;
use crate::maps::{BPF_EXIST, Hash, TableError, Tables, access, gone};

/// Above this share of the capacity flows are removed before their time.
const HIGH_WATER_PERCENT: usize = 95;
/// Down to this share.
const LOW_WATER_PERCENT: usize = 85;
/// An entry without its other half is left alone this long: it may be about to come, or to be restored.
const HALF_GRACE: Seconds = 10;
/// A backend that has not answered for this long since its client spoke is silent. TCP repeats a segment sooner.
const SILENCE: Seconds = 3;
/// For how long after a loss flows are looked at more often, beyond the grace.
const WATCH_AFTER_GRACE: Seconds = 60;

/// For how long a network is named that is none of the office's.
const STRANGER_MEMORY: Seconds = 3_600;

/// What earlier looks have seen of flows that have lost something. A process that starts begins anew.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    losses: HashMap<Loss, Departure>,
    /// Flows that wait for an answer.
    waiting: HashMap<FlowKey, Waiting>,
}

#[derive(Clone, Copy, Debug)]
struct Departure {
    since: Seconds,
    /// Whether the address was behind a service at that time, too: another's, with the same pods.
    is_shared: bool,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    since: Seconds,
    /// When the backend was last heard.
    heard: Seconds,
}

/// What one collection removes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Forward entries.
    pub flows: Vec<FlowKey>,
    /// Reply entries.
    pub replies: Vec<ReplyKey>,
    /// Flows that go even if they are in use, with their reply entries.
    pub cut: Vec<(FlowKey, ReplyKey)>,
    /// Flows that had run out, or lost one half.
    pub expired: usize,
    /// Flows that no longer fit the configuration or the cluster.
    pub foreign: usize,
    /// Flows removed before their time to make room.
    pub evicted: usize,
    /// Flows that stay.
    pub remaining: usize,
    /// What these need.
    pub in_use: InUse,
    /// How many of them each client uses.
    pub load: Load,
    /// Whether some of these may soon have to go, so that the next look should not wait.
    pub is_watched: bool,
}

/// Plans a collection over everything in the tables. `memory` is what earlier plans have left there.
#[must_use]
pub fn plan(
    flows: &[(FlowKey, Flow)],
    replies: &[(ReplyKey, Reply)],
    capacity: usize,
    now: Seconds,
    policy: &Policy,
    memory: &mut Memory,
) -> Plan {
    let by_key: HashMap<&ReplyKey, &Reply> =
        replies.iter().map(|(key, reply)| (key, reply)).collect();
    let mut plan = Plan::default();
    let mut owned: HashSet<ReplyKey> = HashSet::with_capacity(replies.len());
    let mut alive = Vec::new();
    let mut judge = Judge {
        policy,
        now,
        before: std::mem::take(memory),
        seen: Memory::default(),
        shared: None,
    };
    for (key, flow) in flows {
        if Layer::is_untranslated(flow.layer) {
            let unused = since(now, flow.last_seen);
            let value = Value::of_untranslated(key, flow, unused);
            if unused >= untranslated_timeout(key.protocol, flow, &policy.timeouts) {
                plan.flows.push(*key);
                plan.expired += 1;
            } else if value != Value::Established && policy.has_lost_service(key) {
                plan.cut.push((*key, key.reply_key(flow)));
                plan.foreign += 1;
            } else {
                plan.in_use.note(key, flow);
                plan.load.add(key, flow);
                alive.push(Candidate {
                    value,
                    idle: unused,
                    key: *key,
                    reply_key: None,
                });
            }
            continue;
        }
        let reply_key = key.reply_key(flow);
        let reply = by_key
            .get(&reply_key)
            .filter(|reply| reply_key.flow_key(reply) == *key);
        let Some(&&reply) = reply else {
            if since(now, flow.last_seen) >= HALF_GRACE {
                plan.flows.push(*key);
                plan.expired += 1;
            } else {
                plan.remaining += 1;
            }
            continue;
        };
        owned.insert(reply_key);
        if is_expired(key.protocol, flow, &reply, now, &policy.timeouts) {
            plan.flows.push(*key);
            plan.replies.push(reply_key);
            plan.expired += 1;
        } else if judge.ends(key, flow, &reply) {
            plan.cut.push((*key, reply_key));
            plan.foreign += 1;
        } else {
            let unused = idle(now, flow, &reply);
            plan.in_use.note(key, flow);
            if !is_reusable(key.protocol, flow, &reply, now) {
                plan.load.add(key, flow);
            }
            alive.push(Candidate {
                value: Value::of(FlowState::of(key.protocol, flow, &reply), unused),
                idle: unused,
                key: *key,
                reply_key: Some(reply_key),
            });
        }
    }
    for (key, reply) in replies {
        if !owned.contains(key) && since(now, reply.last_seen) >= HALF_GRACE {
            plan.replies.push(*key);
            plan.expired += 1;
        }
    }
    plan.is_watched = judge.is_watched();
    *memory = judge.seen;
    plan.remaining += alive.len();
    if plan.remaining * 100 > capacity * HIGH_WATER_PERCENT {
        let excess = plan
            .remaining
            .saturating_sub(capacity * LOW_WATER_PERCENT / 100);
        let evicted = eviction::choose(alive, excess);
        plan.evicted = evicted.len();
        plan.remaining -= plan.evicted;
        for candidate in evicted {
            plan.flows.push(candidate.key);
            plan.replies.extend(candidate.reply_key);
        }
    }
    plan
}

/// Judges flows that have not run out.
struct Judge<'a> {
    policy: &'a Policy,
    now: Seconds,
    before: Memory,
    seen: Memory,
    /// Addresses that are behind some service, once that was asked.
    shared: Option<HashSet<Ipv4Addr>>,
}

impl Judge<'_> {
    /// Whether a flow has to go although it has not run out. Where nothing is established yet, or there is nothing to
    /// establish, it moves as soon as it can go elsewhere. A session ends when it has lost what it needs for a while and
    /// its client is not answered any more; the client is reset at its next segment then, and does not hang.
    fn ends(&mut self, key: &FlowKey, flow: &Flow, reply: &Reply) -> bool {
        if !self.policy.is_office(key) {
            return true;
        }
        let is_tcp = key.protocol == TCP;
        let is_session = is_tcp && reply.packets > 0;
        if !is_session && self.policy.has_better_backend(key, flow) {
            return true;
        }
        let Some(loss) = self.policy.loss(key, flow) else {
            return false;
        };
        let departure = self.departure(loss);
        if !is_session && (is_tcp || self.has_no_way_back(loss, departure)) {
            return true;
        }
        if !is_tcp
            || flow.tcp_seen & Seen::ASKS == 0
            || since(self.now, reply.last_seen) <= since(self.now, flow.last_seen)
        {
            return false;
        }
        let heard = reply.last_seen;
        let waiting = self.before.waiting.get(key);
        let waiting = waiting
            .filter(|waiting| waiting.heard == heard)
            .copied()
            .unwrap_or(Waiting {
                since: self.now,
                heard,
            });
        self.seen.waiting.insert(*key, waiting);
        let silence = since(self.now, waiting.since).max(since(self.now, flow.last_seen));
        since(self.now, departure.since) >= self.policy.backend_grace && silence >= SILENCE
    }

    /// Since when something is lost, as far as was seen.
    fn departure(&mut self, loss: Loss) -> Departure {
        let known = self
            .seen
            .losses
            .get(&loss)
            .or(self.before.losses.get(&loss));
        let departure = known.copied().unwrap_or_else(|| Departure {
            since: self.now,
            is_shared: self.is_in_service(loss),
        });
        self.seen.losses.insert(loss, departure);
        departure
    }

    /// Whether datagrams can't be answered, or not by whom they are meant for: by the pod that has the address by now.
    fn has_no_way_back(&mut self, loss: Loss, departure: Departure) -> bool {
        match loss {
            Loss::NatAddress(_) => true,
            Loss::Backend(..) => !departure.is_shared && self.is_in_service(loss),
        }
    }

    fn is_in_service(&mut self, loss: Loss) -> bool {
        let Loss::Backend(_, backend) = loss else {
            return false;
        };
        let policy = self.policy;
        self.shared
            .get_or_insert_with(|| policy.addresses_in_services())
            .contains(&backend.address)
    }

    fn is_watched(&self) -> bool {
        let watched = self.policy.backend_grace.saturating_add(WATCH_AFTER_GRACE);
        let is_recent = |departure: &Departure| since(self.now, departure.since) < watched;
        !self.seen.waiting.is_empty() || self.seen.losses.values().any(is_recent)
    }
}

/// Collects garbage in the pinned tables.
pub struct GarbageCollector {
    tables: Tables,
    capacity: usize,
    memory: Mutex<Memory>,
}

impl GarbageCollector {
    /// A collector over `tables`.
    ///
    /// # Errors
    /// When they can't be opened.
    pub fn new(tables: Tables) -> Result<Self, TableError> {
        let capacity = tables.flow_capacity()? as usize;
        Ok(Self {
            tables,
            capacity,
            memory: Mutex::default(),
        })
    }

    /// Reads, plans and removes.
    ///
    /// # Errors
    /// When a table can't be read or written.
    pub fn collect(&self, policy: &Policy) -> Result<Plan, TableError> {
        let flows = self.tables.flows()?;
        let replies = self.tables.replies()?;
        let mut plan = {
            let mut memory = self.memory.lock().unwrap_or_else(|poisoned| {
                // Half a memory is as good as none.
                let mut memory = poisoned.into_inner();
                *memory = Memory::default();
                memory
            });
            plan(&flows, &replies, self.capacity, now(), policy, &mut memory)
        };
        self.keep_what_came_back(&mut plan, &flows, &replies)?;
        remove(&self.tables, &plan.flows, &plan.replies)?;
        self.cut(&plan.cut)?;
        plan.load.write(&self.tables)?;
        plan.is_watched |= plan.load.is_near_limit(&self.tables.settings()?);
        self.forget_strangers()?;
        Ok(plan)
    }

    /// Makes room for networks that are none of the office's: as many are named as the table holds.
    fn forget_strangers(&self) -> Result<(), TableError> {
        let known: Vec<(SourceNetwork, OtherSource)> = self.tables.read_all(name::OTHER_SOURCES)?;
        let now = now();
        let mut table = self
            .tables
            .hash::<SourceNetwork, OtherSource>(name::OTHER_SOURCES)?;
        known
            .iter()
            .filter(|(_, seen)| since(now, seen.last_seen) >= STRANGER_MEMORY)
            .try_for_each(|(network, _)| gone(table.remove(network)))
            .map_err(access(name::OTHER_SOURCES))
    }

    /// Ends flows that are in use, unless another has come under the same key since. Of a TCP connection a mark stays, by
    /// which its client is reset.
    fn cut(&self, flows: &[(FlowKey, ReplyKey)]) -> Result<(), TableError> {
        if flows.is_empty() {
            return Ok(());
        }
        let mut table = self.tables.hash::<FlowKey, Flow>(name::FLOWS)?;
        let mut keys = Vec::new();
        let mut replies = Vec::new();
        for (key, reply_key) in flows {
            let Ok(flow) = table.get(key, 0) else {
                continue;
            };
            if key.reply_key(&flow) != *reply_key {
                continue;
            }
            replies.push(*reply_key);
            if key.protocol == TCP && !Layer::is_untranslated(flow.layer) {
                mark_ended(&mut table, key, flow)?;
            } else {
                keys.push(*key);
            }
        }
        remove(&self.tables, &keys, &replies)
    }

    /// Takes out of the plan what was used, or made anew under the same key, since the tables were read.
    fn keep_what_came_back(
        &self,
        plan: &mut Plan,
        flows: &[(FlowKey, Flow)],
        replies: &[(ReplyKey, Reply)],
    ) -> Result<(), TableError> {
        if plan.flows.is_empty() && plan.replies.is_empty() {
            return Ok(());
        }
        let flow_table = self.tables.hash::<FlowKey, Flow>(name::FLOWS)?;
        let seen: HashMap<&FlowKey, Seconds> = flows
            .iter()
            .map(|(key, flow)| (key, flow.last_seen))
            .collect();
        plan.flows.retain(|key| {
            flow_table
                .get(key, 0)
                .is_ok_and(|flow| seen.get(key) == Some(&flow.last_seen))
        });
        let reply_table = self.tables.hash::<ReplyKey, Reply>(name::REPLIES)?;
        let seen: HashMap<&ReplyKey, Seconds> = replies
            .iter()
            .map(|(key, reply)| (key, reply.last_seen))
            .collect();
        plan.replies.retain(|key| {
            reply_table
                .get(key, 0)
                .is_ok_and(|reply| seen.get(key) == Some(&reply.last_seen))
        });
        Ok(())
    }
}

/// Turns a flow into the mark of one that was ended.
fn mark_ended(
    table: &mut Hash<FlowKey, Flow>,
    key: &FlowKey,
    flow: Flow,
) -> Result<(), TableError> {
    let ended = Flow {
        layer: Layer::Ended as u8,
        tcp_seen: Seen::RST,
        last_seen: now(),
        ..flow
    };
    gone(table.insert(key, ended, BPF_EXIST)).map_err(access(name::FLOWS))
}

#[cfg(test)]
mod tests;
