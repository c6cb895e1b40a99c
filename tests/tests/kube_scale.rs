//! Scale: ten thousand services, hundreds of changes, ten thousand flows.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use lab::cluster::{Endpoint, Protocol, Service, ServicePort};
use lab::host::datagram;
use lab::plan::port;
use lab::{Bridge, LabOptions, eventually, objects};

#[test]
fn a_change_is_in_the_kernel_within_a_second_among_a_thousand_services() {
    const CHANGES: u16 = 200;
    let lab = LabOptions::default_variant().with_api_server().open();
    let services: Vec<Service> = (0..1_000).map(|number| service(number, 2)).collect();
    lab.api().seed(&services).unwrap();
    let bridge = lab.start_bridge(&[]).unwrap();
    eventually(Duration::from_secs(20), "all services are known", || {
        backends_in_kernel(&bridge, &services[999]) == Some(2)
    });
    let admin = lab.api().admin();
    let mut latencies: Vec<Duration> = (0..CHANGES)
        .map(|change| {
            // A different service each time, spread over the table.
            let changed = service(change.wrapping_mul(37) % 1_000, 3);
            let slice = objects::endpoint_slice(&changed);
            let begun = Instant::now();
            admin.apply(&slice).unwrap();
            while backends_in_kernel(&bridge, &changed) != Some(3) {
                assert!(begun.elapsed() < Duration::from_secs(10), "change {change}");
            }
            begun.elapsed()
        })
        .collect();
    latencies.sort();
    let [median, p99] = [CHANGES / 2, CHANGES * 99 / 100].map(|rank| latencies[usize::from(rank)]);
    println!("from the API to the kernel, {CHANGES} changes: p50 {median:?}, p99 {p99:?}");
    assert!(p99 < Duration::from_secs(1), "p99 is {p99:?}");
}

#[test]
fn ten_thousand_services_are_loaded_in_seconds_and_a_resync_changes_nothing() {
    const SERVICES: u16 = 10_000;
    /// Wall clock, including the API server and other tests.
    const PATIENCE: Duration = Duration::from_mins(1);
    /// CPU time, in a build for development.
    const BOUND: Duration = Duration::from_secs(10);
    let mut lab = LabOptions::default_variant().with_api_server().open();
    let services: Vec<Service> = (0..SERVICES).map(|number| service(number, 10)).collect();
    lab.api().seed(&services).unwrap();
    let listed = lab
        .api()
        .admin()
        .get("/api/v1/namespaces/load/services?resourceVersion=0&limit=1")
        .unwrap();
    assert!(listed["items"].is_array());
    let arguments = Bridge::default_arguments(&lab);
    let begun = Instant::now();
    let mut bridge = Bridge::start(&lab, &arguments).unwrap();
    let loaded = |bridge: &Bridge| {
        bridge.status().is_ok_and(|status| {
            status["services"].as_u64() >= Some(u64::from(SERVICES))
                && status["cluster_state"]["connected"] == true
        })
    };
    eventually(PATIENCE, "all services are loaded", || loaded(&bridge));
    let spent = bridge.cpu_time().unwrap();
    println!(
        "{SERVICES} services with 10 endpoints each: loaded {:?} after the start, by {spent:?} on a CPU",
        begun.elapsed()
    );
    assert!(spent < BOUND, "{spent:?}");
    assert_eq!(backends_in_kernel(&bridge, &services[9_999]), Some(10));

    let before = dump(&bridge);
    let sizes = before.each_ref().map(Vec::len);
    let backends = usize::from(SERVICES) * 10;
    assert!(
        sizes[0] >= 2 * usize::from(SERVICES) && sizes[1] >= backends,
        "{sizes:?}"
    );
    bridge.stop().unwrap();
    bridge.leave_installed();
    let begun = Instant::now();
    let successor = Bridge::start(&lab, &arguments).unwrap();
    eventually(PATIENCE, "the successor is in touch", || {
        let status = successor.status().unwrap();
        status["pid"].as_u64() == Some(successor.id().into())
            && status["cluster_state"]["synced"] == true
    });
    println!(
        "a successor is in touch {:?} after its start",
        begun.elapsed()
    );
    let after = dump(&successor);
    assert!(
        after == before,
        "a restart of the bridge changes the tables"
    );

    let begun = Instant::now();
    lab.api_mut().restart().unwrap();
    println!("the API server is back after {:?}", begun.elapsed());
    let repaired = lab
        .api()
        .log()
        .matches("is not allocated; repairing")
        .count();
    assert_eq!(
        repaired, 0,
        "seeded services whose addresses it did not know"
    );
    eventually(
        Duration::from_secs(40),
        "the bridge is in touch again",
        || successor.status().unwrap()["cluster_state"]["connected"] == true,
    );
    let after = dump(&successor);
    assert!(
        after == before,
        "a restart of the API server changes the tables"
    );
}

#[test]
fn ten_thousand_flows_are_spread_evenly_over_ten_backends() {
    const FLOWS: u16 = 10_000;
    let mut lab = LabOptions::default_variant().with_api_server().open();
    // Ten addresses of two pods, each with an echo of its own that counts.
    let stop = Arc::new(AtomicBool::new(false));
    let mut counts = BTreeMap::new();
    let mut endpoints = Vec::new();
    let mut threads = Vec::new();
    for (pod, third) in [("echo-1", 1), ("echo-2", 2)] {
        for last in 100..105 {
            let address = Ipv4Addr::new(10, 244, third, last);
            let host = lab.pod(pod);
            host.run_line(&format!("ip addr add {address}/32 dev eth0"))
                .unwrap();
            let socket = host
                .run_in(|| Ok(UdpSocket::bind((address, 9_000))?))
                .unwrap();
            socket
                .set_read_timeout(Some(Duration::from_millis(100)))
                .unwrap();
            let count = Arc::new(AtomicU32::new(0));
            counts.insert(address, count.clone());
            let stop = stop.clone();
            threads.push(std::thread::spawn(move || {
                let mut buffer = [0; 64];
                while !stop.load(Ordering::Relaxed) {
                    if let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                        count.fetch_add(1, Ordering::Relaxed);
                        let _ = socket.send_to(&buffer[..length], peer);
                    }
                }
            }));
            endpoints.push(endpoint(address));
        }
    }
    let service = Service {
        namespace: lab::cluster::PROJECT.to_owned(),
        name: "ten".to_owned(),
        vip: Ipv4Addr::new(10, 96, 20, 60),
        ports: vec![ServicePort {
            name: "echo".to_owned(),
            protocol: Protocol::Udp,
            port: port::ECHO,
            target: 9_000,
        }],
        endpoints,
        session_affinity: None,
    };
    let vip = SocketAddrV4::new(service.vip, port::ECHO);
    lab.cluster_mut().services.push(service);
    lab.publish().unwrap();
    let _bridge = lab.start_bridge(&[]).unwrap();
    for number in 0..FLOWS {
        let socket = lab.office_pc().udp_from(20_000 + number, vip).unwrap();
        datagram(&socket, b"count me").unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().unwrap();
    }
    let counts: Vec<u32> = counts
        .values()
        .map(|count| count.load(Ordering::Relaxed))
        .collect();
    println!("flows at each backend: {counts:?}");
    assert_eq!(counts.iter().sum::<u32>(), u32::from(FLOWS));
    for count in counts {
        assert!((850..=1_150).contains(&count), "{count} is not 1000 ± 15 %");
    }
}

fn endpoint(address: Ipv4Addr) -> Endpoint {
    Endpoint {
        pod: format!("load-{}", address.to_bits()),
        node: "worker-1".to_owned(),
        address,
        ready: true,
        terminating: false,
    }
}

/// The `number`-th of many services, with this many backends that nothing runs on.
fn service(number: u16, backends: u8) -> Service {
    let [high, low] = number.to_be_bytes();
    Service {
        namespace: "load".to_owned(),
        name: format!("load-{number}"),
        vip: Ipv4Addr::new(10, 100, high, low),
        ports: vec![ServicePort {
            name: "http".to_owned(),
            protocol: Protocol::Tcp,
            port: 80,
            target: 8080,
        }],
        endpoints: (0..backends)
            .map(|slot| endpoint(Ipv4Addr::new(10, 244, 128 | (low % 100), 10 + slot)))
            .collect(),
        session_affinity: None,
    }
}

/// How many backends the kernel has for port 80 of this service. The key is `ServiceKey`: address,
/// port in host order, protocol, padding.
fn backends_in_kernel(bridge: &Bridge, service: &Service) -> Option<u64> {
    let mut key = service.vip.octets().to_vec();
    key.extend(80_u16.to_ne_bytes());
    key.extend([6, 0]);
    let value = bridge.client().lookup("services", &key).unwrap()?;
    value["backend_count"].as_u64()
}

/// What the kernel has of services and their backends.
fn dump(bridge: &Bridge) -> [Vec<String>; 2] {
    ["services", "backends"].map(|table| bridge.client().dump(table).unwrap())
}
