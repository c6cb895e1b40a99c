//! Sessions that lose their backend, their network or the bridge, and what others send to make them do so.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::thread::sleep;
use std::time::Duration;

use lab::cluster::Endpoint;
use lab::frames::{self, Sender, ethernet, ipv4};
use lab::host::exchange;
use lab::plan::{ECHO_SERVICE, FREE_PORT, OFFICE_PC, port};
use lab::{Lab, LabOptions, eventually, serve};

#[test]
fn a_session_to_a_deleted_node_is_reset() {
    let mut lab = LabOptions::default().open();
    let _bridge = lab.start_impatient_bridge().unwrap();
    lab.leave_echo_to("echo-1");
    let mut session = lab.office_pc().tcp(ECHO_SERVICE).unwrap();
    exchange(&mut session, b"before").unwrap();
    lab.node_30()
        .run_line("ip route del 10.244.1.0/24")
        .unwrap();
    lab.leave_echo_to("echo-2");
    sleep(Duration::from_secs(3));
    is_reset(&mut session);
}

#[test]
fn what_was_ended_is_adopted_by_nobody() {
    let mut lab = LabOptions::default().open();
    let _bridge = lab.start_impatient_bridge().unwrap();
    lab.leave_echo_to("echo-1");
    // A port that the bridge keeps, so that the connection could be adopted.
    let mut session = lab.office_pc().tcp_from(FREE_PORT, ECHO_SERVICE).unwrap();
    exchange(&mut session, b"before").unwrap();
    lab.pod("echo-1").run_line("ip link set eth0 down").unwrap();
    // The other pod answers nothing that it does not know.
    for rule in [
        "INPUT -m conntrack --ctstate INVALID",
        "INPUT -p tcp ! --syn -m conntrack --ctstate NEW",
    ] {
        lab.pod("echo-2")
            .run_line(&format!("iptables -A {rule} -j DROP"))
            .unwrap();
    }
    lab.leave_echo_to("echo-2");
    is_reset(&mut session);
}

#[test]
fn a_session_to_a_backend_on_the_node_itself_outlives_its_endpoint_and_the_bridge() {
    let mut lab = LabOptions::default().open();
    let mut bridge = lab.start_impatient_bridge().unwrap();
    lab.node_30().serve_tcp(port::ECHO, serve::echo()).unwrap();
    lab.cluster_mut().service_mut("echo").endpoints = vec![Endpoint::of_node_30()];
    lab.publish().unwrap();
    eventually(Duration::from_secs(15), "the node answers", || {
        lab.office_pc().tcp_echo(ECHO_SERVICE, b"local").is_ok()
    });
    let mut session = lab.office_pc().tcp(ECHO_SERVICE).unwrap();
    exchange(&mut session, b"before").unwrap();
    lab.leave_echo_to("echo-2");
    let go_on = |session: &mut TcpStream| {
        for second in 0..16 {
            exchange(session, b"still there")
                .unwrap_or_else(|error| panic!("after {second} s: {error:#}"));
            sleep(Duration::from_secs(1));
        }
    };
    go_on(&mut session);
    bridge.kill().unwrap();
    bridge.leave_installed();
    let _bridge = lab.start_impatient_bridge().unwrap();
    go_on(&mut session);
}

#[test]
fn a_connection_that_a_pod_of_this_node_has_opened_before_goes_on() {
    let lab = LabOptions::default().open();
    lab.node_30()
        .run_line("iptables -t nat -F POSTROUTING")
        .unwrap();
    let pc = lab.office_pc();
    let office = SocketAddrV4::new(OFFICE_PC, pc.serve_tcp(9_003, serve::echo()).unwrap());
    let mut debugger = lab.pod("echo-0").tcp(office).unwrap();
    exchange(&mut debugger, b"a breakpoint").unwrap();
    let _bridge = lab.start_bridge(&[]).unwrap();
    for _ in 0..10 {
        exchange(&mut debugger, &vec![7; 20_000]).unwrap();
    }
}

#[test]
fn a_network_that_is_gone_is_kept_for_its_flows_by_the_next_process_too() {
    const FAR: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 200, 7, 7), port::ECHO);
    let mut lab = LabOptions::default().open();
    let mut bridge = lab.start_bridge(&[]).unwrap();
    lab.office_router()
        .run_line("ip route add 10.200.7.7 via 10.60.20.30")
        .unwrap();
    lab.cluster_mut().service_mut("echo").vip = *FAR.ip();
    lab.publish().unwrap();
    eventually(Duration::from_secs(15), "the service answers", || {
        lab.office_pc().tcp_echo(FAR, b"far away").is_ok()
    });
    let mut session = lab.office_pc().tcp(FAR).unwrap();
    exchange(&mut session, b"before").unwrap();
    let manifests = fs::read_dir(lab.manifests()).unwrap();
    let path = manifests
        .map(|entry| entry.unwrap().path())
        .find(|path| fs::read_to_string(path).unwrap().contains("10.200.7.7"))
        .unwrap();
    fs::remove_file(&path).unwrap();
    sleep(Duration::from_secs(2));
    exchange(&mut session, b"without its service").unwrap();
    bridge.kill().unwrap();
    bridge.leave_installed();
    let _bridge = lab.start_bridge(&[]).unwrap();
    exchange(&mut session, b"and its first bridge").unwrap();
}

#[test]
fn forged_answers_to_pods_throw_no_session_out() {
    let lab = LabOptions::default().open();
    let bridge = lab.start_bridge(&["--flow-capacity", "1024"]).unwrap();
    let pc = lab.office_pc();
    let mut sessions: Vec<TcpStream> = (0..40).map(|_| pc.tcp(ECHO_SERVICE).unwrap()).collect();
    for session in &mut sessions {
        exchange(session, b"before").unwrap();
    }
    let sender = Sender::new(lab.office_router(), "lan0").unwrap();
    let pod = lab.pod("echo-1").address();
    for host in 0..500_u16 {
        let [high, low] = host.to_be_bytes();
        for port in [41_000, 41_001] {
            let from = SocketAddrV4::new(Ipv4Addr::new(192, 168, 1 + high, low), 443);
            let segment = acknowledgement(from, SocketAddrV4::new(pod, port));
            sender.send(&frame(&lab, &segment)).unwrap();
        }
    }
    eventually(Duration::from_secs(30), "room is made", || {
        bridge.flows().unwrap().len() < 900
    });
    for session in &mut sessions {
        exchange(session, b"after").unwrap();
    }
}

#[track_caller]
fn is_reset(session: &mut TcpStream) {
    session
        .set_read_timeout(Some(Duration::from_secs(45)))
        .unwrap();
    session.write_all(b"anybody?").unwrap();
    let error = session.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
}

/// A TCP segment of no connection that anybody has.
fn acknowledgement(from: SocketAddrV4, to: SocketAddrV4) -> Vec<u8> {
    let mut segment = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    segment.extend(1_000_u32.to_be_bytes());
    segment.extend(2_000_u32.to_be_bytes());
    segment.extend([0x50, 0x10, 0xFF, 0xFF, 0, 0, 0, 0]);
    let length = u8::try_from(segment.len()).unwrap();
    let mut summed = [from.ip().octets(), to.ip().octets(), [0, 6, 0, length]].concat();
    summed.extend(&segment);
    segment[16..18].copy_from_slice(&frames::checksum(&summed).to_be_bytes());
    ipv4(*from.ip(), *to.ip(), 6, &segment)
}

fn frame(lab: &Lab, packet: &[u8]) -> Vec<u8> {
    ethernet(
        frames::mac(lab.node_30(), "eth0").unwrap(),
        frames::mac(lab.office_router(), "lan0").unwrap(),
        0x0800,
        packet,
    )
}
