//! What becomes of session affinity when a service changes, in the real tables. Needs root, and BPF; where either is
//! missing the test fails.

mod pinned;

use std::collections::BTreeMap;

use bridge_common::abi::{
    Affinity, AffinityKey, Backend, NatPort, Seconds, ServiceKey, Settings, capacity, name,
};
use bridge_common::packet::parse::TCP;
use bridge_userspace::datapath::Datapath;
use bridge_userspace::kernel::clock;
use bridge_userspace::maps::Tables;
use bridge_userspace::plan::map_state::{MapState, ServiceEntry};
use bridge_userspace::plan::next_hops::NextHops;
use bridge_userspace::reconcile::Reconciler;

use self::pinned::Pinned;

const SERVICE: ServiceKey = ServiceKey {
    vip: [10, 96, 20, 16],
    port: 80,
    protocol: TCP,
    pad: 0,
};

fn backend(last: u8) -> Backend {
    Backend {
        address: [10, 244, 1, last],
        port: 8080,
        pad: [0; 2],
    }
}

fn map_state(service: Option<(&[u8], Seconds)>) -> MapState {
    let entry = |(lasts, affinity_seconds): (&[u8], Seconds)| ServiceEntry::Port {
        backends: lasts.iter().copied().map(backend).collect(),
        affinity_seconds,
    };
    MapState {
        link_addresses: BTreeMap::new(),
        office: BTreeMap::new(),
        cluster: BTreeMap::new(),
        routes: BTreeMap::new(),
        next_hops: NextHops::default(),
        services: service
            .map(|service| (SERVICE, entry(service)))
            .into_iter()
            .collect(),
        nat_ports: vec![NatPort::default(); capacity::NAT_PORTS],
        settings: Settings::default(),
    }
}

/// Which of three clients, who each went to the backend of their own number, still have their affinity after a
/// service with backends 1 to 3 has become `changed`.
fn remembered(test: &str, changed: Option<(&[u8], Seconds)>) -> Vec<u8> {
    let pinned = Pinned::new(test);
    let pins = pinned.pins();
    let _datapath = Datapath::load(pins, 64).expect("root and a bpf filesystem are needed");
    let tables = Tables::open(pins).unwrap();
    let mut reconciler = Reconciler::open(&tables).unwrap();
    let first = map_state(Some((&[1, 2, 3], 600)));
    reconciler.apply(&first, clock::now()).unwrap();
    let mut affinity = tables
        .hash::<AffinityKey, Affinity>(name::AFFINITY)
        .unwrap();
    for last in 1..=3 {
        let key = AffinityKey {
            client: [192, 168, 0, last],
            service: SERVICE,
        };
        let value = Affinity {
            backend: backend(last),
            last_used: 1,
        };
        affinity.insert(key, value, 0).unwrap();
    }
    assert!(reconciler.apply(&first, clock::now()).unwrap().is_empty());
    reconciler.apply(&map_state(changed), clock::now()).unwrap();
    let mut left: Vec<u8> = affinity
        .iter()
        .map(|entry| entry.unwrap().0.client[3])
        .collect();
    left.sort_unstable();
    left
}

#[test]
fn clients_of_a_lost_backend_alone_are_forgotten() {
    assert_eq!(remembered("af-lost", Some((&[1, 3, 4], 600))), [1, 3]);
}

#[test]
fn all_are_forgotten_with_the_service_or_its_affinity() {
    assert!(remembered("af-gone", None).is_empty());
    assert!(remembered("af-off", Some((&[1, 2, 3], 0))).is_empty());
}

#[test]
fn a_shorter_timeout_or_more_backends_forget_nobody() {
    assert_eq!(remembered("af-more", Some((&[1, 2, 3, 4], 60))), [1, 2, 3]);
}
