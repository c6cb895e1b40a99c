//! Periodic work: garbage collection, eviction from full tables, and repair of entries and attachments.

use std::fs;
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use lab::bridge::refused;
use lab::cluster::Protocol;
use lab::eventually;
use lab::host::{datagram, exchange};
use lab::plan::{ECHO_PODS, ECHO_SERVICE, port};
use lab::wait::PERIODIC;
use lab::{Bridge, Lab, LabOptions};

#[test]
fn flows_that_have_run_out_are_swept_and_others_stay() {
    let lab = LabOptions::default().open();
    let bridge = start_with_file(&lab, "timeouts: {icmp: 1, udp: 1, udpUnreplied: 1}\n");
    let mut session = lab.office_pc().tcp(ECHO_SERVICE).unwrap();
    exchange(&mut session, b"stays").unwrap();
    lab.office_pc().ping(lab.pod("echo-1").address()).unwrap();
    lab.office_pc().udp_echo(ECHO_SERVICE, b"goes").unwrap();
    assert!(bridge.flows().unwrap().len() >= 3);
    eventually(PERIODIC, "only the TCP flow is left", || {
        let flows = bridge.flows().unwrap();
        flows.len() == 1 && flows[0]["protocol"] == "tcp"
    });
    exchange(&mut session, b"still there").unwrap();
    let replies = bridge.client().keys("replies").unwrap();
    assert_eq!(replies.len(), 1, "the other half is swept too");
}

#[test]
fn a_table_full_of_half_open_flows_makes_room_and_keeps_sessions() {
    let lab = LabOptions::default().open();
    let bridge = lab.start_bridge(&["--flow-capacity", "1024"]).unwrap();
    let pc = lab.office_pc();
    let mut session = pc.tcp(ECHO_SERVICE).unwrap();
    exchange(&mut session, b"before").unwrap();
    // Nobody answers on this port of the pod: unreplied flows, more than fit.
    pc.run_in(|| {
        let silent = SocketAddrV4::new(lab.pod("echo-1").address(), 9);
        for _ in 0..1_500 {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
            // Once the pod has said that the port is closed, sending fails; the flow is there all the same.
            let _ = socket.send_to(b"x", silent);
        }
        Ok(())
    })
    .unwrap();
    eventually(PERIODIC, "a new connection gets through", || {
        pc.tcp_echo(lab.at("echo-2", port::ECHO), b"new").is_ok()
    });
    exchange(&mut session, b"after").unwrap();
    let status = bridge.status().unwrap();
    let refused = status["drops"]["table-full"].as_u64().unwrap();
    assert!(refused > 0, "the table was never full: {status}");
    assert!(
        bridge.log().contains("the flow tables are full"),
        "{}",
        bridge.log()
    );
}

#[test]
fn a_flow_whose_reply_entry_is_lost_goes_on() {
    let lab = LabOptions::default().open();
    let bridge = lab.start_bridge(&[]).unwrap();
    let mut session = lab.office_pc().tcp(ECHO_SERVICE).unwrap();
    exchange(&mut session, b"before").unwrap();
    // The reply entry is checked when the client sends after a pause: the pod's answer must not come first.
    std::thread::sleep(Duration::from_secs(9));
    bridge.client().delete_all("replies").unwrap();
    exchange(&mut session, b"after").unwrap();
    assert_eq!(bridge.client().keys("replies").unwrap().len(), 1);
}

#[test]
fn a_session_whose_forward_entry_is_lost_is_reset_at_once() {
    let lab = LabOptions::default().open();
    let bridge = lab.start_bridge(&[]).unwrap();
    let mut session = lab.office_pc().tcp(ECHO_SERVICE).unwrap();
    exchange(&mut session, b"before").unwrap();
    bridge.client().delete_all("flows").unwrap();
    let start = Instant::now();
    let error = exchange(&mut session, b"after").unwrap_err();
    assert!(format!("{error:#}").contains("reset"), "{error:#}");
    assert!(start.elapsed() < Duration::from_secs(1));
    lab.office_pc().tcp_echo(ECHO_SERVICE, b"again").unwrap();
}

#[test]
fn a_link_that_somebody_removed_is_put_back() {
    let lab = LabOptions::default().open();
    let bridge = lab.start_bridge(&[]).unwrap();
    for entry in fs::read_dir(lab.pin_path().join("links")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    eventually(PERIODIC, "every link is back", || {
        bridge.status().unwrap()["ready"] == true
    });
    lab.office_pc().tcp_echo(ECHO_SERVICE, b"mended").unwrap();
}

#[test]
fn a_network_of_the_cluster_that_claims_the_office_is_left_out_and_the_rest_followed() {
    let mut lab = LabOptions::default().open();
    let mut bridge = lab.start_bridge(&[]).unwrap();
    let node =
        "apiVersion: v1\nkind: Node\nmetadata: {name: odd}\nspec: {podCIDRs: [192.168.0.0/22]}\n";
    fs::write(lab.manifests().join("odd.yaml"), node).unwrap();
    let problems = |bridge: &Bridge| bridge.status().unwrap()["problems"].to_string();
    eventually(PERIODIC, "the contradiction is told", || {
        problems(&bridge).contains("left out") && problems(&bridge).contains("Node odd")
    });
    // Nor may the next periodic check apply it.
    std::thread::sleep(Duration::from_secs(11));
    lab.office_pc().tcp_echo(ECHO_SERVICE, b"still").unwrap();
    let status = bridge.status().unwrap();
    assert_eq!(status["running"], true, "{}", bridge.log());
    assert!(
        !status["cidrs"]
            .as_array()
            .unwrap()
            .iter()
            .any(|cidr| { cidr["cidr"] == "192.168.0.0/22" && cidr["kind"] == "pod" })
    );
    lab.cluster_mut().service_mut("echo").scale_to(&[]);
    lab.publish().unwrap();
    fs::write(lab.manifests().join("odd.yaml"), node).unwrap();
    eventually(PERIODIC, "services are followed all the same", || {
        lab.office_pc()
            .tcp_echo(ECHO_SERVICE, b"nobody there?")
            .is_err()
    });
    bridge.stop().unwrap();
}

#[test]
fn a_node_that_uses_every_port_itself_is_told_so() {
    let lab = LabOptions::default().open();
    let range = ("net/ipv4/ip_local_port_range", "1024 65535");
    lab.node_30().namespace().sysctl(&[range]).unwrap();
    let arguments = Bridge::default_arguments(&lab);
    let message = refused(&Bridge::command(&lab, &arguments).unwrap(), 1);
    assert!(message.contains("no port is left for NAT"), "{message}");
    assert!(!lab.pin_path().exists(), "something is left pinned");
}

#[test]
fn a_sender_that_never_pauses_is_moved_off_a_backend_that_is_gone() {
    let mut lab = LabOptions::default().open();
    let _bridge = lab.start_bridge(&[]).unwrap();
    let socket = lab.office_pc().udp_from(0, ECHO_SERVICE).unwrap();
    datagram(&socket, b"first").unwrap();
    let seen_by = |lab: &Lab, pod: &str| lab.pod(pod).peers(Protocol::Udp, port::ECHO).len();
    let first = ECHO_PODS
        .into_iter()
        .find(|pod| seen_by(&lab, pod) > 0)
        .unwrap();
    for endpoint in &mut lab.cluster_mut().service_mut("echo").endpoints {
        endpoint.ready = endpoint.pod != first;
    }
    lab.publish().unwrap();
    eventually(PERIODIC, "another pod gets the datagrams", || {
        let _ = datagram(&socket, b"more");
        ECHO_PODS
            .into_iter()
            .any(|pod| pod != first && seen_by(&lab, pod) > 0)
    });
}

fn start_with_file(lab: &Lab, more: &str) -> Bridge {
    let file = lab.directory().join("gc.yaml");
    let text = format!(
        "uplink: eth0\nofficeCidr: [192.168.0.0/22]\ncluster: manifests={}\ndatapath: {}\n{more}",
        lab.manifests().display(),
        lab.options().datapath
    );
    fs::write(&file, text).unwrap();
    Bridge::start(lab, &["--config".to_owned(), file.display().to_string()]).unwrap()
}
