//! The stack path: the kernel routes, kube-proxy translates services, and the bridge translates sources
//! around netfilter, unless netfilter masquerades already.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use lab::bridge::arguments::plus;
use lab::bridge::refused;
use lab::cluster::Protocol;
use lab::frames;
use lab::host::{datagram, exchange};
use lab::plan::{self, BULK_SERVICE, ECHO_PODS, ECHO_SERVICE, FREE_PORT, VXLAN_MTU, port};
use lab::{Bridge, Firewall, Lab, LabOptions, Overlay, eventually, reach};
use serde_json::Value;

/// An address that no service has.
const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 96, 99, 99);

#[test]
fn over_vxlan_the_source_is_translated_once_and_netfilter_sees_client_and_pod() {
    translated_by_the_bridge(Overlay::Vxlan);
}

#[test]
fn over_host_gw_the_source_is_translated_once_and_netfilter_sees_client_and_pod() {
    translated_by_the_bridge(Overlay::HostGw);
}

#[test]
fn over_vxlan_what_netfilter_masquerades_is_not_translated_again() {
    masqueraded_by_netfilter(Overlay::Vxlan);
}

#[test]
fn over_host_gw_what_netfilter_masquerades_is_not_translated_again() {
    masqueraded_by_netfilter(Overlay::HostGw);
}

#[test]
fn the_way_to_the_pods_may_be_another_network_than_the_offices() {
    for overlay in [Overlay::Vxlan, Overlay::HostGw] {
        let lab = LabOptions {
            second_nic: true,
            ..unmasqueraded(overlay)
        }
        .open();
        let bridge = start(&lab, "stack");
        reach::everything(&lab, lab.office_pc());
        assert_eq!(layers(&bridge), HashSet::from(["stack".to_owned()]));
    }
}

#[test]
fn older_kernels_way_of_attaching_works_on_the_stack_path_too() {
    let lab = unmasqueraded(Overlay::HostGw).open();
    let arguments = plus(
        &Bridge::static_arguments("stack"),
        &["--tc-attach", "clsact"],
    );
    let mut bridge = Bridge::start(&lab, &arguments).unwrap();
    reach::everything(&lab, lab.office_pc());
    assert_eq!(layers(&bridge), HashSet::from(["stack".to_owned()]));
    bridge.kill().unwrap();
    bridge.leave_installed();
    // The next bridge replaces the programs.
    let bridge = Bridge::start(&lab, &arguments).unwrap();
    reach::everything(&lab, lab.office_pc());
    let status = bridge.status().unwrap();
    assert!(
        status["datapath"].as_array().unwrap().iter().all(|entry| {
            entry["mode"] == "clsact" && entry["layers"] == serde_json::json!(["stack"])
        }),
        "{status}"
    );
}

#[test]
fn two_clients_with_the_same_port_keep_both_sessions() {
    let lab = unmasqueraded(Overlay::Vxlan).open();
    let bridge = start(&lab, "stack");
    let target = lab.at("echo-1", port::ECHO);
    let _sessions = reach::from_the_same_port(&lab, FREE_PORT, target);
    let nat: HashSet<String> = bridge
        .flows()
        .unwrap()
        .iter()
        .map(|flow| format!("{} {}", flow["protocol"], flow["nat"]))
        .collect();
    assert_eq!(nat.len(), 4, "{nat:?}");
}

#[test]
fn a_firewall_that_drops_by_default_needs_the_rule_that_the_recipe_needs() {
    let lab = LabOptions {
        firewall: Firewall::DropByDefault,
        ..unmasqueraded(Overlay::Vxlan)
    }
    .open();
    let bridge = start(&lab, "stack");
    let pod = lab.at("echo-1", port::ECHO);
    assert!(lab.office_pc().is_cut_off_from(pod));
    let (office, pods) = (plan::OFFICE_CIDR, plan::POD_CIDR);
    let rule = format!("iptables -A FORWARD -s {office} -d {pods} -j ACCEPT");
    lab.node_30().run_line(&rule).unwrap();
    reach::everything(&lab, lab.office_pc());
    assert_eq!(layers(&bridge), HashSet::from(["stack".to_owned()]));
}

#[test]
fn a_node_that_does_not_forward_is_refused() {
    let lab = unmasqueraded(Overlay::Vxlan).open();
    lab.node_30()
        .namespace()
        .sysctl(&[("net/ipv4/ip_forward", "0")])
        .unwrap();
    let command = Bridge::command(&lab, &Bridge::static_arguments("stack")).unwrap();
    let message = refused(&command, 1);
    assert!(
        message.contains("net.ipv4.ip_forward") && message.contains("--manage-sysctls"),
        "{message}"
    );
    assert!(!lab.pin_path().exists());
}

#[test]
fn traceroute_shows_the_router_the_node_and_the_pod() {
    let lab = unmasqueraded(Overlay::Vxlan).open();
    let _bridge = start(&lab, "stack");
    reach::by_traceroute(&lab);
}

#[test]
fn a_closed_port_is_told_at_once() {
    let lab = unmasqueraded(Overlay::Vxlan).open();
    let bridge = start(&lab, "stack");
    for pod in ECHO_PODS {
        let closed = lab.at(pod, 9);
        let (kind, _) = lab.office_pc().tcp_refusal(closed).unwrap();
        assert_eq!(kind, ErrorKind::ConnectionRefused, "{pod}");
        let socket = lab.office_pc().udp_from(0, closed).unwrap();
        let error = datagram(&socket, b"anybody?").unwrap_err();
        let cause = error.downcast_ref::<std::io::Error>().unwrap();
        assert_eq!(cause.kind(), ErrorKind::ConnectionRefused, "{pod}");
    }
    assert_eq!(layers(&bridge), HashSet::from(["stack".to_owned()]));
}

#[test]
fn the_office_learns_what_fits_from_the_node_and_from_beyond() {
    let lab = unmasqueraded(Overlay::Vxlan).open();
    let _bridge = start(&lab, "stack");
    let pc = lab.office_pc();
    let pod = lab.pod("echo-1").address();
    let try_size = |size| pc.ping_unfragmented(pod, size).unwrap();
    assert!(try_size(VXLAN_MTU).complete());
    let refused = try_size(plan::LAN_MTU);
    let told = format!("Frag needed and DF set (mtu = {VXLAN_MTU})");
    assert!(
        refused.text.contains(&format!("From {}", plan::NODE_30)) && refused.text.contains(&told),
        "{}",
        refused.text
    );

    let narrow = format!("ip route add {pod}/32 dev cni0 mtu lock 1000");
    lab.worker_1().run_line(&narrow).unwrap();
    let refused = try_size(1400);
    assert!(
        refused.text.contains("Frag needed and DF set (mtu = 1000)"),
        "{}",
        refused.text
    );
    assert!(try_size(1000).complete());
    // TCP finds out as well, to the pod itself and through the service.
    for target in [lab.at("echo-1", port::BULK), BULK_SERVICE] {
        pc.bulk(target, 1 << 20, 0).unwrap();
    }
}

#[test]
fn pods_learn_what_fits_on_the_way_to_the_office() {
    let lab = unmasqueraded(Overlay::Vxlan).open();
    let _bridge = start(&lab, "stack");
    let pc = lab.office_pc();
    let narrow = format!("ip route add {}/32 dev office0 mtu lock 1200", pc.address());
    lab.office_router().run_line(&narrow).unwrap();
    for pod in ECHO_PODS {
        pc.bulk(lab.at(pod, port::BULK), 0, 1 << 20)
            .unwrap_or_else(|error| panic!("{pod}: {error:#}"));
    }
    for _ in 0..6 {
        pc.bulk(BULK_SERVICE, 0, 1 << 20).unwrap();
    }
}

#[test]
fn fragments_pass_both_ways() {
    for overlay in [Overlay::Vxlan, Overlay::HostGw] {
        let lab = unmasqueraded(overlay).open();
        let _bridge = start(&lab, "stack");
        for pod in ECHO_PODS {
            reach::in_fragments(lab.office_pc(), lab.at(pod, port::ECHO));
        }
        reach::with_large_datagrams(lab.office_pc(), ECHO_SERVICE);
    }
}

#[test]
fn two_hundred_megabytes_cross_without_a_retransmission_storm() {
    const MEGABYTES: u64 = 200 << 20;
    for overlay in [Overlay::Vxlan, Overlay::HostGw] {
        let lab = unmasqueraded(overlay).open();
        let _bridge = start(&lab, "stack");
        let pc = lab.office_pc();
        let senders = [pc, lab.pod("echo-0"), lab.pod("echo-1"), lab.pod("echo-2")];
        for target in [
            lab.at("echo-1", port::BULK),
            lab.at("echo-0", port::BULK),
            BULK_SERVICE,
        ] {
            reach::without_a_storm(&senders, || {
                pc.bulk(target, MEGABYTES, MEGABYTES).unwrap();
            });
        }
    }
}

#[test]
fn a_cluster_that_is_known_needs_no_stack_path() {
    let lab = unmasqueraded(Overlay::Vxlan).open();
    let bridge = Bridge::start(&lab, &Bridge::manifests_arguments(&lab, "auto")).unwrap();
    reach::everything(&lab, lab.office_pc());
    assert_eq!(layers(&bridge), HashSet::from(["tc".to_owned()]));
}

#[test]
fn what_no_service_serves_is_refused_and_does_not_circle() {
    let lab = unmasqueraded(Overlay::Vxlan).open();
    let bridge = Bridge::start(&lab, &Bridge::manifests_arguments(&lab, "stack")).unwrap();
    let pc = lab.office_pc();
    let node = frames::mac(lab.node_30(), "eth0").unwrap();
    let node = node.map(|octet| format!("{octet:02x}")).join(":");
    let back = format!("ether src {node} and dst net {}", plan::SERVICE_CIDR);
    let sent_back = lab.office_router().capture("lan0", &back).unwrap();
    for nobody in [
        SocketAddrV4::new(plan::MYSQL, 9999),
        SocketAddrV4::new(NOBODY, 80),
    ] {
        let (kind, _) = pc.tcp_refusal(nobody).unwrap();
        assert_eq!(kind, ErrorKind::ConnectionRefused, "{nobody}");
        let socket = pc.udp_from(0, nobody).unwrap();
        let error = datagram(&socket, b"anybody?").unwrap_err();
        let cause = error.downcast_ref::<std::io::Error>().unwrap();
        assert_eq!(cause.kind(), ErrorKind::ConnectionRefused, "{nobody}");
    }
    let ping = pc
        .ping_with(NOBODY, &["-c", "1", "-W", "2", "-s", "4000"])
        .unwrap();
    assert!(!ping.complete(), "{}", ping.text);
    let ping = pc.ping_with(NOBODY, &["-c", "1", "-W", "2"]).unwrap();
    assert!(
        ping.text.contains("Destination Host Unreachable"),
        "{}",
        ping.text
    );
    pc.ping(plan::ECHO).unwrap();
    reach::everything(&lab, pc);
    assert_eq!(layers(&bridge), HashSet::from(["stack".to_owned()]));
    assert_eq!(sent_back.stop().unwrap(), []);
}

#[test]
fn a_service_that_is_gone_takes_no_datagrams_and_ends_no_session() {
    let mut lab = unmasqueraded(Overlay::Vxlan).open();
    let _bridge = Bridge::start(&lab, &Bridge::manifests_arguments(&lab, "stack")).unwrap();
    let mut tcp = lab.office_pc().tcp(ECHO_SERVICE).unwrap();
    let udp = lab.office_pc().udp_from(0, ECHO_SERVICE).unwrap();
    exchange(&mut tcp, b"before").unwrap();
    datagram(&udp, b"before").unwrap();
    let services = &mut lab.cluster_mut().services;
    services.retain(|service| service.vip != plan::ECHO);
    lab.publish().unwrap();
    let refused = |error: &anyhow::Error, kind| {
        let cause = error.downcast_ref::<std::io::Error>();
        cause.is_some_and(|cause| cause.kind() == kind)
    };
    eventually(Duration::from_secs(5), "UDP to be refused", || {
        datagram(&udp, b"still there?")
            .is_err_and(|error| refused(&error, ErrorKind::ConnectionRefused))
    });
    exchange(&mut tcp, b"still there?").unwrap();
}

#[test]
fn with_networks_alone_pods_go_by_tc_and_services_by_the_stack_path() {
    for overlay in [Overlay::Vxlan, Overlay::HostGw] {
        let lab = unmasqueraded(overlay).open();
        let bridge = start(&lab, "auto");
        reach::everything(&lab, lab.office_pc());
        let flows = bridge.flows().unwrap();
        for flow in &flows {
            let is_service = flow["destination"].as_str().unwrap().starts_with("10.96.");
            let layer = if is_service { "stack" } else { "tc" };
            assert_eq!(flow["layer"], layer, "{flow}");
        }
        assert_eq!(layers(&bridge).len(), 2, "{flows:?}");
    }
}

#[test]
fn a_flow_of_the_stack_path_stays_there_when_its_service_becomes_known() {
    for options in [unmasqueraded(Overlay::Vxlan), masqueraded(Overlay::Vxlan)] {
        let layer = if options.service_masquerade {
            "kernel"
        } else {
            "stack"
        };
        let lab = options.open();
        let mut bridge = start(&lab, "auto");
        let pc = lab.office_pc();
        let mut tcp = pc.tcp_from(FREE_PORT, ECHO_SERVICE).unwrap();
        let udp = pc.udp_from(FREE_PORT, ECHO_SERVICE).unwrap();
        exchange(&mut tcp, b"before").unwrap();
        datagram(&udp, b"before").unwrap();
        let client = SocketAddrV4::new(pc.address(), FREE_PORT);
        let before = ["tcp", "udp"].map(|protocol| flow_to_echo(&bridge, protocol, client));

        bridge.stop().unwrap();
        bridge.leave_installed();
        let bridge = Bridge::start(&lab, &Bridge::manifests_arguments(&lab, "auto")).unwrap();
        for round in 0..10 {
            exchange(&mut tcp, format!("round {round}").as_bytes()).unwrap();
            datagram(&udp, format!("round {round}").as_bytes()).unwrap();
            std::thread::sleep(Duration::from_millis(100));
        }
        for (protocol, before) in ["tcp", "udp"].into_iter().zip(before) {
            let after = flow_to_echo(&bridge, protocol, client);
            assert_eq!(after["layer"], layer, "{after}");
            for part in ["destination", "backend", "nat"] {
                assert_eq!(after[part], before[part], "{before} became {after}");
            }
        }
        let new = SocketAddrV4::new(pc.address(), FREE_PORT + 1);
        let mut tcp = pc.tcp_from(new.port(), ECHO_SERVICE).unwrap();
        exchange(&mut tcp, b"new").unwrap();
        assert_eq!(flow_to_echo(&bridge, "tcp", new)["layer"], "tc");
    }
}

#[test]
fn a_flow_of_the_tc_path_stays_there_when_new_ones_take_the_stack_path() {
    let lab = unmasqueraded(Overlay::Vxlan).open();
    let mut bridge = Bridge::start(&lab, &Bridge::manifests_arguments(&lab, "auto")).unwrap();
    let pc = lab.office_pc();
    let targets = [
        ECHO_SERVICE,
        lab.at("echo-0", port::ECHO),
        lab.at("echo-1", port::ECHO),
    ];
    let mut sessions: Vec<_> = targets
        .into_iter()
        .zip(FREE_PORT..)
        .map(|(to, port)| {
            (
                SocketAddrV4::new(pc.address(), port),
                pc.tcp_from(port, to).unwrap(),
                pc.udp_from(port, to).unwrap(),
            )
        })
        .collect();
    for arguments in [
        Bridge::manifests_arguments(&lab, "auto"),
        Bridge::manifests_arguments(&lab, "stack"),
        Bridge::static_arguments("stack"),
    ] {
        bridge.stop().unwrap();
        bridge.leave_installed();
        bridge = Bridge::start(&lab, &arguments).unwrap();
        for round in 0..3 {
            for (client, tcp, udp) in &mut sessions {
                exchange(tcp, format!("{client} {round}").as_bytes()).unwrap();
                datagram(udp, format!("{client} {round}").as_bytes()).unwrap();
            }
        }
        for (client, ..) in &sessions {
            for protocol in ["tcp", "udp"] {
                let flow = flow_from(&bridge, protocol, *client);
                assert_eq!(flow["layer"], "tc", "{flow}");
            }
        }
    }
    for (to, port) in targets.into_iter().zip(FREE_PORT + 100..) {
        let mut tcp = pc.tcp_from(port, to).unwrap();
        exchange(&mut tcp, b"new").unwrap();
        let flow = flow_from(&bridge, "tcp", SocketAddrV4::new(pc.address(), port));
        assert_eq!(flow["layer"], "stack", "{flow}");
    }
}

#[test]
fn flushing_by_service_ends_its_flows_on_the_stack_path() {
    let lab = unmasqueraded(Overlay::Vxlan).open();
    let bridge = start(&lab, "auto");
    let pc = lab.office_pc();
    let mut through_service = pc.tcp(ECHO_SERVICE).unwrap();
    let mut to_pod = pc.tcp(lab.at("echo-1", port::ECHO)).unwrap();
    exchange(&mut through_service, b"before").unwrap();
    exchange(&mut to_pod, b"before").unwrap();
    let service = plan::ECHO.to_string();
    bridge
        .client()
        .text(&["flows", "flush", "--destination", &service])
        .unwrap();
    assert!(!layers(&bridge).contains("stack"));
    assert!(exchange(&mut through_service, b"a flushed flow").is_err());
    exchange(&mut to_pod, b"another flow").unwrap();
    pc.tcp_echo(ECHO_SERVICE, b"a new one").unwrap();
}

/// A node that forwards, without a rule that masquerades.
fn unmasqueraded(overlay: Overlay) -> LabOptions {
    LabOptions {
        overlay,
        masquerade: false,
        service_masquerade: false,
        firewall: Firewall::Open,
        ..LabOptions::default_variant()
    }
}

/// A node that forwards, where flannel and kube-proxy masquerade.
fn masqueraded(overlay: Overlay) -> LabOptions {
    LabOptions {
        masquerade: true,
        service_masquerade: true,
        ..unmasqueraded(overlay)
    }
}

fn start(lab: &Lab, datapath: &str) -> Bridge {
    Bridge::start(lab, &Bridge::static_arguments(datapath)).unwrap()
}

#[track_caller]
fn layers(bridge: &Bridge) -> HashSet<String> {
    let flows = bridge.flows().unwrap();
    flows
        .iter()
        .map(|flow| flow["layer"].as_str().unwrap().to_owned())
        .collect()
}

/// A connection as conntrack has it: what the first packet said, and what answers are expected to say.
#[derive(Debug, PartialEq, Eq)]
struct Tracked {
    from: SocketAddrV4,
    to: SocketAddrV4,
    answer_from: SocketAddrV4,
    answer_to: SocketAddrV4,
}

/// What conntrack on node-30 knows of a client's port.
#[track_caller]
fn tracked(lab: &Lab, protocol: &str, client: SocketAddrV4) -> Tracked {
    let (address, port) = (client.ip().to_string(), client.port().to_string());
    let arguments = ["-L", "-p", protocol, "-s", &address, "--sport", &port];
    let text = lab.node_30().run("conntrack", &arguments).unwrap();
    let values = |key: &str| -> Vec<String> {
        text.split_whitespace()
            .filter_map(|word| word.strip_prefix(key)?.strip_prefix('='))
            .map(str::to_owned)
            .collect()
    };
    let endpoints = |address: &str, port: &str| -> [SocketAddrV4; 2] {
        let endpoint = |(address, port): (&String, &String)| {
            SocketAddrV4::new(address.parse().unwrap(), port.parse().unwrap())
        };
        let all: Vec<_> = values(address)
            .iter()
            .zip(&values(port))
            .map(endpoint)
            .collect();
        all.try_into()
            .unwrap_or_else(|_| panic!("not one connection of {client}: {text}"))
    };
    let [from, answer_from] = endpoints("src", "sport");
    let [to, answer_to] = endpoints("dst", "dport");
    Tracked {
        from,
        to,
        answer_from,
        answer_to,
    }
}

/// Opens a connection and an exchange to `to` and returns, for TCP and UDP, the client's end and who the pods say has
/// come, after checking that every packet on the wire to a worker had that one source.
#[track_caller]
fn seen_sources(
    lab: &Lab,
    to: SocketAddrV4,
    client_port: u16,
) -> [(SocketAddrV4, SocketAddrV4); 2] {
    let pc = lab.office_pc();
    let overlay = lab.options().overlay;
    let captures: Vec<_> = [lab.worker_1(), lab.worker_2()]
        .into_iter()
        .map(|worker| worker.capture("eth0", overlay.capture_filter()).unwrap())
        .collect();
    let arrived = |protocol: Protocol| -> Vec<(usize, SocketAddrV4)> {
        (0..)
            .zip(ECHO_PODS)
            .flat_map(|(index, pod)| {
                lab.pod(pod)
                    .peers(protocol, port::ECHO)
                    .into_iter()
                    .map(move |peer| (index, peer))
            })
            .collect()
    };
    let before = [Protocol::Tcp, Protocol::Udp].map(arrived);
    let mut tcp = pc.tcp_from(client_port, to).unwrap();
    exchange(&mut tcp, b"over TCP").unwrap();
    let udp = pc.udp_from(client_port, to).unwrap();
    datagram(&udp, b"over UDP").unwrap();
    let client = SocketAddrV4::new(pc.address(), client_port);
    let wire: Vec<_> = captures
        .into_iter()
        .flat_map(|capture| capture.stop().unwrap())
        .filter_map(|packet| overlay.carried(&packet))
        .collect();
    let mut index = 0;
    [(Protocol::Tcp, 6), (Protocol::Udp, 17)].map(|(protocol, number)| {
        let new: Vec<_> = arrived(protocol)
            .into_iter()
            .filter(|arrival| !before[index].contains(arrival))
            .collect();
        index += 1;
        let [(pod, source)] = new[..] else {
            panic!("{to}: {new:?} came to the pods");
        };
        let pod = ECHO_PODS[pod];
        let pod_address = lab.pod(pod).address();
        let sources: HashSet<_> = wire
            .iter()
            .filter(|packet| packet.destination == pod_address && packet.protocol == number)
            .map(lab::capture::Summary::from)
            .collect();
        let expected = if pod == "echo-0" {
            HashSet::new()
        } else {
            HashSet::from([source])
        };
        assert_eq!(sources, expected, "{to}, {protocol:?}");
        (client, source)
    })
}

fn translated_by_the_bridge(overlay: Overlay) {
    let lab = unmasqueraded(overlay).open();
    let bridge = start(&lab, "stack");
    for client in [lab.office_pc(), lab.office_pc2()] {
        reach::everything(&lab, client);
    }
    assert_eq!(layers(&bridge), HashSet::from(["stack".to_owned()]));

    let targets = ECHO_PODS
        .map(|pod| lab.at(pod, port::ECHO))
        .into_iter()
        .chain([ECHO_SERVICE; 3]);
    for (to, client_port) in targets.zip(FREE_PORT..) {
        let seen = seen_sources(&lab, to, client_port);
        for ((client, source), protocol) in seen.into_iter().zip(["tcp", "udp"]) {
            let flow = flow_from(&bridge, protocol, client);
            let backend: SocketAddrV4 = flow["backend"].as_str().unwrap().parse().unwrap();
            let nat = SocketAddrV4::new(lab.nat_address(*backend.ip()), client_port);
            assert_eq!(source, nat, "{flow}");
            assert_eq!(flow["nat"], nat.to_string(), "{flow}");
            assert_eq!(flow["destination"], to.to_string(), "{flow}");
            assert_eq!(flow["layer"], "stack", "{flow}");
            if to != ECHO_SERVICE {
                assert_eq!(backend, to, "{flow}");
            }
            // Netfilter sees the client and the pod, and what kube-proxy makes of a service.
            let expected = Tracked {
                from: client,
                to,
                answer_from: backend,
                answer_to: client,
            };
            assert_eq!(tracked(&lab, protocol, client), expected, "{flow}");
        }
    }
}

fn masqueraded_by_netfilter(overlay: Overlay) {
    let lab = masqueraded(overlay).open();
    let bridge = start(&lab, "stack");
    for client in [lab.office_pc(), lab.office_pc2()] {
        reach::everything(&lab, client);
    }
    // Flannel leaves the node's own pods out.
    let by_flannel = ["echo-1", "echo-2"].map(|pod| lab.at(pod, port::ECHO));
    for (to, client_port) in by_flannel
        .into_iter()
        .chain([ECHO_SERVICE; 4])
        .zip(FREE_PORT..)
    {
        let seen = seen_sources(&lab, to, client_port);
        for ((client, source), protocol) in seen.into_iter().zip(["tcp", "udp"]) {
            let tracked = tracked(&lab, protocol, client);
            assert_eq!(source, tracked.answer_to, "{tracked:?}");
            assert_eq!(
                *source.ip(),
                lab.nat_address(*tracked.answer_from.ip()),
                "{tracked:?}"
            );
        }
    }
    let flows = bridge.flows().unwrap();
    let by_stack: HashSet<_> = flows
        .iter()
        .filter(|flow| flow["layer"] == "stack")
        .map(|flow| {
            let destination = flow["destination"].as_str().unwrap();
            destination.split(':').next().unwrap().to_owned()
        })
        .collect();
    let local_pod = lab.pod("echo-0").address().to_string();
    assert_eq!(by_stack, HashSet::from([local_pod]), "{flows:?}");
    assert!(
        flows.iter().any(
            |flow| flow["destination"] == ECHO_SERVICE.to_string() && flow["layer"] == "kernel"
        ),
        "{flows:?}"
    );
}

/// The one flow of a client by this protocol.
#[track_caller]
fn flow_from(bridge: &Bridge, protocol: &str, client: SocketAddrV4) -> Value {
    bridge.only_flow(client, |flow| flow["protocol"] == protocol)
}

/// [`flow_from`], to the echo service: the answer of a pod on the node, which netfilter has translated back before it
/// comes to `cni0`, opens a second flow.
#[track_caller]
fn flow_to_echo(bridge: &Bridge, protocol: &str, client: SocketAddrV4) -> Value {
    let echo = ECHO_SERVICE.to_string();
    bridge.only_flow(client, |flow| {
        flow["protocol"] == protocol && flow["destination"] == echo.as_str()
    })
}
