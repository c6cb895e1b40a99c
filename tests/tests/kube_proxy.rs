//! The real kube-proxy, fed by the same API server as the bridge.

use std::net::SocketAddrV4;
use std::time::Duration;

use lab::host::exchange;
use lab::plan::{self, BULK_SERVICE, ECHO_SERVICE, port};
use lab::{Firewall, Host, LabOptions};

const ECHO_NAME: &str = "project-a-dev1/echo";

#[test]
fn a_kube_proxy_beside_the_bridge_sees_nothing_of_its_flows() {
    let mut lab = LabOptions {
        api_server: true,
        kube_proxy: false,
        firewall: Firewall::Open,
        ..LabOptions::default()
    }
    .open();
    let _proxy = lab.start_kube_proxy("node-30").unwrap();
    let node = lab.node_30();
    let mut counted = 0;
    lab::eventually(
        Duration::from_secs(30),
        "kube-proxy's rules translate the node's own",
        || {
            node.tcp_echo(ECHO_SERVICE, b"by kube-proxy").unwrap();
            counted = packets_at(node, ECHO_NAME);
            counted > 0
        },
    );
    node.tcp(SocketAddrV4::new(plan::KUBERNETES, 443)).unwrap();

    let bridge = lab.start_bridge(&[]).unwrap();
    let pc = lab.office_pc();
    let mut session = pc.tcp(ECHO_SERVICE).unwrap();
    for number in 0..50_u32 {
        exchange(&mut session, &number.to_be_bytes()).unwrap();
        pc.tcp_echo(ECHO_SERVICE, b"TCP to the service").unwrap();
        pc.udp_echo(ECHO_SERVICE, b"UDP to the service").unwrap();
        pc.tcp_echo(lab.at("echo-1", port::ECHO), b"to a pod")
            .unwrap();
    }
    pc.bulk(BULK_SERVICE, 1 << 24, 1 << 24).unwrap();
    pc.ping(plan::ECHO).unwrap();
    let node = lab.node_30();
    assert_unseen(node, counted);
    let tracked = conntrack(node);
    let client = plan::OFFICE_PC.to_string();
    assert!(!tracked.contains(&client), "{tracked}");
    for flow in bridge.flows().unwrap() {
        assert_eq!(flow["layer"], "tc", "{flow}");
    }

    // Both follow the same change.
    lab.cluster_mut().service_mut("echo").scale_to(&["echo-2"]);
    lab.publish().unwrap();
    lab::eventually(Duration::from_secs(30), "kube-proxy follows", || {
        let rules = lab.node_30().run("iptables-save", &["-t", "nat"]).unwrap();
        !rules.contains(&format!(
            "--to-destination {}",
            lab.at("echo-1", port::ECHO)
        ))
    });
    for _ in 0..10 {
        lab.office_pc()
            .tcp_echo(ECHO_SERVICE, b"after the change")
            .unwrap();
    }
    let node = lab.node_30();
    assert_unseen(node, counted);
}

/// Packets that kube-proxy's rules for this service have seen on a node since it last wrote them: it does so every
/// 30 s, and some counters begin at 0 again.
fn packets_at(node: &Host, service: &str) -> u64 {
    let rules = node.run("iptables-save", &["-c"]).unwrap();
    let of_service: Vec<&str> = rules
        .lines()
        .filter(|line| line.starts_with('[') && line.contains(service))
        .collect();
    assert!(!of_service.is_empty(), "no rule for {service}:\n{rules}");
    of_service
        .iter()
        .map(|line| {
            let count = line[1..].split(':').next().unwrap();
            count.parse::<u64>().unwrap()
        })
        .sum()
}

/// Asserts that kube-proxy's rules have seen no more packets than when they were counted.
#[track_caller]
fn assert_unseen(node: &Host, counted: u64) {
    let now = packets_at(node, ECHO_NAME);
    assert!(
        now <= counted,
        "of {counted} packets kube-proxy has made {now}"
    );
}

fn conntrack(node: &Host) -> String {
    node.run("conntrack", &["-L"]).unwrap()
}
