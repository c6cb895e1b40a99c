//! An office, a cluster and the tables of the node between them.

use bridge_common::abi::{
    Backend, BackendKey, DestinationKind, Flow, FlowKey, Ipv4, Reply, ReplyKey, Route, Service,
    ServiceKey,
};
use bridge_common::packet::parse::{ICMP, TCP, UDP};
use bridge_common::packet::rewrite::Endpoint;
use bridge_common::path::stack;
use bridge_common::path::tc::{self, Side};
use bridge_common::sim::{SimPacket, SimTables};
use bridge_common::tables::{Slot, Tables};
use bridge_common::verdict::Verdict;

use crate::packets::{Segment, Wire, at};

/// Two hosts of the office.
pub const PC: Ipv4 = [192, 168, 0, 10];
pub const LAPTOP: Ipv4 = [192, 168, 1, 20];
/// A router in the office, between the node and the hosts.
pub const OFFICE_ROUTER: Ipv4 = [10, 60, 20, 1];
/// Neither office nor cluster.
pub const OUTSIDER: Ipv4 = [203, 0, 113, 7];
/// The node's address on the uplink.
pub const NODE: Ipv4 = [10, 60, 20, 30];
/// The node's address on the tunnel, which replies come home to.
pub const NAT: Ipv4 = [10, 244, 30, 0];
/// A pod behind the tunnel, one behind a plain route, one on the node itself, one without a way to it.
pub const POD: Ipv4 = [10, 244, 1, 7];
pub const ROUTED_POD: Ipv4 = [10, 244, 2, 7];
pub const LOCAL_POD: Ipv4 = [10, 244, 30, 9];
pub const LOST_POD: Ipv4 = [10, 244, 9, 9];
/// A router between the node and the pods.
pub const WORKER: Ipv4 = [10, 244, 1, 1];
/// The address of a service, and its ports.
pub const VIP: Ipv4 = [10, 96, 10, 10];
pub const MYSQL: Endpoint = at(VIP, 3306);
pub const DNS: Endpoint = at(VIP, 53);
/// A port without a ready backend.
pub const EMPTY: Endpoint = at(VIP, 81);
/// A service address without a ready backend.
pub const EMPTY_VIP: Ipv4 = [10, 96, 10, 11];

/// Where the backends listen.
pub const MYSQL_BACKEND_PORT: u16 = 13_306;
pub const DNS_BACKEND_PORT: u16 = 1053;

pub const UPLINK: u32 = 2;
pub const TUNNEL: u32 = 5;
pub const BRIDGE: u32 = 6;
pub const NIC: u32 = 7;
pub const TUNNEL_MTU: u32 = 1450;
pub const MTU: u32 = 1500;

/// Backends of both services.
pub const BACKENDS: u32 = 4;

pub fn backend(slot: u32) -> Ipv4 {
    [10, 244, 1, 100 + u8::try_from(slot).unwrap()]
}

const fn route(ifindex: u32, source: Ipv4, mtu: u32, flags: u16) -> Route {
    Route {
        ifindex,
        source,
        mtu,
        flags,
        next_hop: 0,
        gateway: [0; 4],
    }
}

/// The tables that userspace would have filled.
pub fn fixture() -> SimTables {
    let mut tables = SimTables {
        office: vec![([192, 168, 0, 0], 22)],
        destinations: vec![
            ([10, 244, 0, 0], 16, DestinationKind::Pod),
            ([10, 96, 0, 0], 12, DestinationKind::Service),
            (NAT, 32, DestinationKind::Nat),
            (NODE, 32, DestinationKind::Nat),
        ],
        routes: vec![
            (
                [0, 0, 0, 0],
                0,
                route(UPLINK, NODE, MTU, Route::UNREACHABLE),
            ),
            ([192, 168, 0, 0], 22, route(UPLINK, NODE, MTU, 0)),
            (
                [10, 244, 1, 0],
                24,
                route(TUNNEL, NAT, TUNNEL_MTU, Route::TUNNEL),
            ),
            ([10, 244, 2, 0], 24, route(NIC, NODE, MTU, 0)),
            ([10, 244, 30, 0], 24, route(BRIDGE, NAT, TUNNEL_MTU, 0)),
            (NAT, 32, route(1, NAT, 65_535, Route::LOCAL)),
        ],
        ..SimTables::default()
    };
    tables.settings.authoritative = 1;
    tables.settings.answer_ping = 1;
    // As on a node: some servers, ephemeral ports, NodePorts, the tunnel's own.
    tables.set_nat_ports(|port| {
        [0, 22, 53, 80, 443].contains(&port)
            || (32_768..=60_999).contains(&port)
            || (30_000..=32_767).contains(&port)
            || port == 8472
    });
    for (id, endpoint, protocol, port, count) in [
        (1, MYSQL, TCP, MYSQL_BACKEND_PORT, BACKENDS),
        (2, DNS, UDP, DNS_BACKEND_PORT, BACKENDS),
        (3, EMPTY, TCP, 0, 0),
        (4, EMPTY, UDP, 0, 0),
        (5, at(VIP, 0), ICMP, 0, BACKENDS),
        (6, at(EMPTY_VIP, 0), ICMP, 0, 0),
    ] {
        tables.services.insert(
            ServiceKey {
                vip: endpoint.address,
                port: endpoint.port,
                protocol,
                pad: 0,
            },
            Service {
                id,
                backend_count: count,
                ..Service::default()
            },
        );
        for slot in 0..count {
            tables.backends.insert(
                BackendKey {
                    service_id: id,
                    slot,
                },
                Backend {
                    address: backend(slot),
                    port,
                    pad: [0; 2],
                },
            );
        }
    }
    tables
}

/// The key of the flow that a packet from `client` to `destination` belongs to.
pub fn flow_key(protocol: u8, client: Endpoint, destination: Endpoint) -> FlowKey {
    FlowKey {
        client: client.address,
        destination: destination.address,
        client_port: client.port,
        destination_port: destination.port,
        protocol,
        pad: 0,
        pad2: 0,
    }
}

/// The segment with the numbers that its sender would give it, whichever side of a flow that is.
pub fn in_sequence(tables: &SimTables, mut wire: Wire) -> Vec<u8> {
    let key = flow_key(TCP, wire.source, wire.destination);
    let reply_key = ReplyKey {
        backend: wire.source.address,
        nat: wire.destination.address,
        backend_port: wire.source.port,
        nat_port: wire.destination.port,
        protocol: TCP,
        pad: 0,
        pad2: 0,
    };
    let flow = |key: &FlowKey| tables.flow(key).map(|slot| slot.with(|flow| *flow));
    let reply = |key: &ReplyKey| tables.reply(key).map(|slot| slot.with(|reply| *reply));
    let (own, other) = if let Some(flow) = flow(&key) {
        let reply = reply(&key.reply_key(&flow)).unwrap_or_default();
        (flow.tcp_next, reply.tcp_next)
    } else {
        let reply = reply(&reply_key).unwrap_or_default();
        let flow = flow(&reply_key.flow_key(&reply)).unwrap_or_default();
        (reply.tcp_next, flow.tcp_next)
    };
    if let Segment::Tcp {
        sequence,
        acknowledgement,
        ..
    } = &mut wire.segment
    {
        (*sequence, *acknowledgement) = (own, other);
    }
    wire.bytes()
}

/// Sends a packet in and gives what came out.
pub fn send(tables: &SimTables, side: Side, bytes: Vec<u8>) -> (Verdict, Vec<u8>) {
    let mut packet = SimPacket::new(bytes);
    let verdict = tc::run(&mut packet, tables, side);
    (verdict, packet.bytes)
}

/// Sends a packet that the kernel has routed out towards the pods, and gives what left.
pub fn depart(tables: &SimTables, bytes: Vec<u8>) -> (Verdict, Vec<u8>) {
    let mut packet = SimPacket::new(bytes);
    let verdict = stack::run(&mut packet, tables);
    (verdict, packet.bytes)
}

/// Sends a packet that must be forwarded out of `ifindex`.
#[track_caller]
pub fn forward(tables: &SimTables, side: Side, bytes: Vec<u8>, ifindex: u32) -> Vec<u8> {
    let (verdict, bytes) = send(tables, side, bytes);
    assert_eq!(verdict, Verdict::Forward { ifindex });
    bytes
}

/// Sends a packet that must pass, untouched.
#[track_caller]
pub fn pass(tables: &SimTables, side: Side, bytes: impl Into<Vec<u8>>) {
    let bytes = bytes.into();
    let (verdict, after) = send(tables, side, bytes.clone());
    assert_eq!(verdict, Verdict::Pass);
    assert_eq!(after, bytes, "a packet that passes is not written to");
}

/// Sends a packet in by the uplink that the stack path must be given, untouched.
#[track_caller]
pub fn to_stack(tables: &SimTables, bytes: impl Into<Vec<u8>>) {
    let bytes = bytes.into();
    let (verdict, after) = send(tables, Side::Uplink, bytes.clone());
    assert_eq!(verdict, Verdict::ToStack);
    assert_eq!(after, bytes, "a packet that passes is not written to");
}

/// Every forward entry.
pub fn flows(tables: &SimTables) -> Vec<(FlowKey, Flow)> {
    let flows = tables.flows.borrow();
    flows
        .iter()
        .map(|(key, flow)| (*key, *flow.borrow()))
        .collect()
}

/// Every reply entry.
pub fn replies(tables: &SimTables) -> Vec<(ReplyKey, Reply)> {
    let replies = tables.replies.borrow();
    replies
        .iter()
        .map(|(key, reply)| (*key, *reply.borrow()))
        .collect()
}

/// The only flow there is, both of its entries.
#[track_caller]
pub fn only_flow(tables: &SimTables) -> (FlowKey, Flow, Reply) {
    let (flows, replies) = (flows(tables), replies(tables));
    assert_eq!(
        (flows.len(), replies.len()),
        (1, 1),
        "one flow, two entries"
    );
    let ((key, flow), (reply_key, reply)) = (flows[0], replies[0]);
    assert_eq!(key.reply_key(&flow), reply_key);
    assert_eq!(reply_key.flow_key(&reply), key);
    (key, flow, reply)
}

pub fn advance(tables: &SimTables, seconds: u32) {
    tables.clock.set(tables.clock.get() + seconds);
}
