//! Assertions that traffic gets through: between office hosts, pods and services. Each panics where something does not.

use std::net::{SocketAddrV4, TcpStream, UdpSocket};
use std::time::Duration;

use crate::hosts::host::{Host, datagram, exchange};
use crate::lab::Lab;
use crate::plan::{
    ECHO_PODS, ECHO_SERVICE, MYSQL_SERVICE, NODE_30, OFFICE_GATEWAY, WEB_SERVICE, port,
};
use crate::serve;

/// Ping, TCP and UDP to every echo pod.
#[track_caller]
pub fn every_pod(lab: &Lab, client: &Host) {
    for pod in ECHO_PODS {
        let echo = lab.at(pod, port::ECHO);
        client.ping(*echo.ip()).unwrap();
        client.tcp_echo(echo, b"a few words over TCP").unwrap();
        client.udp_echo(echo, b"a few words over UDP").unwrap();
    }
}

/// TCP and UDP, HTTP and `MySQL` to services.
#[track_caller]
pub fn every_service(client: &Host) {
    // Of three backends, six connections miss one in one run of four.
    for _ in 0..6 {
        client
            .tcp_echo(ECHO_SERVICE, b"a few words over TCP")
            .unwrap();
        client
            .udp_echo(ECHO_SERVICE, b"a few words over UDP")
            .unwrap();
    }
    let page = client.http_get(WEB_SERVICE, "/").unwrap();
    assert!(page.body.starts_with("web-0 greets"), "{page:?}");
    let mut session = client.mysql(MYSQL_SERVICE).unwrap();
    assert_eq!(session.query("SELECT 42").unwrap(), "42");
}

/// Every pod and every service.
#[track_caller]
pub fn everything(lab: &Lab, client: &Host) {
    every_pod(lab, client);
    every_service(client);
}

/// Ping, TCP and UDP from every echo pod to office-pc.
#[track_caller]
pub fn from_every_pod(lab: &Lab) {
    let pc = lab.office_pc();
    let tcp = pc.serve_tcp(0, serve::echo()).unwrap();
    let udp = pc.serve_udp_echo(0).unwrap();
    for pod in ECHO_PODS.map(|pod| lab.pod(pod)) {
        pod.ping(pc.address()).unwrap();
        pod.tcp_echo(SocketAddrV4::new(pc.address(), tcp), b"from a pod")
            .unwrap();
        pod.udp_echo(SocketAddrV4::new(pc.address(), udp), b"from a pod")
            .unwrap();
    }
}

/// [`everything`] from both office hosts, and [`from_every_pod`].
#[track_caller]
pub fn both_ways(lab: &Lab) {
    for client in [lab.office_pc(), lab.office_pc2()] {
        everything(lab, client);
    }
    from_every_pod(lab);
}

/// Pings and a datagram of several fragments, and the same back.
#[track_caller]
pub fn in_fragments(client: &Host, pod: SocketAddrV4) {
    let arguments = [
        "-s", "3000", "-M", "dont", "-c", "3", "-i", "0.2", "-W", "2",
    ];
    let ping = client.ping_with(*pod.ip(), &arguments).unwrap();
    assert!(ping.complete(), "{pod}: {}", ping.text);
    with_large_datagrams(client, pod);
}

/// A datagram of several fragments, twice: the first may only teach the client the path's MTU.
#[track_caller]
pub fn with_large_datagrams(client: &Host, target: SocketAddrV4) {
    let socket = client.udp_from(0, target).unwrap();
    let limit = Duration::from_millis(500);
    socket.set_read_timeout(Some(limit)).unwrap();
    let payload: Vec<u8> = (0..8000_u16).map(|n| n.to_be_bytes()[1]).collect();
    let _ = datagram(&socket, &payload);
    datagram(&socket, &payload).unwrap();
}

/// Sessions of both office hosts from one client port, by TCP and by UDP, that have each got their own answers. Dropping
/// them ends them.
#[must_use = "the sessions end when they are dropped"]
#[track_caller]
pub fn from_the_same_port(
    lab: &Lab,
    port: u16,
    target: SocketAddrV4,
) -> Vec<(TcpStream, UdpSocket)> {
    let clients = [lab.office_pc(), lab.office_pc2()];
    let mut sessions: Vec<_> = clients
        .iter()
        .map(|client| {
            let tcp = client.tcp_from(port, target).unwrap();
            (tcp, client.udp_from(port, target).unwrap())
        })
        .collect();
    for round in 0..20 {
        for (index, (stream, _)) in sessions.iter_mut().enumerate() {
            exchange(stream, format!("client {index}, round {round}").as_bytes()).unwrap();
        }
        for (index, (_, socket)) in sessions.iter().enumerate() {
            datagram(socket, format!("client {index}, round {round}").as_bytes()).unwrap();
        }
    }
    sessions
}

/// Asserts that traceroute by UDP, ICMP and TCP shows the router, node-30, the worker where there is one, and the pod.
#[track_caller]
pub fn by_traceroute(lab: &Lab) {
    let way = [OFFICE_GATEWAY, NODE_30].map(Some);
    for method in [&["-U", "-p", "33434"][..], &["-I"], &["-T", "-p", "7"]] {
        for (pod, worker) in [("echo-0", None), ("echo-1", Some("worker-1"))] {
            let address = lab.pod(pod).address();
            let hops = lab.office_pc().traceroute(address, method).unwrap();
            let worker = worker.map(|worker| Some(lab.hop_address(worker)));
            let expected: Vec<_> = way
                .into_iter()
                .chain(worker)
                .chain([Some(address)])
                .collect();
            assert_eq!(hops, expected, "traceroute {method:?} to {address}");
        }
    }
}

/// Asserts that fewer than one in a hundred of the segments that `senders` send during `work` are sent
/// again. When large packets don't get through, it is many more.
#[track_caller]
pub fn without_a_storm(senders: &[&Host], work: impl FnOnce()) {
    let sum = |name| -> u64 {
        senders
            .iter()
            .map(|sender| sender.counter("Tcp", name).unwrap())
            .sum()
    };
    let before = (sum("RetransSegs"), sum("OutSegs"));
    work();
    let (again, all) = (sum("RetransSegs") - before.0, sum("OutSegs") - before.1);
    assert!(
        again * 100 <= all,
        "{again} of {all} segments were sent again"
    );
}
