//! Office hosts reach pods and services; pods reach office hosts.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use lab::cluster::Protocol;
use lab::plan::{ECHO_PODS, ECHO_SERVICE, port};
use lab::reach;
use lab::{Firewall, Lab, LabOptions};
use serde_json::Value;

#[test]
fn office_and_cluster_reach_each_other() {
    let lab = LabOptions::default().open();
    let _bridge = lab.start_bridge(&[]).unwrap();
    reach::both_ways(&lab);
}

#[test]
fn older_kernels_way_of_attaching_works_as_well() {
    let lab = LabOptions::default().open();
    let mut bridge = lab.start_bridge(&["--tc-attach", "clsact"]).unwrap();
    reach::both_ways(&lab);
    let node = lab.node_30();
    let filters = node
        .run("tc", &["filter", "show", "dev", "eth0", "ingress"])
        .unwrap();
    assert!(filters.contains("uplink_ingress"), "{filters}");
    let filters = node
        .run("tc", &["filter", "show", "dev", "cni0", "egress"])
        .unwrap();
    assert!(filters.contains("cluster_egress"), "{filters}");
    let status = bridge.status().unwrap();
    let entries = status["datapath"].as_array().unwrap();
    let interfaces: Vec<&str> = entries
        .iter()
        .filter(|entry| entry["hook"].as_str().unwrap().starts_with("tc-"))
        .inspect(|entry| assert_eq!(entry["mode"], "clsact", "{status}"))
        .map(|entry| entry["interface"].as_str().unwrap())
        .collect();
    for interface in ["eth0", "cni0", "veth4"] {
        assert!(interfaces.contains(&interface), "{interface}: {status}");
    }

    bridge.uninstall().unwrap();
    for interface in interfaces {
        for hook in ["ingress", "egress"] {
            let filters = node
                .run("tc", &["filter", "show", "dev", interface, hook])
                .unwrap();
            assert!(filters.trim().is_empty(), "{interface} {hook}: {filters}");
        }
    }
    assert!(!lab.is_bridged(ECHO_SERVICE));
}

#[test]
fn connections_to_a_service_spread_over_all_its_backends() {
    let lab = LabOptions::default().open();
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
fn nothing_gets_through_the_bridge_before_it_is_there_and_after_it_is_gone() {
    let lab = LabOptions::default().open();
    let pc = lab.office_pc();
    let targets = [
        lab.at("echo-0", port::ECHO),
        lab.at("echo-1", port::ECHO),
        ECHO_SERVICE,
    ];
    for target in targets {
        assert!(
            !lab.is_bridged(target),
            "{target}, before there is a bridge"
        );
    }

    let mut bridge = lab.start_bridge(&[]).unwrap();
    let mut open = pc.tcp(lab.at("echo-1", port::ECHO)).unwrap();
    lab::host::exchange(&mut open, b"before").unwrap();
    for target in targets {
        assert!(lab.is_bridged(target), "{target}, with the bridge");
    }

    bridge.uninstall().unwrap();
    for target in targets {
        assert!(
            !lab.is_bridged(target),
            "{target}, after the bridge is gone"
        );
    }
    open.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    assert!(
        lab::host::exchange(&mut open, b"after").is_err(),
        "the old connection still works"
    );
}

#[test]
fn connecting_to_a_pod_on_another_node_takes_less_than_a_second() {
    for firewall in [LabOptions::default().firewall, Firewall::Open] {
        let lab = LabOptions {
            firewall,
            ..LabOptions::default()
        }
        .open();
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
fn a_changed_manifest_changes_where_a_service_leads() {
    let mut lab = LabOptions::default().open();
    let _bridge = lab.start_bridge(&[]).unwrap();
    lab.office_pc().tcp_echo(ECHO_SERVICE, b"x").unwrap();

    for endpoint in &mut lab.cluster_mut().service_mut("echo").endpoints {
        endpoint.ready = endpoint.pod == "echo-2";
    }
    lab.publish().unwrap();
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
    lab.publish().unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let (kind, _) = lab.office_pc().tcp_refusal(ECHO_SERVICE).unwrap();
    assert_eq!(kind, ErrorKind::ConnectionRefused);
}

#[test]
fn with_cidrs_alone_pods_are_bridged_and_services_are_left_to_kube_proxy() {
    let options = LabOptions {
        firewall: Firewall::Open,
        ..LabOptions::default()
    };
    let lab = options.open();
    let datapath = lab.options().datapath;
    let bridge = lab::Bridge::start(&lab, &lab::Bridge::static_arguments(datapath.name())).unwrap();
    let pc = lab.office_pc();
    reach::everything(&lab, pc);
    let flows = bridge.flows().unwrap();
    let pod = lab.at("echo-1", port::ECHO).to_string();
    let is_by_the_bridge =
        |flow: &Value| flow["destination"] == pod.as_str() && flow["layer"] == datapath.layer();
    assert!(flows.iter().any(is_by_the_bridge), "{flows:?}");
}

fn arrivals(lab: &Lab) -> Vec<usize> {
    ECHO_PODS
        .iter()
        .map(|pod| lab.pod(pod).peers(Protocol::Tcp, port::ECHO).len())
        .collect()
}
