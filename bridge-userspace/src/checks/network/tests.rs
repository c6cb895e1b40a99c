use clap::Parser;

use super::*;
use crate::commands::cli::{Cli, Command};
use crate::config::Environment;
use crate::kernel::netlink::{InterfaceAddress, Link, Route};

fn config(line: &str) -> Config {
    let base = "office-bridge run --uplink eth0 --office-cidr 192.168.0.0/22 \
                --pod-cidr 10.244.0.0/16";
    let words = base.split_whitespace().chain(line.split_whitespace());
    let Command::Run(flags) = Cli::try_parse_from(words).unwrap().command else {
        panic!("not run");
    };
    Config::load(*flags, Environment::default()).unwrap().0
}

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

fn pods() -> Vec<Ipv4Net> {
    vec!["10.244.0.0/16".parse().unwrap()]
}

#[test]
fn the_recipes_node_passes() {
    let config = config("--dns-listen 10.60.20.30:53 --dns-upstream 10.96.0.10:53");
    assert_eq!(check_network(&config, &pods(), &node_30()), Ok(()));
}

#[test]
fn uplinks_that_no_office_packet_comes_in_on_are_refused() {
    let mut config = config("");
    config.uplink = "eth7".to_owned();
    let error = check_network(&config, &pods(), &node_30()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no interface `eth7`; this host has eth0, flannel.1, cni0, wg0"
    );
    config.uplink = "lo".to_owned();
    assert!(matches!(
        check_network(&config, &pods(), &node_30()),
        Err(NetworkError::Loopback(_))
    ));
    config.uplink = "wg0".to_owned();
    assert!(matches!(
        check_network(&config, &pods(), &node_30()),
        Err(NetworkError::NotEthernet(_))
    ));
}

#[test]
fn an_office_network_with_the_nodes_own_pod_address_is_refused() {
    let mut config = config("");
    config.office_cidrs = vec!["10.240.0.0/12".parse().unwrap()];
    let error = check_network(&config, &pods(), &node_30()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "office CIDR 10.240.0.0/12 contains 10.244.30.0/32, this node's own address on flannel.1 \
         towards the pods: give only the networks that office hosts really have"
    );
}

#[test]
fn a_node_in_the_office_network_itself_is_fine() {
    let mut config = config("");
    config.office_cidrs = vec!["10.60.20.0/24".parse().unwrap()];
    let mut host_gateway = node_30();
    for route in &mut host_gateway.routes {
        route.ifindex = 2;
    }
    assert_eq!(check_network(&config, &pods(), &host_gateway), Ok(()));
}

#[test]
fn a_dns_relay_on_any_address_must_not_ask_the_node_itself() {
    let looping = config("--dns-listen 0.0.0.0:53 --dns-upstream 10.60.20.30:53");
    assert!(matches!(
        check_network(&looping, &pods(), &node_30()),
        Err(NetworkError::DnsLoop { .. })
    ));
    let elsewhere = config("--dns-listen 10.60.20.31:53 --dns-upstream 10.96.0.10:53");
    assert_eq!(
        check_network(&elsewhere, &pods(), &node_30())
            .unwrap_err()
            .to_string(),
        "--dns-listen 10.60.20.31:53: this is no address of this node"
    );
}
