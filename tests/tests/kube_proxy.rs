//! The real kube-proxy, fed by the same API server as the bridge.

use std::net::SocketAddrV4;

use lab::{Lab, LabOptions, plan};
use plan::port;

#[test]
fn the_real_kube_proxy_translates_what_the_api_server_serves() {
    let lab = Lab::open(LabOptions {
        api_server: true,
        kube_proxy: false,
        ..LabOptions::default()
    })
    .unwrap();
    let _proxy = lab.start_kube_proxy("node-30").unwrap();
    let vip = SocketAddrV4::new(plan::ECHO, port::ECHO);
    lab.node_30().tcp_echo(vip, b"by kube-proxy").unwrap();
    let api = SocketAddrV4::new(plan::KUBERNETES, 443);
    lab.node_30().tcp(api).unwrap();
}
