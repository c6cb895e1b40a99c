use super::*;
use crate::cluster::ClusterCidr as Network;
use crate::kernel::netlink::{Link, LinkKind, Route as KernelRoute};

fn desired(authoritative: bool) -> DesiredState {
    DesiredState {
        cidrs: vec![Network {
            kind: CidrKind::Pod,
            cidr: "10.244.0.0/16".parse().unwrap(),
            source: "command line".to_owned(),
        }],
        authoritative,
        ..DesiredState::default()
    }
}

fn link(index: u32, name: &str, kind: LinkKind, master: Option<u32>) -> (u32, Link) {
    let link = Link {
        master,
        ..Link::example(index, name, kind)
    };
    (index, link)
}

/// node-30 with a pod of its own, and `workers` leading to the pods of the others.
fn node_30(workers: u32) -> NetworkState {
    let route = |prefix: &str, ifindex| KernelRoute {
        prefix: prefix.parse().unwrap(),
        matched: prefix.parse().unwrap(),
        ifindex,
        gateway: None,
        preferred_source: [10, 244, 30, 0].into(),
        mtu: 1450,
        tunnel: false,
    };
    NetworkState {
        links: BTreeMap::from([
            link(2, "eth0", LinkKind::Other, None),
            link(3, "flannel.1", LinkKind::Vxlan, None),
            link(4, "cni0", LinkKind::Bridge, None),
            link(5, "veth4", LinkKind::Veth, Some(4)),
            link(6, "docker0", LinkKind::Bridge, None),
            link(7, "veth9", LinkKind::Veth, Some(6)),
        ]),
        routes: vec![route("10.244.1.0/24", workers), route("10.244.30.0/24", 4)],
        ..NetworkState::default()
    }
}

#[test]
fn that_all_services_are_known_is_told_with_each_datapath() {
    let settings = |line: &str, is_authoritative: bool| {
        let contents = MapState::new(
            &Config::example(line),
            &desired(is_authoritative),
            &node_30(3),
            &ReservedPorts::default(),
            &XdpInterfaces::default(),
        );
        (
            contents.settings.authoritative,
            contents.settings.stack_only,
        )
    };
    assert_eq!(settings("", true), (1, 0));
    assert_eq!(settings("--datapath tc", true), (1, 0));
    assert_eq!(settings("--datapath stack", true), (1, 1));
    assert_eq!(settings("--datapath stack", false), (0, 1));
}
