//! How next hops get into the real tables, and out of them. Needs root, and BPF; where either is missing the test
//! fails.

mod pinned;

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::Duration;

use bridge_common::abi::{
    FastPath, Ipv4, NatPort, NextHop, Route, Settings, Vtep, XdpPort, capacity, name,
};
use bridge_userspace::datapath::Datapath;
use bridge_userspace::kernel::clock;
use bridge_userspace::maps::{Tables, prefix_key};
use bridge_userspace::plan::map_state::MapState;
use bridge_userspace::plan::next_hops::{Hop, NextHops};
use bridge_userspace::reconcile::{Changes, Reconciler};
use ipnet::Ipv4Net;

use self::pinned::Pinned;

/// The loopback device: an interface that every namespace has.
const IFINDEX: u32 = 1;

/// Tables that go with the test.
struct Lab {
    tables: Tables,
    _datapath: Datapath,
    _pinned: Pinned,
}

impl Lab {
    fn open(test: &str) -> Self {
        let pinned = Pinned::new(test);
        let datapath =
            Datapath::load(pinned.pins(), 64).expect("root and a bpf filesystem are needed");
        Self {
            tables: Tables::open(pinned.pins()).unwrap(),
            _datapath: datapath,
            _pinned: pinned,
        }
    }

    fn reconciler(&self) -> Reconciler {
        Reconciler::open(&self.tables).unwrap()
    }

    fn route(&self, address: Ipv4) -> Route {
        let routes = self.tables.prefixes::<Route>(name::ROUTES).unwrap();
        let host = Ipv4Net::from(std::net::Ipv4Addr::from(address));
        routes.get(&prefix_key(host), 0).unwrap()
    }

    fn next_hop(&self, number: u16) -> NextHop {
        let next_hops = self.tables.array(name::NEXT_HOPS).unwrap();
        next_hops.get(&u32::from(number), 0).unwrap()
    }

    fn vtep(&self, number: u32) -> Vtep {
        let vteps = self.tables.array(name::VTEP_FDB).unwrap();
        vteps.get(&number, 0).unwrap()
    }

    fn fast_path(&self) -> FastPath {
        let fast_path = self.tables.array::<FastPath>(name::FAST_PATH).unwrap();
        fast_path.get(&0, 0).unwrap()
    }

    fn epoch(&self) -> u32 {
        self.fast_path().epoch
    }

    /// The second interface with XDP.
    fn port(&self) -> u32 {
        self.fast_path().ports[1].ifindex
    }
}

/// To a worker's VXLAN device, whose outer Ethernet address ends with `mac` and whose outer address with `remote`.
fn hop(mac: u8, remote: u8) -> Hop {
    Hop {
        next_hop: NextHop {
            ifindex: IFINDEX,
            vtep: 0,
            mtu: 1450,
            destination: [2, 0, 0, 0, 0, mac],
            source: [2, 0, 0, 0, 0, 30],
        },
        vtep: Some(Vtep {
            remote: [10, 60, 20, remote],
            local: [10, 60, 20, 30],
            vni: 1,
            port: 8472,
            ..Vtep::default()
        }),
    }
}

/// Pods of worker n behind next hop n.
fn map_state(hops: &[(u8, Hop)]) -> MapState {
    let prefix = |number: u8| Ipv4Net::new_assert([10, 244, number, 0].into(), 24);
    let mut next_hops = NextHops {
        hops: hops
            .iter()
            .map(|&(worker, hop)| (prefix(worker), hop))
            .collect(),
        ..NextHops::default()
    };
    next_hops.ports[1] = XdpPort {
        ifindex: IFINDEX,
        ..XdpPort::default()
    };
    let route = Route {
        ifindex: 7,
        ..Route::default()
    };
    MapState {
        link_addresses: BTreeMap::new(),
        office: BTreeMap::new(),
        cluster: BTreeMap::new(),
        routes: (1..=3).map(|number| (prefix(number), route)).collect(),
        next_hops,
        services: BTreeMap::new(),
        nat_ports: vec![NatPort::default(); capacity::NAT_PORTS],
        settings: Settings::default(),
    }
}

const POD_1: Ipv4 = [10, 244, 1, 5];
const POD_2: Ipv4 = [10, 244, 2, 5];
const POD_3: Ipv4 = [10, 244, 3, 5];

#[test]
fn routes_lead_through_next_hops_to_tunnel_ends_and_a_restart_changes_nothing() {
    let lab = Lab::open("hops");
    let wanted = map_state(&[(1, hop(31, 31)), (2, hop(32, 32))]);
    let mut reconciler = lab.reconciler();
    reconciler.apply(&wanted, clock::now()).unwrap();
    for (pod, last) in [(POD_1, 31), (POD_2, 32)] {
        let route = lab.route(pod);
        assert_eq!(route.ifindex, 7);
        let next_hop = lab.next_hop(route.next_hop);
        assert_eq!(next_hop.destination[5], last);
        assert_ne!(next_hop.vtep, 0);
        assert_eq!(lab.vtep(next_hop.vtep).remote[3], last);
    }
    assert_eq!(lab.route(POD_3).next_hop, 0);
    assert_eq!(lab.next_hop(0), NextHop::default());
    assert_eq!(lab.port(), IFINDEX);
    let epoch = lab.epoch();
    assert_ne!(epoch & 0xffff, 0);

    assert_eq!(
        reconciler.apply(&wanted, clock::now()).unwrap(),
        Changes::default()
    );
    assert_eq!(
        lab.reconciler().apply(&wanted, clock::now()).unwrap(),
        Changes::default()
    );
    assert_eq!(lab.epoch(), epoch);

    let mut without_xdp = wanted;
    without_xdp.next_hops = NextHops::default();
    reconciler.apply(&without_xdp, clock::now()).unwrap();
    assert_eq!(lab.route(POD_1).next_hop, 0);
    assert_eq!(lab.port(), 0);
    assert!(lab.epoch() > epoch);
}

#[test]
fn a_changed_neighbour_gets_another_number_and_the_old_one_is_quarantined() {
    let lab = Lab::open("rest");
    let mut reconciler = lab.reconciler();
    reconciler
        .apply(
            &map_state(&[(1, hop(31, 31)), (2, hop(32, 32))]),
            clock::now(),
        )
        .unwrap();
    let (first, second) = (lab.route(POD_1).next_hop, lab.route(POD_2).next_hop);
    let epoch = lab.epoch();

    reconciler
        .apply(
            &map_state(&[(1, hop(99, 31)), (2, hop(32, 32))]),
            clock::now(),
        )
        .unwrap();
    let changed = lab.route(POD_1).next_hop;
    assert_eq!(lab.next_hop(changed).destination[5], 99);
    // The tunnel end is the same.
    assert_eq!(lab.next_hop(changed).vtep, lab.next_hop(first).vtep);
    assert_eq!(lab.route(POD_2).next_hop, second);
    assert_eq!(lab.epoch(), epoch + 1);
    assert_eq!(lab.next_hop(first).destination[5], 31);

    // What comes next must not get the number that packets on their way may have.
    let next = map_state(&[(1, hop(99, 31)), (2, hop(32, 32)), (3, hop(33, 33))]);
    reconciler.apply(&next, clock::now()).unwrap();
    let third = lab.route(POD_3).next_hop;
    assert!(![0, first, second, changed].contains(&third));
    assert_eq!(lab.next_hop(first).destination[5], 31);

    sleep(Duration::from_millis(1_100));
    reconciler.apply(&next, clock::now()).unwrap();
    assert_eq!(lab.next_hop(first), NextHop::default());
    let later = map_state(&[(1, hop(98, 31)), (2, hop(32, 32)), (3, hop(33, 33))]);
    reconciler.apply(&later, clock::now()).unwrap();
    assert_eq!(lab.route(POD_1).next_hop, first);
}

#[test]
fn a_process_that_ended_before_it_advanced_the_epoch_is_made_up_for() {
    let lab = Lab::open("epoch");
    let before = map_state(&[(1, hop(31, 31))]);
    lab.reconciler().apply(&before, clock::now()).unwrap();
    let after = map_state(&[(1, hop(99, 31))]);
    lab.reconciler().apply(&after, clock::now()).unwrap();
    let epoch = lab.epoch();
    // As if it had ended with the routes written: the old next hop is there and nobody refers to it.
    let mut successor = lab.reconciler();
    successor.apply(&after, clock::now()).unwrap();
    assert_eq!(lab.epoch(), epoch + 1);
    sleep(Duration::from_millis(1_100));
    successor.apply(&after, clock::now()).unwrap();
    lab.reconciler().apply(&after, clock::now()).unwrap();
    assert_eq!(lab.epoch(), epoch + 1);
}

#[test]
fn the_lease_of_next_hops_counts_from_the_last_reading_however_often_they_are_written() {
    let lab = Lab::open("lease");
    let wanted = map_state(&[(1, hop(31, 31))]);
    let mut reconciler = lab.reconciler();
    let read_at = clock::now() - 20;
    for _ in 0..3 {
        reconciler.apply(&wanted, read_at).unwrap();
        assert_eq!(lab.fast_path().valid_until, read_at + 30);
    }
    // A new process has read nothing older than its own start.
    lab.reconciler().apply(&wanted, read_at + 5).unwrap();
    assert_eq!(lab.fast_path().valid_until, read_at + 35);
}
