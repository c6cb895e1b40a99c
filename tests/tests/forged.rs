//! What others send to end a session of a client, or to make one up: it is translated, the ends judge it, and the bridge
//! believes none of it.

use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::thread::sleep;
use std::time::Duration;

use lab::host::exchange;
use lab::packets::{ACK, FIN, PacketSender, RST, SYN, numbers, segment};
use lab::plan::{ECHO_SERVICE, port};
use lab::{Bridge, Lab, LabOptions, eventually};
use serde_json::Value;

/// Segments of each kind for each session.
const GUESSES: usize = 500;

#[test]
fn resets_and_ends_that_a_pod_makes_up_leave_sessions_established() {
    let lab = LabOptions::default().open();
    let bridge = lab.start_bridge(&[]).unwrap();
    let mut sessions = sessions(&lab);
    let attacker = PacketSender::new(lab.pod("echo-2")).unwrap();
    let mut numbers = numbers();
    for flow in established(&bridge, sessions.len()) {
        let [backend, nat] = ["backend", "nat"].map(|end| endpoint(&flow, end));
        guess(&attacker, &mut numbers, backend, nat);
    }
    go_on(&bridge, &mut sessions);
}

#[test]
fn resets_and_ends_that_a_neighbour_makes_up_leave_sessions_established() {
    let lab = LabOptions::default().open();
    let bridge = lab.start_bridge(&[]).unwrap();
    let mut sessions = sessions(&lab);
    let attacker = PacketSender::new(lab.office_pc2()).unwrap();
    let mut numbers = numbers();
    for flow in established(&bridge, sessions.len()) {
        let [client, destination] = ["client", "destination"].map(|end| endpoint(&flow, end));
        guess(&attacker, &mut numbers, client, destination);
    }
    go_on(&bridge, &mut sessions);
}

#[test]
fn half_a_handshake_establishes_nothing() {
    let lab = LabOptions::default().open();
    let bridge = lab.start_bridge(&[]).unwrap();
    let attacker = PacketSender::new(lab.office_pc2()).unwrap();
    let mut numbers = numbers();
    // Hosts that are not there, so that nobody ends what is half open.
    let clients = || {
        (1..=250_u8)
            .flat_map(|host| [20_001, 20_002].map(|port| (Ipv4Addr::new(192, 168, 2, host), port)))
    };
    for (client, port) in clients() {
        let syn = segment(
            SocketAddrV4::new(client, port),
            ECHO_SERVICE,
            SYN,
            (1_000, 0),
        );
        attacker.send(&syn).unwrap();
    }
    sleep(Duration::from_millis(300));
    for (client, port) in clients() {
        let guess = numbers.next().unwrap();
        let from = SocketAddrV4::new(client, port);
        let ack = segment(from, ECHO_SERVICE, ACK, (1_001, guess));
        attacker.send(&ack).unwrap();
    }
    eventually(Duration::from_secs(10), "the flows are there", || {
        bridge.flows().unwrap().len() >= 500
    });
    let states: Vec<Value> = bridge.flows().unwrap();
    let made_up = states
        .iter()
        .filter(|flow| flow["state"] == "established")
        .count();
    assert_eq!(made_up, 0);
}

/// Sends what ends a session, with numbers that nobody could know.
fn guess(
    attacker: &PacketSender,
    numbers: &mut impl Iterator<Item = u32>,
    from: SocketAddrV4,
    to: SocketAddrV4,
) {
    for flags in [RST, RST | ACK, FIN | ACK] {
        for pair in numbers.by_ref().zip(self::numbers().skip(7)).take(GUESSES) {
            attacker.send(&segment(from, to, flags, pair)).unwrap();
        }
    }
}

fn sessions(lab: &Lab) -> Vec<TcpStream> {
    let pods = ["echo-1", "echo-2"].map(|pod| lab.at(pod, port::ECHO));
    let targets = [ECHO_SERVICE, ECHO_SERVICE, ECHO_SERVICE];
    let targets = targets.into_iter().chain(pods);
    let connect = |to| {
        let mut session = lab.office_pc().tcp(to).unwrap();
        exchange(&mut session, b"before").unwrap();
        session
    };
    targets.map(connect).collect()
}

fn established(bridge: &Bridge, count: usize) -> Vec<Value> {
    let flows = bridge.flows().unwrap();
    let established: Vec<Value> = flows
        .iter()
        .filter(|flow| flow["state"] == "established")
        .cloned()
        .collect();
    assert_eq!(established.len(), count, "{flows:?}");
    established
}

fn endpoint(flow: &Value, end: &str) -> SocketAddrV4 {
    flow[end].as_str().unwrap().parse().unwrap()
}

/// The bridge and both ends have made nothing of what was sent.
fn go_on(bridge: &Bridge, sessions: &mut [TcpStream]) {
    sleep(Duration::from_secs(1));
    established(bridge, sessions.len());
    for session in sessions {
        exchange(session, b"after").unwrap();
    }
}
