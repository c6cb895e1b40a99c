//! A session lives as long as its pod: what the API says of endpoints, services and routes decides where new flows go. Not
//! on the stack path, where services are kube-proxy's.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddrV4, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use lab::cluster::Protocol;
use lab::eventually;
use lab::host::{datagram, exchange};
use lab::plan::{ECHO_SERVICE, FREE_PORT, port};
use lab::{Lab, LabOptions};

/// What happens to a cluster.
type Change<'a> = &'a dyn Fn(&mut Lab);

/// Longer than the grace of 1 s that these bridges have, the silence, and the looks at flows between.
const PAST_GRACE: Duration = Duration::from_secs(9);

#[test]
fn sessions_outlive_whatever_the_api_says_of_their_pods() {
    let mut lab = LabOptions::default().open();
    let _bridge = lab.start_impatient_bridge().unwrap();
    lab.leave_echo_to("echo-1");
    let manifests = lab.manifests();
    let changes: [(&str, Change<'_>); 5] = [
        ("a probe that fails", &|lab| {
            lab.cluster_mut()
                .service_mut("echo")
                .endpoint_mut("echo-1")
                .ready = false;
            lab.publish().unwrap();
        }),
        ("draining with a probe that fails", &|lab| {
            let service = lab.cluster_mut().service_mut("echo");
            service.endpoint_mut("echo-1").terminating = true;
            lab.publish().unwrap();
        }),
        ("in no slice", &|lab| {
            lab.cluster_mut().service_mut("echo").scale_to(&["echo-2"]);
            lab.publish().unwrap();
        }),
        ("a port that is renamed", &|lab| {
            lab.cluster_mut().service_mut("echo").scale_to(&["echo-1"]);
            for port in &mut lab.cluster_mut().service_mut("echo").ports {
                port.name.push_str("-v2");
            }
            lab.publish().unwrap();
        }),
        ("a service that is deleted", &|_| {
            for entry in fs::read_dir(&manifests).unwrap() {
                let path = entry.unwrap().path();
                if fs::read_to_string(&path).unwrap().contains("kind: Service") {
                    fs::remove_file(path).unwrap();
                }
            }
        }),
    ];
    let mut session = lab.office_pc().tcp(ECHO_SERVICE).unwrap();
    exchange(&mut session, b"before").unwrap();
    for (what, change) in changes {
        change(&mut lab);
        let end = Instant::now() + PAST_GRACE;
        while Instant::now() < end {
            exchange(&mut session, b"still there")
                .unwrap_or_else(|error| panic!("{what}: {error:#}"));
            sleep(Duration::from_millis(500));
        }
    }
}

#[test]
fn a_session_whose_pod_is_gone_is_reset_after_the_grace() {
    let mut lab = LabOptions::default().open();
    let bridge = lab.start_impatient_bridge().unwrap();
    lab.leave_echo_to("echo-1");
    let mut session = lab.office_pc().tcp(ECHO_SERVICE).unwrap();
    let mut idle = lab.office_pc().tcp(ECHO_SERVICE).unwrap();
    for session in [&mut session, &mut idle] {
        exchange(session, b"before").unwrap();
    }
    // The pod vanishes without a word, as with its node.
    lab.pod("echo-1").run_line("ip link set eth0 down").unwrap();
    lab.leave_echo_to("echo-2");
    session
        .set_read_timeout(Some(Duration::from_secs(40)))
        .unwrap();
    session.write_all(b"anybody?").unwrap();
    let begun = Instant::now();
    let error = session.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    assert!(
        begun.elapsed() < Duration::from_secs(25),
        "{:?}",
        begun.elapsed()
    );
    // One whose client says nothing has nothing to be told.
    let mut flows = bridge.flows().unwrap();
    flows.retain(|flow| flow["layer"] != "ended");
    assert_eq!(flows.len(), 1, "{flows:?}");
    lab.office_pc()
        .tcp_echo(ECHO_SERVICE, b"elsewhere")
        .unwrap();
}

#[test]
fn datagrams_leave_a_pod_when_another_takes_them_and_not_before() {
    let mut lab = LabOptions::default().open();
    let _bridge = lab.start_impatient_bridge().unwrap();
    lab.leave_echo_to("echo-1");
    let socket = lab.office_pc().udp_from(FREE_PORT, ECHO_SERVICE).unwrap();
    datagram(&socket, b"before").unwrap();
    lab.cluster_mut()
        .service_mut("echo")
        .endpoint_mut("echo-1")
        .ready = false;
    lab.publish().unwrap();
    let end = Instant::now() + PAST_GRACE;
    while Instant::now() < end {
        datagram(&socket, b"nobody else is there").unwrap();
        sleep(Duration::from_millis(500));
    }
    let before = lab.pod("echo-2").peers(Protocol::Udp, port::ECHO).len();
    lab.leave_echo_to("echo-2");
    eventually(Duration::from_secs(5), "the other pod has it", || {
        let _ = datagram(&socket, b"moved");
        lab.pod("echo-2").peers(Protocol::Udp, port::ECHO).len() > before
    });
}

#[test]
fn sessions_outlive_a_new_source_of_the_route_to_their_pods() {
    let lab = LabOptions::default().open();
    let bridge = lab.start_impatient_bridge().unwrap();
    let pod = lab.at("echo-1", port::ECHO);
    let mut session = lab.office_pc().tcp(pod).unwrap();
    exchange(&mut session, b"before").unwrap();
    let nat = |client: SocketAddrV4| {
        let flow = bridge.only_flow(client, |flow| flow["client"] == client.to_string());
        flow["nat"].as_str().unwrap().to_owned()
    };
    let before = nat(local(&session));
    // Another address that pods know the way to becomes the preferred one.
    let node = lab.node_30();
    let [device, more] = if before.starts_with("10.244.") {
        ["flannel.1", "10.244.30.250"]
    } else {
        ["eth0", "10.60.20.250"]
    };
    node.run_line(&format!("ip address add {more}/32 dev {device}"))
        .unwrap();
    let routes = node.run_line("ip route show 10.244.1.0/24").unwrap();
    let route = routes
        .lines()
        .next()
        .unwrap()
        .split(" src ")
        .next()
        .unwrap()
        .trim();
    node.run_line(&format!("ip route replace {route} src {more}"))
        .unwrap();
    let mut other = lab.office_pc().tcp(pod).unwrap();
    eventually(
        Duration::from_secs(5),
        "new flows have the new address",
        || {
            other = lab.office_pc().tcp(pod).unwrap();
            nat(local(&other)).starts_with(more)
        },
    );
    let end = Instant::now() + 2 * PAST_GRACE;
    while Instant::now() < end {
        exchange(&mut session, b"with the old address").unwrap();
        sleep(Duration::from_millis(500));
    }
    assert_eq!(nat(local(&session)), before);
}

#[test]
fn an_idle_session_is_kept_where_a_thousand_exchanges_need_room() {
    let lab = LabOptions::default().open();
    let _bridge = lab.start_bridge(&["--flow-capacity", "1024"]).unwrap();
    let pc = lab.office_pc();
    let mut session = pc.tcp(ECHO_SERVICE).unwrap();
    exchange(&mut session, b"before").unwrap();
    sleep(Duration::from_secs(2));
    let mut refused = 0;
    for _ in 0..1_080 {
        refused += usize::from(pc.udp_echo(ECHO_SERVICE, b"an exchange").is_err());
    }
    eventually(Duration::from_secs(5), "there is room again", || {
        pc.udp_echo(ECHO_SERVICE, b"one more").is_ok()
    });
    exchange(&mut session, b"after").unwrap();
    assert!(refused < 100, "{refused} refused");
}

#[test]
fn a_session_goes_on_when_the_tables_are_lost_as_far_as_that_can_be() {
    let mut lab = LabOptions::default().open();
    let mut bridge = lab.start_impatient_bridge().unwrap();
    let pc = lab.office_pc();
    let mut direct = pc
        .tcp_from(FREE_PORT, lab.at("echo-1", port::ECHO))
        .unwrap();
    exchange(&mut direct, b"before").unwrap();
    lab.leave_echo_to("echo-2");
    let mut only_pod = lab
        .office_pc()
        .tcp_from(FREE_PORT + 1, ECHO_SERVICE)
        .unwrap();
    exchange(&mut only_pod, b"before").unwrap();
    // As a reboot of the node does.
    bridge.stop().unwrap();
    bridge.uninstall().unwrap();
    let bridge = lab.start_impatient_bridge().unwrap();
    exchange(&mut direct, b"after").unwrap();
    exchange(&mut only_pod, b"after").unwrap();
    let status = bridge.status().unwrap();
    assert_eq!(status["traffic"]["flow-adopted"]["packets"], 2, "{status}");
}

fn local(stream: &TcpStream) -> SocketAddrV4 {
    match stream.local_addr().unwrap() {
        std::net::SocketAddr::V4(address) => address,
        std::net::SocketAddr::V6(_) => unreachable!("the lab is IPv4"),
    }
}
