//! The lab itself: it stands for the real thing only if the recipe of old works in it as it does in
//! offices today, and if nothing gets through where nobody lets it.

use std::net::SocketAddrV4;

use lab::dns::DnsPlan;
use lab::plan::{self, port};
use lab::{Firewall, Lab, LabOptions};

fn open(firewall: Firewall) -> Lab {
    Lab::open(LabOptions {
        firewall,
        dns: DnsPlan::ThroughNode,
        ..LabOptions::default()
    })
    .unwrap()
}

#[test]
fn lab_works_with_the_recipe() {
    let lab = open(Firewall::Open);
    lab.apply_recipe().unwrap();
    let pc = lab.office_pc();

    for pod in ["echo-0", "echo-1", "echo-2"] {
        let address = lab.pod(pod).address();
        pc.ping(address).unwrap();
        pc.tcp_echo(SocketAddrV4::new(address, port::ECHO), b"over TCP")
            .unwrap();
        pc.udp_echo(SocketAddrV4::new(address, port::ECHO), b"over UDP")
            .unwrap();
    }
    for _ in 0..8 {
        pc.tcp_echo(SocketAddrV4::new(plan::ECHO, port::ECHO), b"to the service")
            .unwrap();
    }
    let page = pc
        .http_get(SocketAddrV4::new(plan::WEB, port::HTTP_SERVICE), "/")
        .unwrap();
    assert!(page.body.starts_with("web-0 greets"), "{}", page.body);

    let name = "MySQL.Project-A-Dev1.svc.cluster.local";
    assert_eq!(pc.resolve(plan::ROUTER_LAN, name).unwrap(), plan::MYSQL);
    let mut session = pc
        .mysql(SocketAddrV4::new(plan::MYSQL, port::MYSQL))
        .unwrap();
    assert_eq!(session.version, "8.0.36");
    assert_eq!(session.query("SELECT 42").unwrap(), "42");
}

#[test]
fn nothing_gets_through_a_node_that_is_no_router() {
    let lab = open(Firewall::NotARouter);
    let pc = lab.office_pc();
    let pod = lab.pod("echo-1").address();
    assert!(pc.ping(pod).is_err());
    assert!(pc.ping(lab.pod("echo-0").address()).is_err());
    assert!(pc.tcp(SocketAddrV4::new(plan::ECHO, port::ECHO)).is_err());
    pc.ping(plan::NODE_30).unwrap();
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
