//! A developer runs one service on an office host, registers it in the cluster, and debugs it against the services there.

use std::net::SocketAddrV4;

use lab::LabOptions;
use lab::cluster::Protocol;
use lab::plan::{self, MYSQL_NAME, port};
use lab::serve::http::{self, Response};

#[test]
fn a_service_on_the_developers_machine_becomes_part_of_the_cluster() {
    let lab = LabOptions::default().open();
    let _bridge = lab.start_bridge(&[]).unwrap();
    let pc = lab.office_pc();

    let answer = |_, peer| Response::ok(format!("orders is well, {peer}\n"));
    let own = SocketAddrV4::new(
        pc.address(),
        pc.serve_tcp(0, http::handler(answer)).unwrap(),
    );

    // It finds the registry by name and registers its office address.
    let name = "registry.Project-A-Dev1.svc.cluster.local";
    let registry = pc.resolve(plan::ROUTER_LAN, name).unwrap();
    assert_eq!(registry, plan::REGISTRY);
    let registry = SocketAddrV4::new(registry, port::REGISTRY);
    let response = pc
        .http(registry, "PUT", "/apps/orders", &own.to_string())
        .unwrap();
    assert_eq!(response.status, 200, "{response:?}");
    let listed = pc.http_get(registry, "/apps").unwrap();
    assert_eq!(listed.body.trim(), format!("orders {own}"));

    // It calls pods, by address and by service.
    let page = pc.http_get(lab.at("web-0", port::HTTP), "/").unwrap();
    assert!(page.body.starts_with("web-0 greets"), "{page:?}");
    let mysql = pc.resolve(plan::ROUTER_LAN, MYSQL_NAME).unwrap();
    let mut session = pc.mysql(SocketAddrV4::new(mysql, port::MYSQL)).unwrap();
    assert_eq!(session.query("SELECT 7").unwrap(), "7");

    // And it is called back by a pod, over the worker's default route.
    let called = pc.http(registry, "POST", "/apps/orders/check", "").unwrap();
    assert_eq!(called.status, 200, "{called:?}");
    assert!(called.body.starts_with("orders is well"), "{called:?}");
    let callers = pc.peers(Protocol::Tcp, own.port());
    let callers: Vec<_> = callers.iter().map(SocketAddrV4::ip).collect();
    assert_eq!(callers, [&lab.worker_2().address()]);

    // The database session outlives all of that.
    assert_eq!(session.query("SELECT 8").unwrap(), "8");
}
