//! Services that the bridge translates. Not on the stack path, where kube-proxy does.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use lab::cluster::Protocol;
use lab::plan::{self, ECHO_PODS, ECHO_SERVICE, port};
use lab::reach;
use lab::{Bridge, Firewall, Lab, LabOptions};

#[test]
fn a_ping_to_a_service_is_answered() {
    let lab = LabOptions::default().open();
    let _bridge = lab.start_bridge(&[]).unwrap();
    lab.office_pc().ping(plan::ECHO).unwrap();
}

#[test]
fn a_node_that_would_forward_by_itself_leaves_it_to_the_bridge() {
    // Here kube-proxy and flannel would translate and masquerade office traffic themselves.
    let options = LabOptions {
        firewall: Firewall::Open,
        ..LabOptions::default()
    };
    let lab = options.open();
    let pc = lab.office_pc();
    pc.tcp_echo(lab.at("echo-1", port::ECHO), b"flannel masquerades")
        .unwrap();

    let bridge = lab.start_bridge(&[]).unwrap();
    reach::everything(&lab, pc);
    reach::from_every_pod(&lab);
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
    let lab = options.open();
    let pc = lab.office_pc();
    assert!(pc.is_cut_off_from(ECHO_SERVICE));
    let _bridge = lab.start_bridge(&[]).unwrap();
    reach::everything(&lab, pc);
}

#[test]
fn what_no_service_serves_is_refused_at_once() {
    let lab = LabOptions::default().open();
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
fn a_client_of_a_service_with_session_affinity_comes_to_one_pod_until_that_is_gone() {
    let mut lab = LabOptions::default().open();
    lab.cluster_mut().service_mut("echo").session_affinity = Some(Duration::from_hours(1));
    lab.publish().unwrap();
    let bridge = lab.start_bridge(&[]).unwrap();
    let [first] = Vec::from_iter(answering(&lab, "office-pc"))[..] else {
        panic!("not one pod")
    };
    let others: Vec<&str> = ECHO_PODS
        .into_iter()
        .filter(|pod| lab.pod(pod).address() != first)
        .collect();
    let kept: Vec<&str> = ECHO_PODS
        .into_iter()
        .filter(|pod| *pod != others[0])
        .collect();
    let listed = |bridge: &Bridge, backends: usize| {
        bridge.client().json(&["services"]).is_ok_and(|services| {
            services.as_array().unwrap().iter().any(|service| {
                service["vip"] == ECHO_SERVICE.to_string()
                    && service["protocol"] == "tcp"
                    && service["affinity_seconds"] == 3600
                    && service["backends"].as_array().unwrap().len() == backends
            })
        })
    };
    assert!(listed(&bridge, 3));

    // A change of the list that leaves the client's pod in it.
    lab.cluster_mut().service_mut("echo").scale_to(&kept);
    lab.publish().unwrap();
    lab::eventually(Duration::from_secs(5), "the shorter list", || {
        listed(&bridge, 2)
    });
    assert_eq!(answering(&lab, "office-pc"), HashSet::from([first]));

    // Without its pod the client gets another one, and keeps it.
    lab.cluster_mut().service_mut("echo").scale_to(&others);
    lab.publish().unwrap();
    let gone = || {
        let services = bridge.client().json(&["services"]).unwrap();
        !services
            .to_string()
            .contains(&format!("{first}:{}", port::ECHO))
    };
    lab::eventually(Duration::from_secs(5), "the list without the pod", gone);
    let second = answering(&lab, "office-pc");
    assert_eq!(second.len(), 1, "{second:?}");
    assert!(!second.contains(&first));
    assert_eq!(answering(&lab, "office-pc"), second);
}

/// Which pods answer a client of the echo service, over several connections.
fn answering(lab: &Lab, client: &str) -> HashSet<Ipv4Addr> {
    let before: Vec<_> = ECHO_PODS
        .map(|pod| (pod, lab.pod(pod).peers(Protocol::Tcp, port::ECHO).len()))
        .into();
    for _ in 0..12 {
        lab.host(client)
            .tcp_echo(ECHO_SERVICE, b"the same again?")
            .unwrap();
    }
    before
        .into_iter()
        .filter(|(pod, count)| lab.pod(pod).peers(Protocol::Tcp, port::ECHO).len() > *count)
        .map(|(pod, _)| lab.pod(pod).address())
        .collect()
}
