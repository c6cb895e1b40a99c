//! Removing flows that have run out, and making room when the tables fill up.
//!
//! A flow is judged by both of its entries, by the same rule as in the datapath
//! ([`bridge_common::conntrack::lifetime`]). The plan is a pure function; [`GarbageCollector`] carries it out.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use bridge_common::abi::{Flow, FlowKey, Layer, Reply, ReplyKey, Seconds, Timeouts, name, since};
use bridge_common::conntrack::lifetime::{FlowState, idle, is_expired, untranslated_timeout};
use bridge_common::conntrack::tcp_state::State;
use bridge_common::packet::parse::{TCP, UDP};
use ipnet::Ipv4Net;

use crate::cluster::{self, CidrKind, DesiredState, Protocol, ServicePort};
use crate::conntrack::removal::remove;
use crate::kernel::clock::now;
use crate::maps::{TableError, Tables};

/// Above this share of the capacity flows are removed before their time.
const HIGH_WATER_PERCENT: usize = 95;
/// Down to this share.
const LOW_WATER_PERCENT: usize = 85;
/// An entry without its other half is left alone this long: it may be about to come, or to be restored.
const HALF_GRACE: Seconds = 10;

/// What makes a flow legitimate, apart from its age.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Idle timeouts.
    pub timeouts: Timeouts,
    /// Office networks: the flows of other clients end.
    pub office: Vec<Ipv4Net>,
    /// Our NAT addresses.
    pub nat_addresses: HashSet<Ipv4Addr>,
    /// Networks that there is a way to. One that is gone for a moment, as while a tunnel is made anew, ends no flow.
    pub reachable: Vec<Ipv4Net>,
    /// The cluster, if every service is known. A flow to a backend that its service has lost ends at once: UDP has no
    /// end of its own, and would last as long as its client sends, into the void or to whoever has the address by
    /// then; a TCP client is reset at its next packet, instead of waiting.
    pub cluster: Option<Arc<DesiredState>>,
}

impl Policy {
    /// Whether a flow leads to a backend that its service no longer has: with UDP, one that takes no new flows;
    /// with TCP, one that does not serve any more.
    fn has_lost_backend(&self, key: &FlowKey, flow: &Flow) -> bool {
        let Some(cluster) = &self.cluster else {
            return false;
        };
        let Some(address) = service_port(key) else {
            return false;
        };
        if (key.destination, key.destination_port) == (flow.backend, flow.backend_port) {
            return false;
        }
        let backend = cluster::Backend {
            address: flow.backend.into(),
            port: flow.backend_port,
        };
        !cluster.services.get(&address).is_some_and(|service| {
            let alive = match address.protocol {
                Protocol::Tcp => &service.serving,
                Protocol::Udp => &service.backends,
            };
            alive.binary_search(&backend).is_ok()
        })
    }

    /// Whether a connection that was left to kube-proxy goes to a service that is no more: nothing translates it then.
    fn has_lost_service(&self, key: &FlowKey) -> bool {
        let (Some(cluster), Some(address)) = (&self.cluster, service_port(key)) else {
            return false;
        };
        let mut networks = cluster.cidrs_of(CidrKind::Service);
        networks.any(|network| network.contains(&address.vip))
            && !cluster.services.contains_key(&address)
    }

    /// Whether a service has lost a backend since `before`, so that there may be flows to cut.
    #[must_use]
    pub fn loses_backends(&self, before: &Self) -> bool {
        match (&before.cluster, &self.cluster) {
            (Some(before), Some(now)) if !Arc::ptr_eq(before, now) => {
                before.services.iter().any(|(address, service)| {
                    now.services
                        .get(address)
                        .is_none_or(|now| match address.protocol {
                            Protocol::Tcp => lacks(&now.serving, &service.serving),
                            Protocol::Udp => lacks(&now.backends, &service.backends),
                        })
                })
            }
            (None, Some(_)) => true,
            _ => false,
        }
    }

    /// Whether the backend is now reached from another address than the flow's: its replies don't come home.
    fn has_moved(&self, flow: &Flow) -> bool {
        !self.nat_addresses.contains(&Ipv4Addr::from(flow.nat))
            && self
                .reachable
                .iter()
                .any(|network| network.contains(&Ipv4Addr::from(flow.backend)))
    }
}

/// What a client addressed, as services are named.
fn service_port(key: &FlowKey) -> Option<ServicePort> {
    let protocol = match key.protocol {
        TCP => Protocol::Tcp,
        UDP => Protocol::Udp,
        _ => return None,
    };
    Some(ServicePort {
        vip: key.destination.into(),
        port: key.destination_port,
        protocol,
    })
}

/// Whether one of `wanted` is not in `list`.
fn lacks(list: &[cluster::Backend], wanted: &[cluster::Backend]) -> bool {
    list != wanted
        && wanted
            .iter()
            .any(|backend| list.binary_search(backend).is_err())
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
    /// Flows that no longer fit the configuration.
    pub foreign: usize,
    /// Flows removed before their time to make room.
    pub evicted: usize,
    /// Flows that stay.
    pub remaining: usize,
}

/// Plans a collection over everything in the tables.
#[must_use]
pub fn plan(
    flows: &[(FlowKey, Flow)],
    replies: &[(ReplyKey, Reply)],
    capacity: usize,
    now: Seconds,
    policy: &Policy,
) -> Plan {
    let by_key: HashMap<&ReplyKey, &Reply> =
        replies.iter().map(|(key, reply)| (key, reply)).collect();
    let mut plan = Plan::default();
    let mut owned: HashSet<ReplyKey> = HashSet::with_capacity(replies.len());
    let mut alive = Vec::new();
    for (key, flow) in flows {
        if flow.layer == Layer::Kernel as u8 {
            let unused = since(now, flow.last_seen);
            if unused >= untranslated_timeout(key.protocol, flow, &policy.timeouts) {
                plan.flows.push(*key);
                plan.expired += 1;
            } else if policy.has_lost_service(key) {
                plan.cut.push((*key, key.reply_key(flow)));
                plan.foreign += 1;
            } else {
                alive.push(Candidate {
                    class: UNTRANSLATED,
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
        let is_foreign = !policy
            .office
            .iter()
            .any(|office| office.contains(&Ipv4Addr::from(key.client)))
            || policy.has_moved(flow)
            || policy.has_lost_backend(key, flow);
        let has_expired = is_expired(key.protocol, flow, &reply, now, &policy.timeouts);
        if has_expired {
            plan.flows.push(*key);
            plan.replies.push(reply_key);
            plan.expired += 1;
        } else if is_foreign {
            plan.cut.push((*key, reply_key));
            plan.foreign += 1;
        } else {
            alive.push(Candidate {
                class: class(FlowState::of(key.protocol, flow, &reply)),
                idle: idle(now, flow, &reply),
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
    plan.remaining += alive.len();
    if plan.remaining * 100 > capacity * HIGH_WATER_PERCENT {
        let excess = plan
            .remaining
            .saturating_sub(capacity * LOW_WATER_PERCENT / 100);
        // The least valuable first: what is not ours, half-open, then closing, then the longest idle.
        alive.sort_unstable_by(|a, b| a.class.cmp(&b.class).then(b.idle.cmp(&a.idle)));
        for candidate in alive.iter().take(excess) {
            plan.flows.push(candidate.key);
            plan.replies.extend(candidate.reply_key);
        }
        plan.evicted = excess.min(alive.len());
        plan.remaining -= plan.evicted;
    }
    plan
}

struct Candidate {
    class: u8,
    idle: Seconds,
    key: FlowKey,
    reply_key: Option<ReplyKey>,
}

/// The class of a connection that is not ours: it is there to spare its first answer a guess.
const UNTRANSLATED: u8 = 0;

const fn class(state: FlowState) -> u8 {
    match state {
        FlowState::Tcp(State::Opening) | FlowState::Unreplied => 1,
        FlowState::Tcp(State::Closing | State::Reset) => 2,
        FlowState::Tcp(State::Established) | FlowState::Replied => 3,
    }
}

/// Collects garbage in the pinned tables.
pub struct GarbageCollector {
    tables: Tables,
    capacity: usize,
}

impl GarbageCollector {
    /// A collector over `tables`.
    ///
    /// # Errors
    /// When they can't be opened.
    pub fn new(tables: Tables) -> Result<Self, TableError> {
        let capacity = tables.flow_capacity()? as usize;
        Ok(Self { tables, capacity })
    }

    /// Reads, plans and removes.
    ///
    /// # Errors
    /// When a table can't be read or written.
    pub fn collect(&self, policy: &Policy) -> Result<Plan, TableError> {
        let flows = self.tables.flows()?;
        let replies = self.tables.replies()?;
        let mut plan = plan(&flows, &replies, self.capacity, now(), policy);
        self.keep_what_came_back(&mut plan, &flows, &replies)?;
        remove(&self.tables, &plan.flows, &plan.replies)?;
        self.cut(&plan.cut)?;
        Ok(plan)
    }

    /// Removes flows that are in use, unless another has come under the same key since.
    fn cut(&self, flows: &[(FlowKey, ReplyKey)]) -> Result<(), TableError> {
        if flows.is_empty() {
            return Ok(());
        }
        let table = self.tables.hash::<FlowKey, Flow>(name::FLOWS)?;
        let (keys, replies): (Vec<_>, Vec<_>) = flows
            .iter()
            .filter(|(key, reply_key)| {
                table
                    .get(key, 0)
                    .is_ok_and(|flow| key.reply_key(&flow) == *reply_key)
            })
            .copied()
            .unzip();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::ClusterCidr;
    use bridge_common::conntrack::tcp_state::Seen;

    const NAT: [u8; 4] = [10, 244, 30, 0];
    const NOW: Seconds = 200_000;

    fn policy() -> Policy {
        Policy {
            timeouts: Timeouts::default(),
            office: vec!["192.168.0.0/22".parse().unwrap()],
            nat_addresses: HashSet::from([Ipv4Addr::from(NAT)]),
            reachable: vec!["10.244.1.0/24".parse().unwrap()],
            cluster: None,
        }
    }

    struct Entry {
        protocol: u8,
        port: u16,
        idle: Seconds,
        seen: (u8, u8),
        replied: bool,
    }

    const ESTABLISHED: (u8, u8) = (Seen::SYN | Seen::ACK, Seen::SYN | Seen::ACK);

    fn pair(entry: &Entry) -> ((FlowKey, Flow), (ReplyKey, Reply)) {
        let key = FlowKey {
            client: [192, 168, 0, 10],
            destination: [10, 244, 1, 5],
            client_port: entry.port,
            destination_port: 80,
            protocol: entry.protocol,
            pad: 0,
            pad2: 0,
        };
        let flow = Flow {
            backend: key.destination,
            nat: NAT,
            backend_port: 80,
            nat_port: entry.port,
            last_seen: NOW - entry.idle,
            tcp_seen: entry.seen.0,
            layer: Layer::Tc as u8,
            ..Flow::default()
        };
        let reply = Reply {
            client: key.client,
            destination: key.destination,
            client_port: key.client_port,
            destination_port: key.destination_port,
            last_seen: NOW - entry.idle,
            packets: u16::from(entry.replied),
            tcp_seen: entry.seen.1,
            layer: Layer::Tc as u8,
            ..Reply::default()
        };
        ((key, flow), (key.reply_key(&flow), reply))
    }

    fn tcp(port: u16, idle: Seconds, seen: (u8, u8)) -> Entry {
        Entry {
            protocol: TCP,
            port,
            idle,
            seen,
            replied: true,
        }
    }

    fn run(entries: &[Entry], capacity: usize, policy: &Policy) -> Plan {
        let (flows, replies): (Vec<_>, Vec<_>) = entries.iter().map(pair).unzip();
        plan(&flows, &replies, capacity, NOW, policy)
    }

    #[test]
    fn only_what_has_run_out_goes() {
        let unreplied = Entry {
            protocol: UDP,
            port: 4,
            idle: 130,
            seen: (0, 0),
            replied: false,
        };
        let entries = [
            tcp(1, 80_000, ESTABLISHED),
            tcp(2, 90_000, ESTABLISHED),
            tcp(3, 241, (Seen::SYN, 0)),
            unreplied,
        ];
        let plan = run(&entries, 1_000, &policy());
        let ports: Vec<u16> = plan.flows.iter().map(|key| key.client_port).collect();
        assert_eq!(ports, [2, 3, 4]);
        assert_eq!(
            (plan.replies.len(), plan.expired, plan.remaining),
            (3, 3, 1)
        );
    }

    #[test]
    fn half_a_flow_goes_after_a_grace() {
        let (flow, reply) = pair(&tcp(1, HALF_GRACE, ESTABLISHED));
        let plan_without_reply = plan(&[flow], &[], 1_000, NOW, &policy());
        assert_eq!(plan_without_reply.flows, [flow.0]);
        let plan_without_flow = plan(&[], &[reply], 1_000, NOW, &policy());
        assert_eq!(plan_without_flow.replies, [reply.0]);
        let (young, _) = pair(&tcp(1, HALF_GRACE - 1, ESTABLISHED));
        assert_eq!(plan(&[young], &[], 1_000, NOW, &policy()).flows, []);
    }

    #[test]
    fn a_reply_entry_of_another_flow_does_not_keep_this_one() {
        let (flow, (reply_key, mut reply)) = pair(&tcp(1, HALF_GRACE, ESTABLISHED));
        reply.client = [192, 168, 0, 11];
        let plan = plan(&[flow], &[(reply_key, reply)], 1_000, NOW, &policy());
        assert_eq!(plan.flows, [flow.0]);
    }

    #[test]
    fn flows_of_removed_networks_and_addresses_end() {
        let mut elsewhere = policy();
        elsewhere.office = vec!["172.16.0.0/16".parse().unwrap()];
        assert_eq!(run(&[tcp(1, 0, ESTABLISHED)], 1_000, &elsewhere).foreign, 1);
        let mut renumbered = policy();
        renumbered.nat_addresses.clear();
        assert_eq!(
            run(&[tcp(1, 0, ESTABLISHED)], 1_000, &renumbered).foreign,
            1
        );
    }

    /// How many flows of TCP and UDP end, from one client through the service to its backend 10.244.1.5.
    fn collected(backends: Option<&cluster::Service>) -> [usize; 2] {
        [(TCP, Protocol::Tcp), (UDP, Protocol::Udp)].map(|(number, protocol)| {
            let backends = backends.cloned();
            let address = ServicePort {
                vip: [10, 96, 0, 10].into(),
                port: 53,
                protocol,
            };
            let ((mut key, flow), (_, mut reply)) = pair(&Entry {
                protocol: number,
                port: 4,
                idle: 0,
                seen: ESTABLISHED,
                replied: true,
            });
            (key.destination, key.destination_port) = (address.vip.octets(), address.port);
            (reply.destination, reply.destination_port) = (key.destination, address.port);
            let mut policy = policy();
            policy.cluster = Some(Arc::new(DesiredState {
                services: backends
                    .map(|service| (address, Arc::new(service)))
                    .into_iter()
                    .collect(),
                authoritative: true,
                ..DesiredState::default()
            }));
            let replies = [(key.reply_key(&flow), reply)];
            let plan = plan(&[(key, flow)], &replies, 1_000, NOW, &policy);
            assert_eq!(plan.foreign, plan.cut.len());
            plan.foreign
        })
    }

    fn with_backends(backends: &[u8], serving: &[u8]) -> cluster::Service {
        let list = |lasts: &[u8]| {
            let backend = |last: &u8| cluster::Backend {
                address: [10, 244, 1, *last].into(),
                port: 80,
            };
            lasts.iter().map(backend).collect()
        };
        cluster::Service {
            namespace: "default".to_owned(),
            name: "dns".to_owned(),
            port_name: None,
            backends: list(backends),
            serving: list(serving),
            affinity_seconds: None,
        }
    }

    #[test]
    fn flows_to_a_backend_that_is_gone_end() {
        assert_eq!(collected(Some(&with_backends(&[4, 5], &[4, 5]))), [0, 0]);
        assert_eq!(collected(Some(&with_backends(&[4], &[4]))), [1, 1]);
        assert_eq!(collected(Some(&with_backends(&[], &[]))), [1, 1]);
        assert_eq!(collected(None), [1, 1], "the service itself is gone");
    }

    #[test]
    fn tcp_goes_on_with_a_backend_that_serves_while_it_terminates_and_udp_does_not() {
        assert_eq!(collected(Some(&with_backends(&[4], &[4, 5]))), [0, 1]);
    }

    #[test]
    fn what_was_left_to_kube_proxy_ends_with_its_service() {
        let service_cidr = ClusterCidr {
            kind: CidrKind::Service,
            cidr: "10.96.0.0/12".parse().unwrap(),
            source: "command line".to_owned(),
        };
        let address = ServicePort {
            vip: [10, 96, 0, 10].into(),
            port: 53,
            protocol: Protocol::Tcp,
        };
        let cluster = DesiredState {
            cidrs: vec![service_cidr],
            services: [(address, Arc::new(with_backends(&[5], &[5])))].into(),
            authoritative: true,
            ..DesiredState::default()
        };
        let left = |vip: [u8; 4], port| {
            let ((mut key, mut flow), _) = pair(&tcp(1, 0, ESTABLISHED));
            (key.destination, key.destination_port) = (vip, port);
            (flow.backend, flow.backend_port) = (vip, port);
            (flow.nat, flow.nat_port) = (key.client, key.client_port);
            flow.layer = Layer::Kernel as u8;
            (key, flow)
        };
        let lost = [left([10, 96, 0, 10], 54), left([10, 96, 0, 11], 53)];
        // A service that is there, and a pod's own connection.
        let kept = [left([10, 96, 0, 10], 53), left([10, 244, 1, 5], 53)];
        let flows = [lost, kept].concat();
        let mut policy = policy();
        let beside_kube_proxy = plan(&flows, &[], 1_000, NOW, &policy);
        assert_eq!(
            (beside_kube_proxy.foreign, beside_kube_proxy.remaining),
            (0, 4)
        );
        policy.cluster = Some(Arc::new(cluster));
        let plan = plan(&flows, &[], 1_000, NOW, &policy);
        assert_eq!((plan.foreign, plan.remaining), (2, 2));
        let cut: Vec<_> = plan.cut.iter().map(|(key, _)| *key).collect();
        assert_eq!(cut, lost.map(|(key, _)| key));
    }

    #[test]
    fn only_the_loss_of_a_backend_calls_for_a_sweep() {
        let state = |protocol, backends: Option<cluster::Service>| {
            let address = ServicePort {
                vip: [10, 96, 0, 10].into(),
                port: 53,
                protocol,
            };
            Policy {
                cluster: Some(Arc::new(DesiredState {
                    services: backends
                        .map(|service| (address, Arc::new(service)))
                        .into_iter()
                        .collect(),
                    ..DesiredState::default()
                })),
                ..policy()
            }
        };
        let loses = |protocol, before, after| {
            state(protocol, after).loses_backends(&state(protocol, before))
        };
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            assert!(!loses(protocol, None, Some(with_backends(&[4], &[4]))));
            assert!(!loses(
                protocol,
                Some(with_backends(&[4], &[4])),
                Some(with_backends(&[3, 4], &[3, 4]))
            ));
            assert!(loses(
                protocol,
                Some(with_backends(&[4, 5], &[4, 5])),
                Some(with_backends(&[4, 6], &[4, 6]))
            ));
            assert!(loses(protocol, Some(with_backends(&[4], &[4])), None));
        }
        let terminating = Some(with_backends(&[4], &[4, 5]));
        let both = Some(with_backends(&[4, 5], &[4, 5]));
        assert!(!loses(Protocol::Tcp, both.clone(), terminating.clone()));
        assert!(loses(Protocol::Udp, both, terminating));
        assert!(
            state(Protocol::Tcp, None).loses_backends(&policy()),
            "what was left by an earlier run"
        );
    }

    #[test]
    fn flows_outlast_a_tunnel_that_is_gone_for_a_moment() {
        let mut without_tunnel = policy();
        without_tunnel.nat_addresses.clear();
        without_tunnel.reachable.clear();
        let plan = run(&[tcp(1, 0, ESTABLISHED)], 1_000, &without_tunnel);
        assert_eq!((plan.remaining, plan.foreign), (1, 0));
    }

    #[test]
    fn connections_that_are_not_ours_are_the_first_to_go() {
        let mut entries: Vec<_> = (100..198)
            .map(|port| pair(&tcp(port, 1, ESTABLISHED)))
            .collect();
        for ((_, flow), _) in &mut entries[..40] {
            flow.layer = Layer::Kernel as u8;
            flow.tcp_seen = Seen::ACK;
        }
        let flows: Vec<_> = entries.iter().map(|(flow, _)| *flow).collect();
        let replies: Vec<_> = entries[40..].iter().map(|(_, reply)| *reply).collect();
        let plan = plan(&flows, &replies, 100, NOW, &policy());
        assert_eq!((plan.evicted, plan.replies.len()), (13, 0));
    }

    #[test]
    fn a_full_table_loses_half_open_then_closing_then_the_longest_idle() {
        let fin = Seen::SYN | Seen::ACK | Seen::FIN;
        let mut entries: Vec<Entry> = (100..197)
            .map(|port| tcp(port, u32::from(port), ESTABLISHED))
            .collect();
        entries.push(tcp(1, 5, (Seen::SYN, 0)));
        entries.push(tcp(2, 5, (fin, fin)));
        let plan = run(&entries, 100, &policy());
        assert_eq!((plan.evicted, plan.remaining), (14, 85));
        let ports: Vec<u16> = plan.flows.iter().map(|key| key.client_port).collect();
        assert_eq!(ports[..4], [1, 2, 196, 195]);
    }
}
