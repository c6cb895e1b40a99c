//! Neighbours and FDBs against the real kernel, in network namespaces of their own. They need root.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use tokio::sync::watch as channel;
use tokio::time::{sleep, timeout};

use std::net::Ipv4Addr;

use super::tests::{INTEREST, Watched, first_pod, in_a_namespace, ip, node_30};
use super::*;

#[track_caller]
fn bridge(arguments: &str) {
    let output = Command::new("bridge")
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "bridge {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// What flannel enters for a worker, and the worker's answer to ARP.
fn worker(number: u8) {
    ip(&format!(
        "neigh replace 10.244.{number}.0 lladdr 02:00:00:00:00:0{number} dev flannel.1 nud permanent"
    ));
    bridge(&format!(
        "fdb append 02:00:00:00:00:0{number} dev flannel.1 dst 10.60.20.3{number}"
    ));
    ip(&format!(
        "neigh replace 10.60.20.3{number} lladdr 02:60:00:00:00:0{number} dev eth0 nud reachable"
    ));
}

fn index(state: &NetworkState, name: &str) -> u32 {
    state.link_named(name).unwrap().index
}

/// One line per neighbour: interface, address, the last octet of its Ethernet address.
fn neighbours(state: &NetworkState) -> Vec<String> {
    state
        .neighbours
        .iter()
        .map(|(neighbour, mac)| {
            format!(
                "{} {} {}",
                state.links[&neighbour.ifindex].name, neighbour.address, mac[5]
            )
        })
        .collect()
}

fn remote(state: &NetworkState, mac: Mac) -> Option<FdbEntry> {
    state.fdb.get(&(index(state, "flannel.1"), mac)).copied()
}

fn worker_mac(number: u8) -> Mac {
    [2, 0, 0, 0, 0, number]
}

#[test]
fn the_way_to_a_worker_is_known_down_to_the_wire() {
    in_a_namespace(|| async {
        node_30();
        worker(1);
        // Neither a gateway nor a tunnel end.
        ip("neigh replace 10.60.20.77 lladdr 02:60:00:00:00:77 dev eth0");
        let watched = Watched::start(&INTEREST).await;
        let state = watched.state.borrow();
        assert_eq!(
            neighbours(&state),
            ["eth0 10.60.20.31 1", "flannel.1 10.244.1.0 1"]
        );
        let address = Ipv4Addr::new(10, 60, 20, 31);
        assert_eq!(
            remote(&state, worker_mac(1)),
            Some(FdbEntry::Remote(Remote {
                address,
                port: None,
                vni: None,
                ifindex: None
            }))
        );
        let underlay = &state.underlay[&address];
        assert_eq!(underlay.ifindex, index(&state, "eth0"));
        assert_eq!(underlay.gateway, None);
        assert_eq!(underlay.preferred_source, Ipv4Addr::new(10, 60, 20, 30));
    });
}

#[test]
fn a_changed_mac_or_tunnel_end_is_seen_well_within_a_second() {
    in_a_namespace(|| async {
        node_30();
        worker(1);
        ip("route add 10.60.21.0/24 via 10.60.20.1");
        ip("neigh add 10.60.20.1 lladdr 02:60:00:00:00:fe dev eth0");
        let mut watched = Watched::start(&INTEREST).await;
        let mut slowest = Duration::ZERO;
        ip("neigh replace 10.60.20.31 lladdr 02:60:00:00:00:09 dev eth0 nud reachable");
        let begun = Instant::now();
        watched
            .becomes(|state| neighbours(state).contains(&"eth0 10.60.20.31 9".to_owned()))
            .await;
        slowest = slowest.max(begun.elapsed());

        bridge("fdb replace 02:00:00:00:00:01 dev flannel.1 dst 10.60.21.5 port 4789 vni 7");
        let begun = Instant::now();
        let state = watched
            .becomes(|state| {
                matches!(
                    remote(state, worker_mac(1)),
                    Some(FdbEntry::Remote(Remote {
                        port: Some(4789),
                        vni: Some(7),
                        ..
                    }))
                )
            })
            .await;
        slowest = slowest.max(begun.elapsed());
        assert_eq!(
            state
                .underlay
                .values()
                .map(|way| way.gateway)
                .collect::<Vec<_>>(),
            [Some(Ipv4Addr::new(10, 60, 20, 1))]
        );
        assert_eq!(
            neighbours(&state),
            ["eth0 10.60.20.1 254", "flannel.1 10.244.1.0 1"]
        );

        ip("neigh del 10.244.1.0 dev flannel.1");
        let begun = Instant::now();
        watched
            .becomes(|state| state.fdb.is_empty() && state.underlay.is_empty())
            .await;
        slowest = slowest.max(begun.elapsed());
        // Generous: a busy machine must not make this fail.
        assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    });
}

#[test]
fn a_neighbour_that_goes_stale_or_does_not_matter_changes_nothing() {
    in_a_namespace(|| async {
        node_30();
        first_pod();
        worker(1);
        ip("neigh replace 10.60.20.1 lladdr 02:60:00:00:00:fe dev eth0 nud reachable");
        let mut watched = Watched::start(&INTEREST).await;
        // A bridge gets its multicast groups and routes a moment later.
        while timeout(Duration::from_secs(1), watched.state.changed())
            .await
            .is_ok()
        {}
        watched.state.borrow_and_update();
        ip("neigh replace 10.60.20.1 lladdr 02:60:00:00:00:fe dev eth0 nud stale");
        ip("neigh replace 10.60.20.77 lladdr 02:60:00:00:00:77 dev eth0");
        ip("neigh replace 10.244.30.5 lladdr 02:60:00:00:00:78 dev cni0");
        bridge("fdb append 02:00:00:00:00:66 dev flannel.1 dst 10.60.20.66");
        sleep(Duration::from_millis(300)).await;
        assert!(!watched.state.has_changed().unwrap());
        // It was followed all the time.
        ip("neigh replace 10.60.20.1 lladdr 02:60:00:00:00:fd dev eth0 nud stale");
        watched
            .becomes(|state| neighbours(state).contains(&"eth0 10.60.20.1 253".to_owned()))
            .await;
        ip("neigh replace 10.60.20.1 dev eth0 nud failed");
        watched
            .becomes(|state| !neighbours(state).iter().any(|line| line.contains("20.1 ")))
            .await;
    });
}

#[test]
fn a_destination_that_is_not_one_host_is_no_remote_end() {
    in_a_namespace(|| async {
        node_30();
        worker(1);
        worker(2);
        bridge("fdb del 02:00:00:00:00:02 dev flannel.1");
        ip("nexthop add id 1 via 10.60.20.31 fdb");
        ip("nexthop add id 10 group 1 fdb");
        bridge("fdb add 02:00:00:00:00:02 dev flannel.1 nhid 10");
        let mut watched = Watched::start(&INTEREST).await;
        {
            let state = watched.state.borrow();
            assert!(matches!(
                remote(&state, worker_mac(1)),
                Some(FdbEntry::Remote(_))
            ));
            assert_eq!(remote(&state, worker_mac(2)), Some(FdbEntry::Other));
            assert_eq!(remote(&state, DEFAULT_ENTRY), None);
        }
        bridge("fdb append 00:00:00:00:00:00 dev flannel.1 dst 10.60.20.38");
        watched
            .becomes(|state| matches!(remote(state, DEFAULT_ENTRY), Some(FdbEntry::Remote(_))))
            .await;
        bridge("fdb append 00:00:00:00:00:00 dev flannel.1 dst 10.60.20.39");
        watched
            .becomes(|state| remote(state, DEFAULT_ENTRY) == Some(FdbEntry::Other))
            .await;
        bridge("fdb del 00:00:00:00:00:00 dev flannel.1");
        bridge("fdb append 00:00:00:00:00:00 dev flannel.1 dst 239.1.1.1 via eth0");
        watched
            .becomes(|state| {
                state.underlay.len() == 1 && remote(state, DEFAULT_ENTRY) == Some(FdbEntry::Other)
            })
            .await;
    });
}

#[test]
fn special_vxlan_devices_are_told() {
    in_a_namespace(|| async {
        node_30();
        for (name, settings) in [
            ("plain", "id 10 tos 0 ttl 5 srcport 40000 40100"),
            ("gbp", "id 11 gbp"),
            ("tos", "id 12 tos inherit"),
            ("df", "id 13 df set"),
            ("external", "external"),
            ("six", "id 14 local ::1"),
        ] {
            let port = 5000 + name.len() * 10 + usize::from(name.as_bytes()[0]);
            ip(&format!(
                "link add {name} type vxlan dstport {port} {settings}"
            ));
        }
        let watched = Watched::start(&INTEREST).await;
        let state = watched.state.borrow();
        let vxlan = |name: &str| state.link_named(name).unwrap().vxlan.unwrap();
        let plain = vxlan("plain");
        assert_eq!(
            (plain.ttl, plain.source_port_min, plain.source_port_count),
            (5, 40_000, 100)
        );
        assert_eq!(plain.special, None);
        for name in ["gbp", "tos", "df", "external", "six"] {
            assert!(vxlan(name).special.is_some(), "{name}");
        }
    });
}

/// The state of a neighbour, as `ip neigh` prints it.
fn nud(address: &str) -> String {
    let output = Command::new("ip")
        .args(["neigh", "show", address])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace()
        .last()
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn neighbours_in_use_are_probed_and_permanent_ones_left_alone() {
    in_a_namespace(|| async {
        node_30();
        let stale = Neighbour {
            ifindex: nix::net::if_::if_nametoindex("eth0").unwrap(),
            address: Ipv4Addr::new(10, 60, 20, 31),
        };
        let with = |last: u8| Neighbour {
            address: Ipv4Addr::new(10, 60, 20, last),
            ..stale
        };
        for (last, state) in [(31, "stale"), (32, "permanent"), (33, "stale")] {
            ip(&format!(
                "neigh add 10.60.20.{last} lladdr 02:60:00:00:00:{last} dev eth0 nud {state}"
            ));
        }
        let (in_use, receiver) = channel::channel(BTreeSet::new());
        tokio::spawn(async move { Prober::new(receiver).run().await });
        in_use.send_replace(BTreeSet::from([stale, with(32), with(40)]));
        let begun = Instant::now();
        // DELAY, as after a packet of the kernel's own; then it asks.
        while nud("10.60.20.31") == "STALE" || nud("10.60.20.40").is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(5), "not probed");
            sleep(Duration::from_millis(20)).await;
        }
        assert!(["DELAY", "PROBE"].contains(&nud("10.60.20.31").as_str()));
        assert!(["INCOMPLETE", "FAILED"].contains(&nud("10.60.20.40").as_str()));
        assert_eq!(nud("10.60.20.32"), "PERMANENT");
        assert_eq!(nud("10.60.20.33"), "STALE");
    });
}
