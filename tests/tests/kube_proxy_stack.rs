//! The stack path beside the real kube-proxy, which translates the services that the bridge doesn't know.

use std::net::SocketAddrV4;

use lab::host::{datagram, exchange};
use lab::plan::{ECHO_SERVICE, FREE_PORT, MYSQL_SERVICE};
use lab::{Bridge, Firewall, LabOptions};

#[test]
fn services_of_the_real_kube_proxy_are_translated_at_egress() {
    services_work(false, "stack");
}

#[test]
fn services_that_the_real_kube_proxy_masquerades_are_left_to_it() {
    services_work(true, "kernel");
}

fn services_work(masquerade: bool, layer: &str) {
    let lab = LabOptions {
        api_server: true,
        kube_proxy: false,
        masquerade,
        service_masquerade: masquerade,
        firewall: Firewall::Open,
        ..LabOptions::default_variant()
    }
    .open();
    let _proxy = lab.start_kube_proxy("node-30").unwrap();
    let bridge = Bridge::start(&lab, &Bridge::static_arguments("auto")).unwrap();
    let pc = lab.office_pc();
    for (index, client_port) in (FREE_PORT..).take(12).enumerate() {
        let mut tcp = pc.tcp_from(client_port, ECHO_SERVICE).unwrap();
        exchange(&mut tcp, b"over TCP").unwrap();
        let udp = pc.udp_from(client_port, ECHO_SERVICE).unwrap();
        datagram(&udp, b"over UDP").unwrap();
        let client = SocketAddrV4::new(pc.address(), client_port).to_string();
        let flows = bridge.flows().unwrap();
        let own: Vec<_> = flows
            .iter()
            .filter(|flow| flow["client"] == client.as_str())
            .collect();
        assert!(
            own.iter().all(|flow| flow["layer"] == layer),
            "connection {index}: {own:?}"
        );
        // Bridge netfilter has undone its masquerading when an answer of the node's own pod comes to `cni0`, so that
        // it looks like a pod's own and is noted.
        let to_service = own
            .iter()
            .filter(|flow| flow["destination"] == ECHO_SERVICE.to_string());
        assert_eq!(to_service.count(), 2, "connection {index}: {own:?}");
    }
    let mut session = pc.mysql(MYSQL_SERVICE).unwrap();
    assert_eq!(session.query("SELECT 42").unwrap(), "42");
}
