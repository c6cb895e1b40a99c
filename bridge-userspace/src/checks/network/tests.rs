use super::*;
use crate::cluster::ClusterCidr;
use crate::kernel::netlink::{InterfaceAddress, Link, Route};

fn link(index: u32, name: &str, kind: LinkKind) -> Link {
    Link {
        mac: (kind != LinkKind::Loopback && kind != LinkKind::Wireguard)
            .then_some([2, 0, 0, 0, 0, 1]),
        ..Link::example(index, name, kind)
    }
}

/// node-30 as the recipe has it.
fn node_30() -> NetworkState {
    let links = [
        link(1, "lo", LinkKind::Loopback),
        link(2, "eth0", LinkKind::Other),
        link(3, "flannel.1", LinkKind::Vxlan),
        link(4, "cni0", LinkKind::Bridge),
        link(5, "wg0", LinkKind::Wireguard),
    ];
    let address = |ifindex, address: [u8; 4], prefix_len| InterfaceAddress {
        ifindex,
        address: address.into(),
        prefix_len,
    };
    let route = |prefix: &str, ifindex, source: [u8; 4]| Route {
        prefix: prefix.parse().unwrap(),
        matched: prefix.parse().unwrap(),
        ifindex,
        gateway: None,
        preferred_source: source.into(),
        mtu: 1450,
        tunnel: ifindex == 3,
    };
    NetworkState {
        links: links.into_iter().map(|link| (link.index, link)).collect(),
        routes: vec![
            route("10.244.1.0/24", 3, [10, 244, 30, 0]),
            route("10.244.30.0/24", 4, [10, 244, 30, 1]),
        ],
        unreachable: Vec::new(),
        local: Vec::new(),
        addresses: vec![
            address(2, [10, 60, 20, 30], 24),
            address(3, [10, 244, 30, 0], 32),
            address(4, [10, 244, 30, 1], 24),
        ],
        ..NetworkState::default()
    }
}

/// What is found with the pods of 10.244.0.0/16.
fn found(config: &Config, state: &NetworkState) -> Findings {
    let pods = ClusterCidr {
        kind: CidrKind::Pod,
        cidr: "10.244.0.0/16".parse().unwrap(),
        source: "command line".to_owned(),
    };
    let cluster = DesiredState {
        cidrs: vec![pods],
        ..DesiredState::default()
    };
    let mut findings = Findings::default();
    check_network(config, &cluster, state, &mut findings);
    findings
}

#[track_caller]
fn finds(config: &Config, state: &NetworkState, expected: &[&str]) {
    let findings = found(config, state);
    let texts: Vec<String> = findings.iter().map(ToString::to_string).collect();
    assert_eq!(texts, expected);
    assert!(findings.iter().all(Finding::is_error) && !findings.is_usage());
}

#[test]
fn the_recipes_node_passes() {
    let config = Config::example("--dns-listen 10.60.20.30:53 --dns-upstream 10.96.0.10:53");
    finds(&config, &node_30(), &[]);
}

#[test]
fn uplinks_that_no_office_packet_comes_in_on_are_refused() {
    let with_uplink = |uplink: &str| Config {
        uplink: uplink.to_owned(),
        ..Config::example("")
    };
    finds(
        &with_uplink("eth7"),
        &node_30(),
        &["there is no interface `eth7`: this host has eth0, flannel.1, cni0, wg0"],
    );
    finds(
        &with_uplink("lo"),
        &node_30(),
        &[
            "the uplink `lo` is the loopback device, where no office packet comes in: this host has eth0, flannel.1, \
             cni0, wg0",
        ],
    );
    finds(
        &with_uplink("wg0"),
        &node_30(),
        &[
            "the uplink `wg0` is no Ethernet device, and office packets have to come in on one: this host has eth0, \
             flannel.1, cni0, wg0",
        ],
    );
}

#[test]
fn an_office_network_with_the_nodes_own_pod_addresses_is_refused_with_all_of_them() {
    let mut config = Config::example("");
    config.office_cidrs = vec!["10.240.0.0/12".parse().unwrap()];
    let remedy = "give only the networks that office hosts really have";
    finds(
        &config,
        &node_30(),
        &[
            &format!(
                "office CIDR 10.240.0.0/12 contains 10.244.30.0/32, this node's own address on flannel.1 towards the \
                 pods: {remedy}"
            ),
            &format!(
                "office CIDR 10.240.0.0/12 contains 10.244.30.1/24, this node's own address on cni0 towards the \
                 pods: {remedy}"
            ),
        ],
    );
}

#[test]
fn a_node_in_the_office_network_itself_is_fine() {
    let mut config = Config::example("");
    config.office_cidrs = vec!["10.60.20.0/24".parse().unwrap()];
    let mut host_gateway = node_30();
    for route in &mut host_gateway.routes {
        route.ifindex = 2;
    }
    finds(&config, &host_gateway, &[]);
}

/// `node_30` with one more device that has this address, and a route by it.
fn with_device(kind: LinkKind, own: ([u8; 4], u8), prefix: &str, matched: &str) -> NetworkState {
    let mut state = node_30();
    state.links.insert(9, link(9, "other0", kind));
    state.addresses.push(InterfaceAddress {
        ifindex: 9,
        address: own.0.into(),
        prefix_len: own.1,
    });
    state.routes.push(Route {
        prefix: prefix.parse().unwrap(),
        matched: matched.parse().unwrap(),
        ifindex: 9,
        preferred_source: own.0.into(),
        ..state.routes[0].clone()
    });
    state
}

#[test]
fn other_devices_inside_an_office_network_lead_to_no_pods() {
    let mut config = Config::example("");
    config.office_cidrs = ["192.168.0.0/16", "172.16.0.0/12", "10.8.0.0/24"]
        .map(|cidr| cidr.parse().unwrap())
        .to_vec();
    for (kind, own, connected) in [
        (
            LinkKind::Bridge,
            ([192, 168, 122, 1], 24),
            "192.168.122.0/24",
        ),
        (LinkKind::Bridge, ([172, 17, 0, 1], 16), "172.17.0.0/16"),
        (LinkKind::Other, ([10, 8, 0, 1], 24), "10.8.0.0/24"),
        (LinkKind::Wireguard, ([10, 8, 0, 1], 24), "10.8.0.0/24"),
        (LinkKind::IpTunnel, ([10, 8, 0, 1], 24), "10.8.0.0/24"),
        (
            LinkKind::Vxlan,
            ([192, 168, 200, 1], 24),
            "192.168.200.0/24",
        ),
        (LinkKind::Vlan, ([192, 168, 50, 30], 24), "192.168.50.0/24"),
        (
            LinkKind::Loopback,
            ([192, 168, 0, 53], 32),
            "192.168.0.53/32",
        ),
        (LinkKind::Veth, ([192, 168, 60, 1], 24), "192.168.60.0/24"),
    ] {
        finds(&config, &with_device(kind, own, connected, connected), &[]);
        // Nor before any network of the cluster is known.
        let mut findings = Findings::default();
        let state = with_device(kind, own, connected, connected);
        check_network(&config, &DesiredState::default(), &state, &mut findings);
        assert!(findings.is_empty(), "{kind:?}: {findings}");
    }
}

#[test]
fn a_route_that_was_not_made_for_pods_leads_to_none() {
    let mut config = Config::example("");
    config.office_cidrs = vec!["192.168.0.0/16".parse().unwrap()];
    let own = ([192, 168, 50, 30], 24);
    // The node's default route, or one to all of a company, over a second card in an office VLAN.
    for matched in ["0.0.0.0/0", "10.0.0.0/8"] {
        let state = with_device(LinkKind::Vlan, own, "10.244.0.0/16", matched);
        finds(&config, &state, &[]);
    }
    let mut state = with_device(LinkKind::Vlan, own, "10.244.0.0/16", "0.0.0.0/0");
    state.routes.drain(..2);
    finds(&config, &state, &[]);
}

#[test]
fn an_office_address_where_pods_are_reached_is_refused_whatever_the_device() {
    let mut config = Config::example("");
    config.office_cidrs = vec!["192.168.0.0/16".parse().unwrap()];
    let own = ([192, 168, 50, 30], 24);
    for kind in [LinkKind::Vlan, LinkKind::Bridge, LinkKind::Wireguard] {
        let told = "office CIDR 192.168.0.0/16 contains 192.168.50.30/24, this node's own address on other0 towards the \
                    pods: give only the networks that office hosts really have";
        let state = with_device(kind, own, "10.244.2.0/24", "10.244.2.0/24");
        finds(&config, &state, &[told]);
        // The only way to the pods, though it is wider than their network.
        let mut state = with_device(kind, own, "10.244.0.0/16", "10.240.0.0/12");
        state.routes.drain(..2);
        finds(&config, &state, &[told]);
    }
}

#[test]
fn a_dns_relay_must_not_ask_the_node_itself_nor_listen_elsewhere() {
    finds(
        &Config::example("--dns-listen 0.0.0.0:53 --dns-upstream 10.60.20.30:53"),
        &node_30(),
        &[
            "--dns-upstream 10.60.20.30:53 is this node's own address and leads back to --dns-listen 0.0.0.0:53: every \
             query would go round in circles; name the cluster's DNS service",
        ],
    );
    finds(
        &Config::example(
            "--dns-listen 10.60.20.31:53 --dns-listen 10.60.20.32:53 --dns-upstream 10.96.0.10:53",
        ),
        &node_30(),
        &[
            "--dns-listen 10.60.20.31:53: this is no address of this node; `ip address` shows those that it has",
            "--dns-listen 10.60.20.32:53: this is no address of this node; `ip address` shows those that it has",
        ],
    );
}

#[test]
fn all_that_does_not_fit_the_host_is_told_at_once() {
    let mut config = Config::example("--dns-listen 10.60.20.31:53 --dns-upstream 10.96.0.10:53");
    config.uplink = "eth7".to_owned();
    config.office_cidrs = vec!["10.244.30.1/32".parse().unwrap()];
    let findings = found(&config, &node_30());
    let subjects: Vec<&Subject> = findings.iter().map(|finding| &finding.subject).collect();
    assert_eq!(
        subjects,
        [
            &Subject::Interface("eth7".to_owned()),
            &Subject::Address([10, 244, 30, 1].into()),
            &Subject::Socket("10.60.20.31:53".parse().unwrap()),
        ]
    );
}

#[test]
fn an_office_network_that_contains_those_of_many_nodes_is_told_once() {
    let node = |third: u8| ClusterCidr {
        kind: CidrKind::Pod,
        cidr: format!("10.244.{third}.0/24").parse().unwrap(),
        source: format!("Node worker-{third} spec.podCIDRs"),
    };
    let cluster = DesiredState {
        cidrs: (0..9).map(node).collect(),
        ..DesiredState::default()
    };
    let mut config = Config::example("");
    config.office_cidrs = ["10.244.0.0/16", "10.244.3.0/25", "192.168.0.0/22"]
        .map(|cidr| cidr.parse().unwrap())
        .to_vec();
    let mut findings = Findings::default();
    check_office(&config, &cluster, &mut findings);
    let networks: Vec<&Subject> = findings.iter().map(|finding| &finding.subject).collect();
    let network = |cidr: &str| Subject::Network(cidr.parse().unwrap());
    assert_eq!(
        networks,
        [&network("10.244.0.0/24"), &network("10.244.3.0/25")]
    );
    assert!(!findings.is_usage());
}
