use proptest::prelude::*;

use super::*;
use crate::kernel::netlink::{LinkKind, Mac, Route as KernelRoute};

const UPLINK: u32 = 2;
const FLANNEL: u32 = 3;
const CNI0: u32 = 4;
const OFFICE: u32 = 5;

const UPLINK_MAC: Mac = [2, 0, 0, 0, 0, 0x30];
const FLANNEL_MAC: Mac = [2, 0, 0, 0, 1, 0x30];

fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

/// Ethernet address of the worker with this number, or of its `flannel.1`.
fn worker_mac(number: u8, of_flannel: bool) -> Mac {
    [2, 0, 0, 0, u8::from(of_flannel), number]
}

fn link(index: u32, name: &str, kind: LinkKind, mac: Mac) -> (u32, Link) {
    let link = Link {
        mac: Some(mac),
        ..Link::example(index, name, kind)
    };
    (index, link)
}

fn route(prefix: &str, ifindex: u32, gateway: Option<&str>) -> KernelRoute {
    let is_tunnel = ifindex == FLANNEL;
    KernelRoute {
        prefix: net(prefix),
        matched: net(prefix),
        ifindex,
        gateway: gateway.map(ip),
        preferred_source: match ifindex {
            FLANNEL => ip("10.244.30.0"),
            _ => ip("10.60.20.30"),
        },
        mtu: if is_tunnel { 1450 } else { 1500 },
        tunnel: is_tunnel,
    }
}

/// node-30 with two workers over VXLAN, one over a host-gw route, and the office behind a router.
fn node_30() -> NetworkState {
    let mut network = NetworkState {
        links: BTreeMap::from([
            link(UPLINK, "eth0", LinkKind::Other, UPLINK_MAC),
            link(FLANNEL, "flannel.1", LinkKind::Vxlan, FLANNEL_MAC),
            link(CNI0, "cni0", LinkKind::Bridge, [2, 0, 0, 0, 2, 1]),
            link(OFFICE, "eth1", LinkKind::Other, [2, 0, 0, 0, 3, 1]),
        ]),
        routes: vec![
            route("10.244.1.0/24", FLANNEL, Some("10.244.1.0")),
            route("10.244.2.0/24", FLANNEL, Some("10.244.2.0")),
            route("10.244.3.0/24", UPLINK, Some("10.60.20.33")),
            route("10.244.30.0/24", CNI0, None),
            route("192.168.0.0/22", UPLINK, Some("10.60.20.1")),
        ],
        ..NetworkState::default()
    };
    network.links.get_mut(&FLANNEL).unwrap().vxlan = Some(Vxlan {
        vni: 1,
        port: 8472,
        underlying: Some(UPLINK),
        local: None,
        ttl: 64,
        source_port_min: 32_768,
        source_port_count: 28_231,
        special: None,
    });
    for number in [1, 2] {
        let address = Ipv4Addr::new(10, 60, 20, 30 + number);
        let inner = worker_mac(number, true);
        neighbour(&mut network, FLANNEL, &format!("10.244.{number}.0"), inner);
        neighbour(
            &mut network,
            UPLINK,
            &address.to_string(),
            worker_mac(number, false),
        );
        network
            .fdb
            .insert((FLANNEL, inner), FdbEntry::Remote(remote(address)));
        network
            .underlay
            .insert(address, route(&format!("{address}/32"), UPLINK, None));
    }
    neighbour(&mut network, UPLINK, "10.60.20.33", worker_mac(3, false));
    neighbour(&mut network, UPLINK, "10.60.20.1", worker_mac(0xfe, false));
    network
}

fn remote(address: Ipv4Addr) -> Remote {
    Remote {
        address,
        port: None,
        vni: None,
        ifindex: None,
    }
}

fn neighbour(network: &mut NetworkState, ifindex: u32, address: &str, mac: Mac) {
    let address = ip(address);
    network
        .neighbours
        .insert(Neighbour { ifindex, address }, mac);
}

/// The entries of `routes`, as far as they matter here.
fn entries(network: &NetworkState) -> BTreeMap<Ipv4Net, Route> {
    let ways = network.routes.iter().map(|route| {
        let entry = Route {
            ifindex: route.ifindex,
            source: route.preferred_source.octets(),
            mtu: route.mtu,
            flags: if route.tunnel { Route::TUNNEL } else { 0 },
            next_hop: 0,
            gateway: [0; 4],
        };
        (route.prefix, entry)
    });
    let flagged = |prefixes: &[Ipv4Net], flags| {
        let entry = Route {
            flags,
            ..Route::default()
        };
        prefixes
            .iter()
            .map(|&prefix| (prefix, entry))
            .collect::<Vec<_>>()
    };
    ways.chain(flagged(&network.unreachable, Route::UNREACHABLE))
        .chain(flagged(&network.local, Route::LOCAL))
        .collect()
}

/// XDP at these interfaces, in both directions.
fn both_ways(ports: &[u32]) -> XdpInterfaces {
    XdpInterfaces {
        receive: ports.iter().copied().collect(),
        send: ports.iter().copied().collect(),
    }
}

fn with_ports(network: &NetworkState, ports: &[u32]) -> NextHops {
    with_ways(network, &both_ways(ports))
}

fn with_ways(network: &NetworkState, ports: &XdpInterfaces) -> NextHops {
    NextHops::new(
        "eth0",
        &[net("10.244.0.0/16")],
        network,
        &entries(network),
        ports,
    )
}

fn next_hops(network: &NetworkState) -> NextHops {
    with_ports(network, &[UPLINK])
}

fn known(network: &NetworkState) -> Vec<String> {
    let next_hops = next_hops(network);
    next_hops.hops.keys().map(ToString::to_string).collect()
}

const ALL: [&str; 4] = [
    "10.244.1.0/24",
    "10.244.2.0/24",
    "10.244.3.0/24",
    "192.168.0.0/22",
];
const NATIVE: [&str; 2] = ["10.244.3.0/24", "192.168.0.0/22"];

#[test]
fn a_worker_behind_vxlan_is_reached_with_two_headers() {
    let next_hops = next_hops(&node_30());
    assert_eq!(
        next_hops.hops[&net("10.244.2.0/24")],
        Hop {
            next_hop: NextHop {
                ifindex: UPLINK,
                vtep: 0,
                mtu: 1450,
                destination: worker_mac(2, false),
                source: UPLINK_MAC,
            },
            vtep: Some(Vtep {
                remote: [10, 60, 20, 32],
                local: [10, 60, 20, 30],
                vni: 1,
                port: 8472,
                source_port_min: 32_768,
                source_port_count: 28_231,
                ttl: 64,
                tos: 0,
                inner_destination: worker_mac(2, true),
                inner_source: FLANNEL_MAC,
            }),
        }
    );
    assert_eq!(
        next_hops.tunnels,
        [
            Tunnel {
                local: [10, 60, 20, 30],
                vni: 1,
                port: 8472,
                mac: FLANNEL_MAC,
            },
            Tunnel::default()
        ]
    );
    assert!(next_hops.problems.is_empty());
}

#[test]
fn a_gateway_on_the_wire_is_reached_with_its_own_address() {
    let next_hops = next_hops(&node_30());
    assert_eq!(
        next_hops.hops[&net("192.168.0.0/22")],
        Hop {
            next_hop: NextHop {
                ifindex: UPLINK,
                vtep: 0,
                mtu: 1500,
                destination: worker_mac(0xfe, false),
                source: UPLINK_MAC,
            },
            vtep: None,
        }
    );
    assert_eq!(
        next_hops.ports[0],
        XdpPort {
            ifindex: UPLINK,
            mac: UPLINK_MAC,
            is_uplink: 1,
            pad: 0,
        }
    );
    assert_eq!(next_hops.ports[1], XdpPort::default());
    assert_eq!(known(&node_30()), ALL);
}

#[test]
fn without_xdp_there_is_nothing_to_do() {
    assert_eq!(with_ports(&node_30(), &[]), NextHops::default());
    // A port that none of the ways leaves by.
    let elsewhere = with_ports(&node_30(), &[OFFICE]);
    assert!(elsewhere.hops.is_empty() && elsewhere.tunnels == [Tunnel::default(); 2]);
    assert_eq!(elsewhere.ports[0].is_uplink, 0);
}

#[test]
fn an_interface_that_only_receives_is_no_way_out_and_one_that_only_sends_no_port() {
    let network = with_office_connected();
    let ports = XdpInterfaces {
        receive: [OFFICE].into(),
        send: [UPLINK].into(),
    };
    let next_hops = with_ways(&network, &ports);
    let in_use: Vec<u32> = next_hops.ports.iter().map(|port| port.ifindex).collect();
    assert_eq!(in_use, [OFFICE, 0, 0, 0]);
    assert!(!next_hops.hops.is_empty());
    let leave_by: BTreeSet<u32> = next_hops
        .hops
        .values()
        .map(|hop| hop.next_hop.ifindex)
        .collect();
    assert_eq!(leave_by, BTreeSet::from([UPLINK]));
    // Nothing comes out of a tunnel that arrives elsewhere.
    assert_eq!(next_hops.tunnels, [Tunnel::default(); 2]);
}

#[test]
fn what_is_missing_on_the_way_is_left_to_tc_and_asked_for() {
    let of = |ifindex, address| Neighbour {
        ifindex,
        address: ip(address),
    };
    let worker = ["10.244.1.0/24", "10.244.3.0/24", "192.168.0.0/22"];
    for missing in [of(FLANNEL, "10.244.2.0"), of(UPLINK, "10.60.20.32")] {
        let mut network = node_30();
        network.neighbours.remove(&missing).unwrap();
        assert_eq!(known(&network), worker, "{missing:?}");
        assert!(next_hops(&network).neighbours.contains(&missing));
    }
    let mut network = node_30();
    network.fdb.remove(&(FLANNEL, worker_mac(2, true))).unwrap();
    assert_eq!(known(&network), worker);
    // Then the default entry counts, if it is one host.
    let default = remote(ip("10.60.20.31"));
    network
        .fdb
        .insert((FLANNEL, DEFAULT_ENTRY), FdbEntry::Remote(default));
    let vtep = next_hops(&network).hops[&net("10.244.2.0/24")].vtep;
    assert_eq!(vtep.unwrap().remote, [10, 60, 20, 31]);
    network
        .fdb
        .insert((FLANNEL, DEFAULT_ENTRY), FdbEntry::Other);
    assert_eq!(known(&network), worker);
    let mut network = node_30();
    network.underlay.remove(&ip("10.60.20.32")).unwrap();
    assert_eq!(known(&network), worker);
}

#[test]
fn remote_ends_behind_a_gateway_with_settings_of_their_own() {
    let mut network = node_30();
    let address = ip("10.60.20.31");
    let to_remote = KernelRoute {
        gateway: Some(ip("10.60.20.1")),
        mtu: 1400,
        ..route("10.60.20.31/32", UPLINK, None)
    };
    network.underlay.insert(address, to_remote);
    let mut end = Remote {
        port: Some(4789),
        vni: Some(7),
        ifindex: Some(UPLINK),
        ..remote(address)
    };
    let key = (FLANNEL, worker_mac(1, true));
    network.fdb.insert(key, FdbEntry::Remote(end));
    network
        .links
        .get_mut(&FLANNEL)
        .unwrap()
        .vxlan
        .as_mut()
        .unwrap()
        .local = Some(ip("10.60.20.99"));
    let hop = next_hops(&network).hops[&net("10.244.1.0/24")];
    let vtep = hop.vtep.unwrap();
    assert_eq!((vtep.port, vtep.vni), (4789, 7));
    assert_eq!(vtep.local, [10, 60, 20, 99]);
    assert_eq!(hop.next_hop.destination, worker_mac(0xfe, false));
    assert_eq!(hop.next_hop.mtu, 1350);
    assert_eq!(next_hops(&network).tunnels[0].local, [10, 60, 20, 99]);
    // The kernel would have to send it by another interface than it routes it to.
    end.ifindex = Some(OFFICE);
    network.fdb.insert(key, FdbEntry::Remote(end));
    assert!(!known(&network).contains(&"10.244.1.0/24".to_owned()));
}

#[test]
fn a_special_vxlan_device_is_left_to_tc_and_told() {
    let mut network = node_30();
    let link = network.links.get_mut(&FLANNEL).unwrap();
    link.vxlan.as_mut().unwrap().special = Some("odd things (`odd`)");
    let next_hops = next_hops(&network);
    assert_eq!(known(&network), NATIVE);
    assert_eq!(next_hops.tunnels, [Tunnel::default(); 2]);
    assert_eq!(
        next_hops.problems,
        ["flannel.1: XDP can't do odd things (`odd`); the TC path carries what goes through it"]
    );
}

#[test]
fn routes_that_lead_nowhere_have_no_next_hop() {
    let network = node_30();
    let mut entries = entries(&network);
    entries.get_mut(&net("10.244.3.0/24")).unwrap().flags = Route::UNREACHABLE;
    entries.get_mut(&net("10.244.2.0/24")).unwrap().flags = Route::LOCAL;
    let next_hops = NextHops::new(
        "eth0",
        &[net("10.244.0.0/16")],
        &network,
        &entries,
        &both_ways(&[UPLINK]),
    );
    let known: Vec<Ipv4Net> = next_hops.hops.into_keys().collect();
    assert_eq!(known, [net("10.244.1.0/24"), net("192.168.0.0/22")]);
}

/// node-30 with a leg in the office.
fn with_office_connected() -> NetworkState {
    let mut network = node_30();
    network.routes.pop();
    network.routes.push(route("192.168.0.0/22", OFFICE, None));
    network.local = vec![net("192.168.0.0/32"), net("192.168.0.30/32")];
    network.unreachable = vec![net("192.168.3.0/24")];
    network
}

#[test]
fn hosts_of_a_connected_network_have_a_next_hop_each() {
    let mut network = with_office_connected();
    for (host, number) in [("192.168.0.10", 10), ("192.168.0.11", 11)] {
        neighbour(&mut network, OFFICE, host, worker_mac(number, false));
    }
    // Not where the route leads to, not a neighbour's address, and a network that is cut off.
    neighbour(&mut network, UPLINK, "192.168.0.12", worker_mac(12, false));
    neighbour(&mut network, OFFICE, "192.168.0.30", worker_mac(30, false));
    neighbour(&mut network, OFFICE, "192.168.3.1", worker_mac(1, false));
    let next_hops = with_ports(&network, &[UPLINK, OFFICE]);
    let hosts: Vec<String> = next_hops.hosts.keys().map(ToString::to_string).collect();
    assert_eq!(hosts, ["192.168.0.10/32", "192.168.0.11/32"]);
    assert_eq!(
        next_hops.hosts[&net("192.168.0.11/32")],
        entries(&network)[&net("192.168.0.0/22")]
    );
    let hop = next_hops.hops[&net("192.168.0.11/32")].next_hop;
    assert_eq!(hop.ifindex, OFFICE);
    assert_eq!(hop.destination, worker_mac(11, false));
    assert!(!next_hops.hops.contains_key(&net("192.168.0.0/22")));
}

#[test]
fn more_hosts_than_fit_are_told() {
    let mut network = with_office_connected();
    network.routes.pop();
    network.routes.push(route("172.16.0.0/12", OFFICE, None));
    for host in 0..9_000 {
        let address = Ipv4Addr::from(0xac10_0000 + host);
        neighbour(
            &mut network,
            OFFICE,
            &address.to_string(),
            worker_mac(1, false),
        );
    }
    let next_hops = with_ports(&network, &[OFFICE]);
    assert_eq!(next_hops.hosts.len(), 8_192);
    assert_eq!(
        next_hops.problems,
        ["808 hosts of connected networks are left to the TC path: XDP knows 8192 at most"]
    );
}

fn matched(routes: &BTreeMap<Ipv4Net, Route>, address: Ipv4Addr) -> Option<Route> {
    longest_prefix(address, |prefix| routes.contains_key(prefix)).map(|prefix| routes[&prefix])
}

proptest! {
    #[test]
    fn entries_for_hosts_say_the_same_as_their_networks(
        connected in proptest::collection::btree_set((0u32..256, 24u8..=32, 0u32..2), 0..8),
        hidden in proptest::collection::btree_set((0u32..256, 24u8..=32, any::<bool>()), 0..4),
        hosts in proptest::collection::btree_set((0u32..256, 0u32..2), 0..40),
    ) {
        let interface = |number| [UPLINK, OFFICE][number as usize];
        let prefix = |low: u32, len| {
            Ipv4Net::new_assert(Ipv4Addr::from(0xc0a8_0000 | low), len).trunc()
        };
        let mut network = node_30();
        for (low, len, number) in connected {
            let prefix = prefix(low, len).to_string();
            network.routes.push(route(&prefix, interface(number), None));
        }
        for (low, len, is_local) in hidden {
            let prefixes = if is_local { &mut network.local } else { &mut network.unreachable };
            prefixes.push(prefix(low, len));
        }
        for (low, number) in hosts {
            let address = Ipv4Addr::from(0xc0a8_0000 | low).to_string();
            neighbour(&mut network, interface(number), &address, worker_mac(1, false));
        }
        let before = entries(&network);
        let next_hops = with_ports(&network, &[UPLINK, OFFICE]);
        let mut after = before.clone();
        after.extend(&next_hops.hosts);
        for low in 0..256 {
            let address = Ipv4Addr::from(0xc0a8_0000 | low);
            prop_assert_eq!(matched(&before, address), matched(&after, address));
        }
        for (prefix, hop) in &next_hops.hops {
            let entry = after[prefix];
            prop_assert!(!entry.is_local() && !entry.is_unreachable());
            if hop.vtep.is_none() {
                prop_assert_eq!(entry.ifindex, hop.next_hop.ifindex);
            }
        }
    }
}
