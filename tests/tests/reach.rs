//! What the office wants first: to reach pods and services from any desk, and to be reached by pods.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use lab::cluster::Protocol;
use lab::plan::{self, port};
use lab::serve;
use lab::{Firewall, Host, Lab, LabOptions, Overlay};

const ECHO_SERVICE: SocketAddrV4 = SocketAddrV4::new(plan::ECHO, port::ECHO);
const WEB_SERVICE: SocketAddrV4 = SocketAddrV4::new(plan::WEB, port::HTTP_SERVICE);
const MYSQL_SERVICE: SocketAddrV4 = SocketAddrV4::new(plan::MYSQL, port::MYSQL);

/// On node-30 itself, and on both workers.
const ECHO_PODS: [&str; 3] = ["echo-0", "echo-1", "echo-2"];

fn open(overlay: Overlay) -> Lab {
    Lab::open(LabOptions {
        overlay,
        ..LabOptions::default()
    })
    .unwrap()
}

#[track_caller]
fn reaches_every_pod(lab: &Lab, client: &Host) {
    for pod in ECHO_PODS {
        let echo = lab.at(pod, port::ECHO);
        client.ping(*echo.ip()).unwrap();
        client.tcp_echo(echo, b"a few words over TCP").unwrap();
        client.udp_echo(echo, b"a few words over UDP").unwrap();
    }
}

#[track_caller]
fn reaches_every_service(client: &Host) {
    client
        .tcp_echo(ECHO_SERVICE, b"a few words over TCP")
        .unwrap();
    client
        .udp_echo(ECHO_SERVICE, b"a few words over UDP")
        .unwrap();
    let page = client.http_get(WEB_SERVICE, "/").unwrap();
    assert!(page.body.starts_with("web-0 greets"), "{page:?}");
    let mut session = client.mysql(MYSQL_SERVICE).unwrap();
    assert_eq!(session.query("SELECT 42").unwrap(), "42");
}

#[track_caller]
fn is_reached_by(lab: &Lab, pods: &[&str]) {
    let pc = lab.office_pc();
    let tcp = pc.serve_tcp(0, serve::echo()).unwrap();
    let udp = pc.serve_udp_echo(0).unwrap();
    for pod in pods.iter().map(|pod| lab.pod(pod)) {
        pod.ping(pc.address()).unwrap();
        pod.tcp_echo(SocketAddrV4::new(pc.address(), tcp), b"from a pod")
            .unwrap();
        pod.udp_echo(SocketAddrV4::new(pc.address(), udp), b"from a pod")
            .unwrap();
    }
}

fn reach_both_ways(overlay: Overlay) {
    let lab = open(overlay);
    let _bridge = lab.start_bridge(&[]).unwrap();
    for client in [lab.office_pc(), lab.office_pc2()] {
        reaches_every_pod(&lab, client);
        reaches_every_service(client);
    }
    is_reached_by(&lab, &ECHO_PODS);
}

#[test]
fn office_and_cluster_reach_each_other_over_vxlan() {
    reach_both_ways(Overlay::Vxlan);
}

#[test]
fn office_and_cluster_reach_each_other_over_host_gw() {
    reach_both_ways(Overlay::HostGw);
}

#[test]
fn the_way_to_the_pods_may_be_another_network_than_the_offices() {
    for overlay in [Overlay::Vxlan, Overlay::HostGw] {
        let options = LabOptions {
            overlay,
            second_nic: true,
            ..LabOptions::default()
        };
        let lab = Lab::open(options).unwrap();
        let _bridge = lab.start_bridge(&[]).unwrap();
        reaches_every_pod(&lab, lab.office_pc());
        reaches_every_service(lab.office_pc());
        is_reached_by(&lab, &ECHO_PODS);
    }
}

#[test]
fn older_kernels_way_of_attaching_works_as_well() {
    let lab = open(Overlay::Vxlan);
    let mut bridge = lab.start_bridge(&["--tc-attach", "clsact"]).unwrap();
    reaches_every_pod(&lab, lab.office_pc());
    reaches_every_service(lab.office_pc());
    is_reached_by(&lab, &ECHO_PODS);
    let node = lab.node_30();
    let filters = node
        .run("tc", &["filter", "show", "dev", "eth0", "ingress"])
        .unwrap();
    assert!(filters.contains("uplink_ingress"), "{filters}");
    let filters = node
        .run("tc", &["filter", "show", "dev", "flannel.1", "egress"])
        .unwrap();
    assert!(filters.contains("cluster_egress"), "{filters}");
    let status = bridge.status().unwrap();
    let modes = status["datapath"].as_array().unwrap();
    assert!(
        modes.iter().all(|entry| entry["mode"] == "clsact"),
        "{status}"
    );

    bridge.uninstall().unwrap();
    for interface in ["eth0", "flannel.1", "cni0", "veth4"] {
        for hook in ["ingress", "egress"] {
            let filters = node
                .run("tc", &["filter", "show", "dev", interface, hook])
                .unwrap();
            assert!(filters.trim().is_empty(), "{interface} {hook}: {filters}");
        }
    }
    assert!(lab.office_pc().is_cut_off_from(ECHO_SERVICE));
}

#[test]
fn a_ping_to_a_service_is_answered() {
    let lab = open(Overlay::Vxlan);
    let _bridge = lab.start_bridge(&[]).unwrap();
    lab.office_pc().ping(plan::ECHO).unwrap();
}

#[test]
fn connections_to_a_service_spread_over_all_its_backends() {
    let lab = open(Overlay::Vxlan);
    let _bridge = lab.start_bridge(&[]).unwrap();
    // With three backends, 60 connections miss one of them once in ten billion runs.
    for _ in 0..60 {
        lab.office_pc().tcp_echo(ECHO_SERVICE, b"x").unwrap();
        lab.office_pc().udp_echo(ECHO_SERVICE, b"x").unwrap();
    }
    for pod in ECHO_PODS {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let peers = lab.pod(pod).peers(protocol, port::ECHO);
            assert!(!peers.is_empty(), "{pod} got nothing over {protocol:?}");
        }
    }
}

#[test]
fn nothing_gets_through_without_the_bridge() {
    let lab = open(Overlay::Vxlan);
    let pc = lab.office_pc();
    let targets = [
        lab.at("echo-0", port::ECHO),
        lab.at("echo-1", port::ECHO),
        ECHO_SERVICE,
    ];
    for target in targets {
        assert!(
            pc.is_cut_off_from(target),
            "{target} answers before there is a bridge"
        );
    }

    let mut bridge = lab.start_bridge(&[]).unwrap();
    let mut open = pc.tcp(lab.at("echo-1", port::ECHO)).unwrap();
    lab::host::exchange(&mut open, b"before").unwrap();
    for target in targets {
        pc.tcp_echo(target, b"with the bridge").unwrap();
    }

    bridge.uninstall().unwrap();
    for target in targets {
        assert!(
            pc.is_cut_off_from(target),
            "{target} answers after the bridge is gone"
        );
    }
    open.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    assert!(
        lab::host::exchange(&mut open, b"after").is_err(),
        "the old connection still works"
    );
}

#[test]
fn a_node_that_would_forward_by_itself_leaves_it_to_the_bridge() {
    // Here kube-proxy and flannel would translate and masquerade office traffic themselves.
    let options = LabOptions {
        firewall: Firewall::Open,
        ..LabOptions::default()
    };
    let lab = Lab::open(options).unwrap();
    let pc = lab.office_pc();
    pc.tcp_echo(lab.at("echo-1", port::ECHO), b"flannel masquerades")
        .unwrap();

    let bridge = lab.start_bridge(&[]).unwrap();
    reaches_every_pod(&lab, pc);
    reaches_every_service(pc);
    is_reached_by(&lab, &ECHO_PODS);
    let clients: HashSet<Ipv4Addr> = bridge
        .flows()
        .unwrap()
        .iter()
        .filter_map(|flow| flow["client"].as_str()?.parse::<SocketAddrV4>().ok())
        .map(|client| *client.ip())
        .collect();
    assert!(
        clients.contains(&pc.address()),
        "the bridge has no flow of office-pc: {clients:?}"
    );
    let tracked = lab
        .node_30()
        .run("conntrack", &["-L", "-s", "192.168.0.10"])
        .unwrap();
    assert!(
        tracked.lines().all(|line| !line.contains("dport=3306")),
        "netfilter saw:\n{tracked}"
    );
}

#[test]
fn services_need_no_kube_proxy_on_the_node() {
    let options = LabOptions {
        kube_proxy: false,
        firewall: Firewall::DropByDefault,
        ..LabOptions::default()
    };
    let lab = Lab::open(options).unwrap();
    let pc = lab.office_pc();
    assert!(pc.is_cut_off_from(ECHO_SERVICE));
    let _bridge = lab.start_bridge(&[]).unwrap();
    reaches_every_pod(&lab, pc);
    reaches_every_service(pc);
}

#[test]
fn connecting_to_a_pod_on_another_node_takes_less_than_a_second() {
    for firewall in [Firewall::NotARouter, Firewall::Open] {
        let lab = Lab::open(LabOptions {
            firewall,
            ..LabOptions::default()
        })
        .unwrap();
        let _bridge = lab.start_bridge(&[]).unwrap();
        for _ in 0..20 {
            let started = Instant::now();
            lab.office_pc().tcp(lab.at("echo-2", port::ECHO)).unwrap();
            lab.office_pc().tcp(ECHO_SERVICE).unwrap();
            let elapsed = started.elapsed();
            assert!(
                elapsed < Duration::from_secs(1),
                "two connections took {elapsed:?}"
            );
        }
    }
}

#[test]
fn what_no_service_serves_is_refused_at_once() {
    let lab = open(Overlay::Vxlan);
    let _bridge = lab.start_bridge(&[]).unwrap();
    let pc = lab.office_pc();
    for target in [
        // A known VIP, another port.
        SocketAddrV4::new(plan::MYSQL, 9999),
        // No service at all.
        SocketAddrV4::new(Ipv4Addr::new(10, 96, 99, 99), 80),
        // A service without a single backend.
        SocketAddrV4::new(plan::KUBERNETES, 443),
    ] {
        let (kind, elapsed) = pc.tcp_refusal(target).unwrap();
        assert_eq!(kind, ErrorKind::ConnectionRefused, "{target}");
        assert!(
            elapsed < Duration::from_millis(500),
            "{target} was refused after {elapsed:?}"
        );

        let socket = pc.udp_from(0, target).unwrap();
        socket.send(b"anybody?").unwrap();
        let error = socket.recv(&mut [0; 16]).unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::ConnectionRefused,
            "UDP to {target}"
        );
    }
}

#[test]
fn a_changed_manifest_changes_where_a_service_leads() {
    let mut lab = open(Overlay::Vxlan);
    let _bridge = lab.start_bridge(&[]).unwrap();
    lab.office_pc().tcp_echo(ECHO_SERVICE, b"x").unwrap();

    for endpoint in &mut lab.cluster_mut().service_mut("echo").endpoints {
        endpoint.ready = endpoint.pod == "echo-2";
    }
    lab.write_manifests().unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let before: Vec<usize> = arrivals(&lab);
    for _ in 0..20 {
        lab.office_pc().tcp_echo(ECHO_SERVICE, b"x").unwrap();
    }
    let after = arrivals(&lab);
    let gained: Vec<usize> = after
        .iter()
        .zip(before)
        .map(|(after, before)| after - before)
        .collect();
    assert_eq!(gained, [0, 0, 20]);

    for endpoint in &mut lab.cluster_mut().service_mut("echo").endpoints {
        endpoint.ready = false;
    }
    lab.write_manifests().unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let (kind, _) = lab.office_pc().tcp_refusal(ECHO_SERVICE).unwrap();
    assert_eq!(kind, ErrorKind::ConnectionRefused);
}

fn arrivals(lab: &Lab) -> Vec<usize> {
    ECHO_PODS
        .iter()
        .map(|pod| lab.pod(pod).peers(Protocol::Tcp, port::ECHO).len())
        .collect()
}

#[test]
fn with_cidrs_alone_pods_are_bridged_and_services_are_left_to_kube_proxy() {
    let options = LabOptions {
        firewall: Firewall::Open,
        ..LabOptions::default()
    };
    let lab = Lab::open(options).unwrap();
    let bridge = lab::Bridge::start(&lab, &lab::Bridge::static_arguments("auto")).unwrap();
    let pc = lab.office_pc();
    reaches_every_pod(&lab, pc);
    reaches_every_service(pc);
    let flows = bridge.flows().unwrap();
    let pod = lab.at("echo-1", port::ECHO).to_string();
    assert!(
        flows.iter().any(|flow| flow["destination"] == pod.as_str()),
        "{flows:?}"
    );
}
