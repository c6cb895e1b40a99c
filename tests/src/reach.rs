//! What the office wants first: to reach pods and services, and to be reached by pods. Each of these panics where
//! something does not get through.

use std::net::SocketAddrV4;
use std::time::Duration;

use crate::host::{Host, datagram};
use crate::lab::Lab;
use crate::plan::{self, port};
use crate::serve;

/// On node-30 itself, and on both workers.
pub const ECHO_PODS: [&str; 3] = ["echo-0", "echo-1", "echo-2"];

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
    let echo = SocketAddrV4::new(plan::ECHO, port::ECHO);
    client.tcp_echo(echo, b"a few words over TCP").unwrap();
    client.udp_echo(echo, b"a few words over UDP").unwrap();
    let web = SocketAddrV4::new(plan::WEB, port::HTTP_SERVICE);
    let page = client.http_get(web, "/").unwrap();
    assert!(page.body.starts_with("web-0 greets"), "{page:?}");
    let mysql = SocketAddrV4::new(plan::MYSQL, port::MYSQL);
    let mut session = client.mysql(mysql).unwrap();
    assert_eq!(session.query("SELECT 42").unwrap(), "42");
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

/// All of that, from both office hosts.
#[track_caller]
pub fn both_ways(lab: &Lab) {
    for client in [lab.office_pc(), lab.office_pc2()] {
        every_pod(lab, client);
        every_service(client);
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
