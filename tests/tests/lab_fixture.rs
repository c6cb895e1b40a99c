//! The lab itself: forwarding by `MASQUERADE` rules works in it as in a real office, a node that does not forward lets
//! nothing through, and a lab leaves nothing behind.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use lab::dns::DnsPlan;
use lab::plan::{self, ECHO_PODS, ECHO_SERVICE, LAN_MTU, MYSQL_SERVICE, WEB_SERVICE, port};
use lab::{Datapath, Firewall, Lab, LabOptions, Overlay, Variant, serve};

#[test]
fn lab_works_with_the_recipe() {
    let lab = open(Firewall::Open);
    lab.apply_recipe().unwrap();
    let pc = lab.office_pc();

    for pod in ECHO_PODS {
        let address = lab.pod(pod).address();
        pc.ping(address).unwrap();
        pc.tcp_echo(SocketAddrV4::new(address, port::ECHO), b"over TCP")
            .unwrap();
        pc.udp_echo(SocketAddrV4::new(address, port::ECHO), b"over UDP")
            .unwrap();
    }
    for _ in 0..8 {
        pc.tcp_echo(ECHO_SERVICE, b"to the service").unwrap();
    }
    let page = pc.http_get(WEB_SERVICE, "/").unwrap();
    assert!(page.body.starts_with("web-0 greets"), "{}", page.body);

    let name = "MySQL.Project-A-Dev1.svc.cluster.local";
    assert_eq!(pc.resolve(plan::ROUTER_LAN, name).unwrap(), plan::MYSQL);
    let mut session = pc.mysql(MYSQL_SERVICE).unwrap();
    assert_eq!(session.version, "8.0.36");
    assert_eq!(session.query("SELECT 42").unwrap(), "42");
}

#[test]
fn the_recipe_works_over_host_gw_and_with_a_network_between_the_nodes() {
    for (overlay, second_nic) in [
        (Overlay::HostGw, false),
        (Overlay::HostGw, true),
        (Overlay::Vxlan, true),
    ] {
        let firewall = Firewall::Open;
        let lab = LabOptions {
            overlay,
            second_nic,
            firewall,
            ..LabOptions::default_variant()
        }
        .open();
        lab.apply_recipe().unwrap();
        for pod in ECHO_PODS {
            lab.office_pc()
                .tcp_echo(lab.at(pod, port::ECHO), b"over TCP")
                .unwrap();
        }
        lab.office_pc().tcp_echo(ECHO_SERVICE, b"service").unwrap();
    }
}

#[test]
fn nothing_gets_through_a_node_that_is_no_router() {
    let lab = open(Firewall::NotARouter);
    let pc = lab.office_pc();
    let pod = lab.pod("echo-1").address();
    assert!(pc.is_cut_off_from(SocketAddrV4::new(pod, port::ECHO)));
    assert!(pc.is_cut_off_from(lab.at("echo-0", port::ECHO)));
    assert!(pc.is_cut_off_from(ECHO_SERVICE));
    pc.ping(plan::NODE_30).unwrap();
}

#[test]
fn in_a_lab_for_xdp_the_node_gets_whole_packets_only() {
    for (datapath, expected) in [(Datapath::Xdp, true), (Datapath::Tc, false)] {
        let lab = LabOptions::of(Variant {
            datapath,
            ..Variant::DEFAULT
        })
        .open();
        let node = lab.node_30();
        let bulk = node.serve_tcp(port::BULK, serve::bulk()).unwrap();
        for sender in [lab.office_pc(), lab.worker_1()] {
            let filter = format!("tcp and src host {}", sender.address());
            let capture = node.capture("eth0", &filter).unwrap();
            let target = SocketAddrV4::new(plan::NODE_30, bulk);
            sender.bulk(target, 1 << 20, 0).unwrap();
            let packets = capture.stop().unwrap();
            assert!(packets.len() > 10, "{} packets", packets.len());
            let all_whole = packets.iter().all(|packet| is_whole(&packet.frame));
            assert_eq!(all_whole, expected, "from {sender:?} with {datapath}");
        }
    }
}

#[test]
fn a_closed_lab_leaves_nothing_behind() {
    let lab = open(Firewall::Open);
    let directory = lab.directory().to_owned();
    let namespaces: Vec<_> = lab
        .hosts()
        .iter()
        .map(|host| host.namespace().path())
        .collect();
    assert!(directory.exists() && namespaces.iter().all(|path| path.exists()));
    drop(lab);
    assert!(!directory.exists());
    assert!(namespaces.iter().all(|path| !path.exists()));
}

/// Not a test: what [`a_killed_run_is_swept_away_by_the_next`] runs and kills.
#[test]
#[ignore = "waits to be killed"]
fn a_run_that_is_killed() {
    let lab = open(Firewall::Open);
    println!("lab at {}", lab.directory().display());
    std::thread::sleep(Duration::from_mins(1));
}

#[test]
fn a_killed_run_is_swept_away_by_the_next() {
    let mut run = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "a_run_that_is_killed",
            "--ignored",
            "--nocapture",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let directory = BufReader::new(run.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok)
        .find_map(|line| Some(PathBuf::from(line.split_once("lab at ")?.1)))
        .unwrap();
    let namespaces = || -> Vec<PathBuf> {
        let prefix = format!("{}-", directory.file_name().unwrap().display());
        let all = std::fs::read_dir("/run/netns").unwrap().flatten();
        all.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
            .map(|entry| entry.path())
            .collect()
    };
    assert!(namespaces().len() > 10, "{:?}", namespaces());
    run.kill().unwrap();
    run.wait().unwrap();
    assert!(directory.exists());

    lab::run_dir::sweep_dead_runs().unwrap();
    assert!(!directory.exists());
    assert_eq!(namespaces(), Vec::<PathBuf>::new());
}

fn open(firewall: Firewall) -> Lab {
    LabOptions {
        firewall,
        dns: DnsPlan::ThroughNode,
        ..LabOptions::default_variant()
    }
    .open()
}

/// Whether a frame is what a real NIC would hand to XDP: no larger than the wire takes, with a finished checksum.
fn is_whole(frame: &[u8]) -> bool {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) = (packet.net, packet.transport)
    else {
        panic!("no TCP: {frame:02x?}");
    };
    let sum = tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination());
    frame.len() <= 14 + LAN_MTU as usize && sum == Ok(tcp.checksum())
}
