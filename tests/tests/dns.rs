//! DNS: the three ways in which an office forwards names to the cluster, and the relay of the third.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use lab::bridge::arguments::{plus, without};
use lab::dns::{DnsPlan, LARGE_COUNT, large_name, question};
use lab::plan::{self, MYSQL_NAME, MYSQL_SERVICE, NODE_30, ROUTER_LAN, port};
use lab::{Bridge, Firewall, Host, Lab, LabOptions};

#[test]
fn plan_1_an_office_dns_on_the_node_itself() {
    let lab = open(DnsPlan::OnNode);
    let _bridge = lab.start_bridge(&[]).unwrap();
    names_work(&lab);
}

#[test]
fn plan_2_an_office_dns_that_asks_kube_dns_through_the_node() {
    let lab = open(DnsPlan::ThroughNode);
    assert!(
        lab.office_pc().resolve(ROUTER_LAN, MYSQL_NAME).is_err(),
        "it works without the bridge"
    );
    let bridge = lab.start_bridge(&[]).unwrap();
    names_work(&lab);
    let flows = bridge.flows().unwrap();
    let from_dns = format!("{ROUTER_LAN}:");
    assert!(
        flows.iter().any(
            |flow| flow["client"].as_str().unwrap().starts_with(&from_dns)
                && flow["destination"] == "10.96.0.10:53"
        ),
        "{flows:?}"
    );
}

#[test]
fn plan_3_an_office_dns_that_asks_the_relay_on_the_node() {
    let lab = open(DnsPlan::Relay);
    assert!(
        lab.office_pc().resolve(ROUTER_LAN, MYSQL_NAME).is_err(),
        "it works without the bridge"
    );
    let _bridge = lab.start_bridge(&[]).unwrap();
    names_work(&lab);
}

#[test]
fn the_relay_answers_office_hosts_that_ask_it_directly() {
    let lab = open(DnsPlan::Relay);
    let _bridge = lab.start_bridge(&[]).unwrap();
    let pc = lab.office_pc();
    assert_eq!(pc.resolve(NODE_30, MYSQL_NAME).unwrap(), plan::MYSQL);
    let over_tcp = pc.dig(NODE_30, &["+tcp", MYSQL_NAME]).unwrap();
    assert_eq!(over_tcp.addresses, [plan::MYSQL]);
    let text = pc
        .run(
            "nslookup",
            &[
                "-q=A",
                "kube-dns.kube-system.svc.cluster.local",
                &NODE_30.to_string(),
            ],
        )
        .unwrap();
    assert!(text.contains("10.96.0.10"), "{text}");
}

#[test]
fn the_relay_needs_no_kube_proxy() {
    let options = LabOptions {
        kube_proxy: false,
        firewall: Firewall::DropByDefault,
        ..LabOptions::default()
    };
    let lab = options.open();
    let _bridge = lab.start_bridge(&[]).unwrap();
    let dns = lab.options().dns.listen();
    for client in [lab.office_pc(), lab.office_pc2()] {
        assert_eq!(client.resolve(dns, MYSQL_NAME).unwrap(), plan::MYSQL);
        let over_tcp = client.dig(dns, &["+tcp", MYSQL_NAME]).unwrap();
        assert_eq!(over_tcp.addresses, [plan::MYSQL], "{}", over_tcp.text);
    }
}

#[test]
fn large_answers_get_through_over_udp_and_tcp() {
    let lab = open(DnsPlan::Relay);
    let _bridge = lab.start_bridge(&[]).unwrap();
    let pc = lab.office_pc();
    let name = large_name();
    let all = usize::from(LARGE_COUNT);
    // 1232 octets are not enough: the server sets TC, and dig comes again over TCP.
    let answer = pc
        .dig(NODE_30, &["+bufsize=1232", "+ignore", &name])
        .unwrap();
    assert!(answer.text.contains(" tc"), "{}", answer.text);
    for arguments in [
        &["+bufsize=1232"][..],
        &["+tcp"],
        &["+bufsize=4096", "+ignore"],
    ] {
        let answer = pc
            .dig(NODE_30, &[arguments, &[name.as_str()]].concat())
            .unwrap();
        assert_eq!(
            answer.addresses.len(),
            all,
            "{arguments:?}: {}",
            answer.text
        );
    }
}

#[test]
fn messages_are_relayed_as_they_are() {
    let lab = open(DnsPlan::Relay);
    let _bridge = lab.start_bridge(&[]).unwrap();
    // Mixed case, and EDNS with a cookie (RFC 7873): option 10, eight octets.
    let mut message = question(0xbeef, "mYsQl.PrOjEcT-a-DeV1.sVc.ClUsTeR.lOcAl");
    message[11] = 1;
    message.extend([0, 0, 41, 0x10, 0, 0, 0, 0, 0, 0, 12, 0, 10, 0, 8]);
    message.extend(b"cookie!!");
    let relayed = ask(lab.office_pc(), NODE_30, &message);
    let direct = ask(lab.pod("echo-1"), lab.pod("dns-1").address(), &message);
    assert_eq!(relayed, direct);
}

#[test]
fn many_questions_may_share_one_tcp_connection() {
    let lab = open(DnsPlan::Relay);
    let _bridge = lab.start_bridge(&[]).unwrap();
    let mut stream = lab
        .office_pc()
        .tcp(SocketAddrV4::new(NODE_30, port::DNS))
        .unwrap();
    let mut all = Vec::new();
    for id in 0..20 {
        let message = question(id, MYSQL_NAME);
        all.extend(u16::try_from(message.len()).unwrap().to_be_bytes());
        all.extend(message);
    }
    stream.write_all(&all).unwrap();
    let mut ids: Vec<u16> = (0..20)
        .map(|_| {
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut message = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut message).unwrap();
            u16::from_be_bytes([message[0], message[1]])
        })
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..20).collect::<Vec<u16>>());
}

#[test]
fn strangers_are_refused() {
    let lab = open(DnsPlan::Relay);
    let _bridge = lab.start_bridge(&[]).unwrap();
    for transport in ["+notcp", "+tcp"] {
        let answer = lab
            .worker_1()
            .dig(NODE_30, &[transport, MYSQL_NAME])
            .unwrap();
        assert_eq!(answer.status, "REFUSED", "{}", answer.text);
        assert!(answer.addresses.is_empty(), "{}", answer.text);
    }
}

#[test]
fn another_upstream_answers_when_the_first_is_dead() {
    let lab = open(DnsPlan::Relay);
    // No pod has the first address; nobody serves DNS at the second.
    let dead = [Ipv4Addr::new(10, 244, 1, 99), lab.pod("echo-1").address()];
    let live = lab.pod("dns-2").address();
    let mut arguments = without(&Bridge::default_arguments(&lab), "--dns-upstream");
    for address in dead.into_iter().chain([live]) {
        arguments = plus(&arguments, &["--dns-upstream", &format!("{address}:53")]);
    }
    let _bridge = Bridge::start(&lab, &arguments).unwrap();
    let pc = lab.office_pc();
    for transport in ["+notcp", "+tcp"] {
        for _ in 0..3 {
            let answer = pc
                .dig(NODE_30, &["+time=5", transport, MYSQL_NAME])
                .unwrap();
            assert_eq!(
                answer.addresses,
                [plan::MYSQL],
                "{transport}: {}",
                answer.text
            );
        }
    }
}

#[test]
fn nonsense_does_not_end_the_relay() {
    let lab = open(DnsPlan::Relay);
    let mut bridge = lab.start_bridge(&[]).unwrap();
    let pc = lab.office_pc();
    let relay = SocketAddrV4::new(NODE_30, port::DNS);
    let socket = pc.udp_from(0, relay).unwrap();
    let whole = question(1, MYSQL_NAME);
    for length in 0..whole.len() {
        socket.send(&whole[..length]).unwrap();
    }
    // A compression pointer to itself, and an answer instead of a question.
    socket
        .send(b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\xc0\x0c\0\x01\0\x01")
        .unwrap();
    socket
        .send(b"\0\x01\x81\x80\0\x01\0\0\0\0\0\0\0\0\x01\0\x01")
        .unwrap();
    for half in [&b"\0"[..], b"\xff\xff", b"\0\0", b"\0\x05abc"] {
        let mut stream = pc.tcp(relay).unwrap();
        stream.write_all(half).unwrap();
    }
    assert_eq!(pc.resolve(NODE_30, MYSQL_NAME).unwrap(), plan::MYSQL);
    assert!(
        bridge.wait(Duration::from_millis(100)).is_err(),
        "the bridge ended"
    );
}

fn open(dns: DnsPlan) -> Lab {
    LabOptions {
        dns,
        ..LabOptions::default()
    }
    .open()
}

/// Resolves names from both office hosts, in mixed case and over TCP too, and opens a session to the answer.
#[track_caller]
fn names_work(lab: &Lab) {
    let dns = lab.options().dns.listen();
    for client in [lab.office_pc(), lab.office_pc2()] {
        for name in [MYSQL_NAME, "MySQL.Project-A-dev1.svc.cluster.local"] {
            assert_eq!(client.resolve(dns, name).unwrap(), plan::MYSQL, "{name}");
        }
        let kube_dns = client
            .resolve(dns, "kube-dns.kube-system.svc.cluster.local")
            .unwrap();
        assert_eq!(kube_dns, plan::KUBE_DNS);
        let over_tcp = client.dig(dns, &["+tcp", MYSQL_NAME]).unwrap();
        assert_eq!(over_tcp.addresses, [plan::MYSQL], "{}", over_tcp.text);
        let nobody = client
            .dig(dns, &["nobody.project-a-dev1.svc.cluster.local"])
            .unwrap();
        assert_eq!(nobody.status, "NXDOMAIN", "{}", nobody.text);
        let mut session = client.mysql(MYSQL_SERVICE).unwrap();
        assert_eq!(session.query("SELECT 1").unwrap(), "1");
    }
}

/// Sends one message over UDP and returns the answer.
fn ask(host: &Host, server: Ipv4Addr, message: &[u8]) -> Vec<u8> {
    let socket = host
        .udp_from(0, SocketAddrV4::new(server, port::DNS))
        .unwrap();
    socket.send(message).unwrap();
    let mut buffer = vec![0; 4096];
    let length = socket.recv(&mut buffer).unwrap();
    buffer.truncate(length);
    buffer
}
