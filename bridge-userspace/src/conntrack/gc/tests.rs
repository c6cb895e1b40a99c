use std::sync::Arc;

use bridge_common::abi::Timeouts;
use bridge_common::packet::parse::UDP;

use super::*;
use crate::cluster::{self, CidrKind, ClusterCidr, DesiredState, Protocol, ServicePort};

const NAT: [u8; 4] = [10, 244, 30, 0];
const NOW: Seconds = 200_000;
const GRACE: Seconds = 15;

fn policy() -> Policy {
    Policy {
        timeouts: Timeouts::default(),
        backend_grace: GRACE,
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
        packets: u8::from(entry.replied),
        state: entry.seen.1,
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
    once(&flows, &replies, capacity, policy)
}

/// A plan without a memory.
fn once(
    flows: &[(FlowKey, Flow)],
    replies: &[(ReplyKey, Reply)],
    capacity: usize,
    policy: &Policy,
) -> Plan {
    plan(
        flows,
        replies,
        capacity,
        NOW,
        policy,
        &mut Memory::default(),
    )
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
    let plan_without_reply = once(&[flow], &[], 1_000, &policy());
    assert_eq!(plan_without_reply.flows, [flow.0]);
    let plan_without_flow = once(&[], &[reply], 1_000, &policy());
    assert_eq!(plan_without_flow.replies, [reply.0]);
    let (young, _) = pair(&tcp(1, HALF_GRACE - 1, ESTABLISHED));
    assert_eq!(once(&[young], &[], 1_000, &policy()).flows, []);
}

#[test]
fn a_reply_entry_of_another_flow_does_not_keep_this_one() {
    let (flow, (reply_key, mut reply)) = pair(&tcp(1, HALF_GRACE, ESTABLISHED));
    reply.client = [192, 168, 0, 11];
    let plan = once(&[flow], &[(reply_key, reply)], 1_000, &policy());
    assert_eq!(plan.flows, [flow.0]);
}

#[test]
fn flows_of_removed_office_networks_end() {
    let mut elsewhere = policy();
    elsewhere.office = vec!["172.16.0.0/16".parse().unwrap()];
    assert_eq!(run(&[tcp(1, 0, ESTABLISHED)], 1_000, &elsewhere).foreign, 1);
}

const VIP: ServicePort = ServicePort {
    vip: Ipv4Addr::new(10, 96, 0, 10),
    port: 53,
    protocol: Protocol::Tcp,
};

/// One flow through [`VIP`] to 10.244.1.5, as time goes by.
struct Story {
    protocol: u8,
    flow: Flow,
    reply: Reply,
    policy: Policy,
    memory: Memory,
    now: Seconds,
}

impl Story {
    fn new(protocol: u8) -> Self {
        let ((_, flow), (_, reply)) = pair(&Entry {
            protocol,
            port: 4,
            idle: 0,
            seen: ESTABLISHED,
            replied: true,
        });
        Self {
            protocol,
            flow,
            reply,
            policy: policy(),
            memory: Memory::default(),
            now: NOW,
        }
    }

    /// One whose SYN nobody has answered.
    fn opening() -> Self {
        let mut story = Self::new(TCP);
        story.flow.tcp_seen = Seen::SYN | Seen::ASKS;
        (story.reply.state, story.reply.packets) = (0, 0);
        story
    }

    /// The services of the cluster from now on: the last numbers of backends and of what lives.
    fn services(mut self, services: &[(ServicePort, &[u8], &[u8])]) -> Self {
        let entry = |&(mut port, backends, alive): &(ServicePort, &[u8], &[u8])| {
            if self.protocol == UDP {
                port.protocol = Protocol::Udp;
            }
            (port, Arc::new(with_backends(backends, alive)))
        };
        self.policy.cluster = Some(Arc::new(DesiredState {
            services: services.iter().map(entry).collect(),
            authoritative: true,
            ..DesiredState::default()
        }));
        self
    }

    /// The client sends data, which is answered or not.
    fn speaks(mut self, is_answered: bool) -> Self {
        self.flow.last_seen = self.now;
        self.flow.tcp_seen |= Seen::ASKS;
        if is_answered {
            self.reply.last_seen = self.now;
        }
        self
    }

    /// The client acknowledges what it has got.
    fn acknowledges(mut self) -> Self {
        self.flow.last_seen = self.now;
        self.flow.tcp_seen &= !Seen::ASKS;
        self
    }

    /// Whether the flow is there after a look.
    fn lives(&mut self) -> bool {
        let key = FlowKey {
            client: [192, 168, 0, 10],
            destination: VIP.vip.octets(),
            client_port: 4,
            destination_port: VIP.port,
            protocol: self.protocol,
            pad: 0,
            pad2: 0,
        };
        let mut reply = self.reply;
        (reply.destination, reply.destination_port) = (key.destination, key.destination_port);
        let flows = [(key, self.flow)];
        let replies = [(key.reply_key(&self.flow), reply)];
        let plan = plan(
            &flows,
            &replies,
            1_000,
            self.now,
            &self.policy,
            &mut self.memory,
        );
        assert_eq!((plan.flows.len(), plan.foreign), (0, plan.cut.len()));
        plan.remaining == 1
    }

    /// Lets time pass, with looks as they come.
    fn wait(mut self, seconds: Seconds) -> Self {
        let end = self.now + seconds;
        while self.now < end {
            assert!(self.lives(), "after {} s", self.now - NOW);
            self.now = end.min(self.now + 3);
        }
        self
    }
}

#[test]
fn a_session_lives_as_long_as_its_pod_answers_whatever_is_said_of_it() {
    for services in [
        &[(VIP, &[4][..], &[4, 5][..])][..], // unready, or draining
        &[(VIP, &[4], &[4])],                // in no slice, or ended by all that is said
        &[(VIP, &[], &[])],                  // the port was renamed
        &[],                                 // the service was deleted
    ] {
        let story = Story::new(TCP).services(services).wait(GRACE);
        let mut story = (0..100).fold(story, |story, _| story.speaks(true).wait(10));
        assert!(story.lives(), "{services:?}");
    }
}

#[test]
fn a_session_whose_pod_is_gone_ends_when_its_client_speaks() {
    // Silent for as long as the client is.
    let story = Story::new(TCP).services(&[(VIP, &[4], &[4])]).wait(80_000);
    let mut story = story.speaks(false);
    assert!(story.lives());
    story.now += SILENCE - 1;
    assert!(story.lives());
    story.now += 1;
    assert!(!story.lives());
}

#[test]
fn the_grace_is_kept_and_a_client_that_repeats_itself_is_heard() {
    let mut story = Story::new(TCP).services(&[(VIP, &[4], &[4])]);
    assert!(story.lives());
    // A segment is sent again every second: none has been there for long.
    for second in 1..GRACE {
        story.now = NOW + second;
        story = story.speaks(false);
        assert!(story.lives(), "after {second} s");
    }
    story.now = NOW + GRACE;
    story = story.speaks(false);
    assert!(!story.lives());
}

#[test]
fn an_acknowledgement_asks_for_no_answer() {
    let mut story = Story::new(TCP).services(&[(VIP, &[4], &[4])]);
    story.now += 1;
    assert!(story.acknowledges().wait(80_000).lives());
}

#[test]
fn a_pod_that_ends_is_given_up_only_where_it_serves_no_more() {
    // Its probe fails: it lives, and so it is waited for.
    let mut story = Story::new(TCP).services(&[(VIP, &[4], &[4, 5])]);
    story.now += 1;
    assert!(story.speaks(false).wait(80_000).lives());
}

#[test]
fn a_service_that_comes_back_begins_anew() {
    let story = Story::new(TCP).services(&[]).wait(10);
    let story = story.services(&[(VIP, &[5], &[5])]).wait(10);
    let mut story = story.services(&[]);
    story.now += 1;
    let mut story = story.speaks(false).wait(GRACE);
    assert!(!story.lives());
}

#[test]
fn what_is_not_established_moves_as_soon_as_it_can() {
    for (is_tcp, mut story) in [(true, Story::opening()), (false, Story::new(UDP))] {
        assert!(story.lives());
        story = story.services(&[(VIP, &[], &[5])]);
        assert!(story.lives(), "nobody else would take it");
        story = story.services(&[(VIP, &[4], &[4, 5])]);
        assert!(!story.lives(), "another takes new flows");
        story = story.services(&[]);
        assert_eq!(story.lives(), !is_tcp);
    }
}

#[test]
fn datagrams_that_nobody_else_would_take_stay_where_they_are() {
    let mut story = Story::new(UDP).services(&[(VIP, &[], &[])]);
    story.now += 1;
    let mut story = story.speaks(false).wait(GRACE);
    story.now += 1;
    assert!(story.lives());
}

#[test]
fn what_may_be_an_answer_to_nothing_is_worth_little() {
    let mut entries: Vec<_> = (100..198)
        .map(|port| pair(&tcp(port, 1, ESTABLISHED)))
        .collect();
    for ((_, flow), _) in &mut entries[..40] {
        flow.layer = Layer::Passed as u8;
        flow.tcp_seen = Seen::ACK;
    }
    for ((_, flow), _) in &mut entries[20..40] {
        flow.tcp_seen = Seen::SYN | Seen::ACK;
    }
    let flows: Vec<_> = entries.iter().map(|(flow, _)| *flow).collect();
    let replies: Vec<_> = entries[40..].iter().map(|(_, reply)| *reply).collect();
    let plan = once(&flows, &replies, 70, &policy());
    assert_eq!(plan.evicted, 39);
    assert!(plan.flows.iter().all(|key| key.client_port < 140));
    let unsure = |seen| {
        let (mut key_and_flow, _) = pair(&tcp(1, 240, (seen, 0)));
        key_and_flow.1.layer = Layer::Passed as u8;
        once(&[key_and_flow], &[], 100, &policy()).remaining == 1
    };
    assert!(!unsure(Seen::ACK));
    assert!(unsure(Seen::SYN | Seen::ACK));
}

#[test]
fn no_datagram_goes_to_the_pod_of_another_service() {
    let other = ServicePort { port: 54, ..VIP };
    let story = Story::new(UDP).services(&[(VIP, &[], &[]), (other, &[6], &[6])]);
    let mut story = story
        .wait(3)
        .services(&[(VIP, &[], &[]), (other, &[5, 6], &[5, 6])]);
    assert!(!story.lives(), "the address has gone to another pod");
    // One pod behind two services goes on.
    let story = Story::new(UDP).services(&[(VIP, &[], &[]), (other, &[5], &[5])]);
    assert!(story.wait(3).lives());
}

#[test]
fn a_session_outlives_the_loss_of_its_nat_address_while_it_is_answered() {
    let mut story = Story::new(TCP);
    story.policy.nat_addresses.clear();
    story = story.speaks(true).wait(60).speaks(true).wait(60);
    story = story.speaks(false);
    story.now += 10;
    assert!(!story.lives());
    let mut datagrams = Story::new(UDP);
    datagrams.policy.nat_addresses.clear();
    assert!(!datagrams.lives(), "the next one opens a flow with another");
}

#[test]
fn flows_that_have_lost_their_backend_are_watched_for_a_while() {
    let mut memory = Memory::default();
    let mut watched = |now, policy: &Policy| {
        let ((mut key, flow), (_, mut reply)) = pair(&tcp(4, 0, ESTABLISHED));
        key.destination = VIP.vip.octets();
        key.destination_port = VIP.port;
        (reply.destination, reply.destination_port) = (key.destination, key.destination_port);
        let replies = [(key.reply_key(&flow), reply)];
        let plan = plan(&[(key, flow)], &replies, 1_000, now, policy, &mut memory);
        assert!(plan.in_use.destinations.contains(&VIP.vip));
        assert!(plan.in_use.nat_addresses.contains(&NAT.into()));
        plan.is_watched
    };
    assert!(!watched(NOW, &policy()));
    let lost = Story::new(TCP).services(&[]).policy;
    assert!(watched(NOW, &lost));
    assert!(!watched(NOW + GRACE + WATCH_AFTER_GRACE, &lost));
}

fn with_backends(backends: &[u8], alive: &[u8]) -> cluster::Service {
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
        alive: list(alive),
        affinity_seconds: None,
    }
}

#[test]
fn what_was_left_to_kube_proxy_and_is_not_established_ends_with_its_service() {
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
        let ((mut key, mut flow), _) = pair(&tcp(1, 0, (Seen::SYN, 0)));
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
    let beside_kube_proxy = once(&flows, &[], 1_000, &policy);
    assert_eq!(
        (beside_kube_proxy.foreign, beside_kube_proxy.remaining),
        (0, 4)
    );
    policy.cluster = Some(Arc::new(cluster));
    let plan = once(&flows, &[], 1_000, &policy);
    assert_eq!((plan.foreign, plan.remaining), (2, 2));
    let cut: Vec<_> = plan.cut.iter().map(|(key, _)| *key).collect();
    assert_eq!(cut, lost.map(|(key, _)| key));
    // Netfilter goes on translating a session.
    let mut session = lost[0];
    session.1.tcp_seen = Seen::ACK;
    assert_eq!(once(&[session], &[], 1_000, &policy).remaining, 1);
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
    let loses =
        |protocol, before, after| state(protocol, after).loses_backends(&state(protocol, before));
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
fn a_connection_that_is_not_translated_is_worth_what_it_is() {
    let mut entries: Vec<_> = (100..198)
        .map(|port| pair(&tcp(port, 1, ESTABLISHED)))
        .collect();
    for ((_, flow), _) in &mut entries[..40] {
        flow.layer = Layer::Kernel as u8;
        flow.tcp_seen = Seen::ACK;
    }
    for ((_, flow), _) in &mut entries[..13] {
        flow.tcp_seen = 0;
    }
    let flows: Vec<_> = entries.iter().map(|(flow, _)| *flow).collect();
    let replies: Vec<_> = entries[40..].iter().map(|(_, reply)| *reply).collect();
    let plan = once(&flows, &replies, 100, &policy());
    assert_eq!((plan.evicted, plan.replies.len()), (13, 0));
    assert!(
        plan.flows.iter().all(|key| key.client_port < 113),
        "half-open ones"
    );
}

#[test]
fn an_idle_session_outlives_a_thousand_answered_exchanges() {
    let mut entries = vec![tcp(1, 80_000, ESTABLISHED)];
    entries.extend((2..1_024).map(|port| Entry {
        protocol: UDP,
        port,
        idle: 1,
        seen: (0, 0),
        replied: true,
    }));
    let plan = run(&entries, 1_024, &policy());
    assert!(plan.evicted > 100);
    assert!(plan.flows.iter().all(|key| key.protocol == UDP));
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
