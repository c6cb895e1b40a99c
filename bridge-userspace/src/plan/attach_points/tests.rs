use std::collections::BTreeMap;

use super::*;
use crate::cluster::{CidrKind, ClusterCidr};
use crate::kernel::netlink::{Route, Vxlan};

fn desired() -> DesiredState {
    DesiredState {
        cidrs: vec![ClusterCidr {
            kind: CidrKind::Pod,
            cidr: "10.244.0.0/16".parse().unwrap(),
            source: "command line".to_owned(),
        }],
        ..DesiredState::default()
    }
}

fn link(index: u32, name: &str, kind: LinkKind, master: Option<u32>) -> (u32, Link) {
    let link = Link {
        vxlan: (kind == LinkKind::Vxlan).then_some(Vxlan {
            vni: 1,
            port: 8472,
            ..Vxlan::default()
        }),
        master,
        ..Link::example(index, name, kind)
    };
    (index, link)
}

fn route(prefix: &str, ifindex: u32, gateway: Option<[u8; 4]>) -> Route {
    Route {
        prefix: prefix.parse().unwrap(),
        matched: prefix.parse().unwrap(),
        ifindex,
        gateway: gateway.map(Into::into),
        preferred_source: [10, 244, 30, 0].into(),
        mtu: 1450,
        tunnel: false,
    }
}

/// node-30 with a pod of its own, and `workers` leading to the pods of the others.
fn node_30(workers: u32) -> NetworkState {
    NetworkState {
        links: BTreeMap::from([
            link(2, "eth0", LinkKind::Other, None),
            link(3, "flannel.1", LinkKind::Vxlan, None),
            link(4, "cni0", LinkKind::Bridge, None),
            link(5, "veth4", LinkKind::Veth, Some(4)),
            link(6, "docker0", LinkKind::Bridge, None),
            link(7, "veth9", LinkKind::Veth, Some(6)),
            link(8, "eth1", LinkKind::Other, None),
            link(9, "cali1", LinkKind::Veth, None),
        ]),
        routes: vec![
            route("10.244.1.0/24", workers, Some([10, 244, 1, 0])),
            route("10.244.30.0/24", 4, None),
        ],
        ..NetworkState::default()
    }
}

fn points(line: &str, network: &NetworkState) -> Vec<(String, &'static str)> {
    attach_points(&Config::example(line), &desired(), network, false)
        .into_values()
        .map(|point| (point.interface, point.program.name()))
        .collect()
}

/// The interfaces that XDP is wanted on.
fn xdp(line: &str, network: &NetworkState) -> Vec<String> {
    points(line, network)
        .into_iter()
        .filter(|(_, program)| *program == "xdp_fast")
        .map(|(interface, _)| interface)
        .collect()
}

fn expected(points: &[(&str, &'static str)]) -> Vec<(String, &'static str)> {
    points
        .iter()
        .map(|&(interface, program)| (interface.to_owned(), program))
        .collect()
}

#[test]
fn replies_are_met_at_bridge_ports_and_sources_translated_at_the_bridge() {
    assert_eq!(
        points("--datapath tc", &node_30(3)),
        expected(&[
            ("flannel.1", "cluster_ingress"),
            ("cni0", "cluster_ingress"),
            ("veth4", "cluster_ingress"),
            ("eth0", "uplink_ingress"),
            ("flannel.1", "cluster_egress"),
            ("cni0", "cluster_egress"),
        ])
    );
}

#[test]
fn an_uplink_that_leads_to_the_workers_too_has_all_of_its_hooks_taken_and_xdp_last() {
    assert_eq!(
        points("", &node_30(2)),
        expected(&[
            ("cni0", "cluster_ingress"),
            ("veth4", "cluster_ingress"),
            ("eth0", "uplink_ingress"),
            ("eth0", "cluster_egress"),
            ("cni0", "cluster_egress"),
            ("eth0", "xdp_fast"),
        ])
    );
}

#[test]
fn xdp_is_wanted_on_nics_alone() {
    assert_eq!(xdp("", &node_30(8)), ["eth0", "eth1"], "host-gw by eth1");
    assert_eq!(xdp("", &node_30(3)), ["eth0"], "VXLAN by the uplink");
    let mut network = node_30(3);
    if let Some(vxlan) = network
        .links
        .get_mut(&3)
        .and_then(|link| link.vxlan.as_mut())
    {
        vxlan.underlying = Some(8);
    }
    assert_eq!(xdp("", &network), ["eth0", "eth1"], "VXLAN by eth1");
    // Calico leads to pods of this node by one veth each.
    network.routes.push(route("10.244.30.7/32", 9, None));
    assert_eq!(xdp("--datapath xdp", &network), ["eth0", "eth1"]);
}

#[test]
fn veths_get_xdp_only_if_it_is_asked_for() {
    let mut network = node_30(8);
    for ifindex in [2, 8] {
        if let Some(link) = network.links.get_mut(&ifindex) {
            link.kind = LinkKind::Veth;
        }
    }
    assert!(xdp("", &network).is_empty());
    assert_eq!(xdp("--datapath xdp", &network), ["eth0", "eth1"]);
}

#[test]
fn without_xdp_in_the_configuration_there_is_none() {
    for datapath in ["--datapath tc", "--datapath stack"] {
        assert!(xdp(datapath, &node_30(8)).is_empty(), "{datapath}");
    }
}
