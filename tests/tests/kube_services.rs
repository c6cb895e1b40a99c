//! Services that are created, scaled and deleted in the API server.

use std::io::ErrorKind;
use std::net::SocketAddrV4;
use std::time::Duration;

use lab::host::{datagram, exchange};
use lab::plan::{self, ECHO_PODS, ECHO_SERVICE, port};
use lab::{Bridge, Lab, LabOptions, eventually};

const FRESH: SocketAddrV4 = SocketAddrV4::new(std::net::Ipv4Addr::new(10, 96, 20, 50), port::ECHO);

/// Time for a change to reach the kernel: some ten milliseconds, more on a busy machine.
const SOON: Duration = Duration::from_secs(2);

#[test]
fn traffic_follows_a_service_that_is_created_scaled_and_deleted() {
    let (mut lab, bridge) = open();
    assert!(is_refused(&lab, FRESH), "nobody has this VIP yet");

    let mut fresh = lab.cluster_mut().service_mut("echo").clone();
    fresh.name = "fresh".to_owned();
    fresh.vip = *FRESH.ip();
    fresh.scale_to(&["echo-1"]);
    lab.cluster_mut().services.push(fresh);
    lab.publish().unwrap();
    eventually(SOON, "the new service is reached", || {
        lab.office_pc().tcp_echo(FRESH, b"new").is_ok()
    });

    lab.cluster_mut().service_mut("fresh").scale_to(&[]);
    lab.publish().unwrap();
    eventually(SOON, "a service without pods is refused", || {
        is_refused(&lab, FRESH)
    });
    assert_eq!(
        bridge.status().unwrap()["drops"]["no-backend"]
            .as_u64()
            .map(|count| count > 0),
        Some(true)
    );

    lab.cluster_mut().service_mut("fresh").scale_to(&["echo-2"]);
    lab.publish().unwrap();
    eventually(SOON, "the service's new pod is reached", || {
        lab.office_pc().tcp_echo(FRESH, b"scaled up").is_ok()
    });
    let echo = lab.office_pc().tcp_echo(FRESH, b"which pod").unwrap();
    let pod = lab.at("echo-2", port::ECHO).to_string();
    assert_eq!(backends(&bridge, echo.local.port()), [pod]);

    lab.cluster_mut()
        .services
        .retain(|service| service.name != "fresh");
    lab.publish().unwrap();
    eventually(SOON, "the deleted service is refused", || {
        is_refused(&lab, FRESH)
    });
    lab.office_pc()
        .tcp_echo(ECHO_SERVICE, b"others stay")
        .unwrap();

    a_udp_flow_leaves_a_pod_at_once_when_another_takes_new_flows(&mut lab, &bridge);
}

#[test]
fn a_tcp_session_outlives_its_services_changes() {
    let (mut lab, bridge) = open();
    let mut session = lab.office_pc().tcp(ECHO_SERVICE).unwrap();
    exchange(&mut session, b"three pods").unwrap();
    let own = backends(&bridge, session.local_addr().unwrap().port());
    let pods = ECHO_PODS;
    let pod = pods
        .into_iter()
        .find(|pod| own == [lab.at(pod, port::ECHO).to_string()])
        .unwrap();

    lab.cluster_mut().service_mut("echo").scale_to(&[pod]);
    lab.publish().unwrap();
    std::thread::sleep(SOON);
    exchange(&mut session, b"the others are gone").unwrap();

    let other = pods.into_iter().find(|other| *other != pod).unwrap();
    let service = lab.cluster_mut().service_mut("echo");
    service.scale_to(&[pod, other]);
    service.endpoint_mut(pod).terminating = true;
    lab.publish().unwrap();
    let address = lab.at(other, port::ECHO).to_string();
    eventually(SOON, "new connections go to the pod that stays", || {
        (0..10).all(|_| {
            let echo = lab.office_pc().tcp_echo(ECHO_SERVICE, b"new").unwrap();
            backends(&bridge, echo.local.port()) == [address.clone()]
        })
    });
    exchange(&mut session, b"it terminates, and serves").unwrap();

    // The pod is alive, whatever is said of it.
    lab.cluster_mut().service_mut("echo").scale_to(&[other]);
    lab.publish().unwrap();
    std::thread::sleep(SOON);
    exchange(&mut session, b"it is in no slice any more").unwrap();
}

fn open() -> (Lab, Bridge) {
    let lab = LabOptions::default().with_api_server().open();
    let bridge = lab.start_bridge(&[]).unwrap();
    (lab, bridge)
}

/// The pods that the flows from this port of office-pc lead to, by their addresses.
fn backends(bridge: &Bridge, client_port: u16) -> Vec<String> {
    let client = format!("{}:{client_port}", plan::OFFICE_PC);
    let flows = bridge.flows().unwrap();
    flows
        .iter()
        .filter(|flow| flow["client"] == client.as_str())
        .map(|flow| flow["backend"].as_str().unwrap().to_owned())
        .collect()
}

fn is_refused(lab: &Lab, to: SocketAddrV4) -> bool {
    lab.office_pc()
        .tcp_refusal(to)
        .is_ok_and(|(kind, _)| kind == ErrorKind::ConnectionRefused)
}

fn a_udp_flow_leaves_a_pod_at_once_when_another_takes_new_flows(lab: &mut Lab, bridge: &Bridge) {
    let socket = lab.office_pc().udp_from(0, ECHO_SERVICE).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    let own_port = socket.local_addr().unwrap().port();
    for pod in ["echo-2", "echo-1"] {
        lab.cluster_mut().service_mut("echo").scale_to(&[pod]);
        lab.publish().unwrap();
        let pod = lab.at(pod, port::ECHO).to_string();
        eventually(SOON, "the flow leads to the only pod", || {
            // The sender never pauses.
            datagram(&socket, b"on and on").is_ok() && backends(bridge, own_port) == [pod.clone()]
        });
    }
    // Where no other takes them, datagrams go on to the pod that is there.
    lab.cluster_mut().service_mut("echo").scale_to(&[]);
    lab.publish().unwrap();
    std::thread::sleep(SOON);
    datagram(&socket, b"still there").unwrap();
}
