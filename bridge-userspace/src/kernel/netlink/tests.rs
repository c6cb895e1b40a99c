//! Against the real kernel, in network namespaces of their own. They need root.

use std::future::Future;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bridge_common::abi::Seconds;
use ipnet::Ipv4Net;
use nix::sched::{CloneFlags, unshare};
use tokio::sync::watch as channel;
use tokio::time::timeout;

use super::*;

/// Runs a test on a thread with a network namespace that ends with it.
pub(super) fn in_a_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
        ip("link set lo up");
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// The child starts in its thread's namespace.
#[track_caller]
pub(super) fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

pub(super) fn nets(networks: &[&str]) -> Vec<Ipv4Net> {
    networks.iter().map(|text| text.parse().unwrap()).collect()
}

/// node-30 before its first pod: the LAN, and flannel as it sets itself up.
pub(super) fn node_30() {
    ip("link add eth0 type veth peer name lan");
    ip("link set eth0 up");
    ip("link set lan up");
    ip("address add 10.60.20.30/24 dev eth0");
    ip("route add default via 10.60.20.1");
    flannel();
}

fn flannel() {
    ip("link add flannel.1 type vxlan id 1 dev eth0 local 10.60.20.30 dstport 8472 nolearning");
    ip("address add 10.244.30.0/32 dev flannel.1");
    ip("link set flannel.1 up");
    for worker in [1, 2] {
        ip(&format!(
            "route add 10.244.{worker}.0/24 via 10.244.{worker}.0 dev flannel.1 onlink"
        ));
    }
}

pub(super) fn first_pod() {
    ip("link add cni0 type bridge");
    ip("address add 10.244.30.1/24 dev cni0");
    ip("link set cni0 up");
    ip("link add veth0 type veth peer name pod0");
    ip("link set veth0 master cni0 up");
    ip("link set pod0 up");
}

pub(super) const INTEREST: [&str; 2] = ["10.244.0.0/16", "192.168.0.0/22"];

pub(super) struct Watched {
    pub(super) state: channel::Receiver<Arc<NetworkState>>,
    read_at: channel::Receiver<Seconds>,
    interest: channel::Sender<Vec<Ipv4Net>>,
}

impl Watched {
    pub(super) async fn start(interest: &[&str]) -> Self {
        let (interest, receiver) = channel::channel(nets(interest));
        let (mirror, view) = Mirror::open(receiver).await.unwrap();
        tokio::spawn(async move { mirror.follow().await });
        Self {
            state: view.state,
            read_at: view.read_at,
            interest,
        }
    }

    /// One line per route: prefix, interface, gateway, preferred source, MTU.
    fn routes(state: &NetworkState) -> Vec<String> {
        state
            .routes
            .iter()
            .map(|route| {
                let gateway = route
                    .gateway
                    .map_or("direct".to_owned(), |gateway| gateway.to_string());
                format!(
                    "{} {} {gateway} {} {}{}",
                    route.prefix,
                    state.links[&route.ifindex].name,
                    route.preferred_source,
                    route.mtu,
                    if route.tunnel { " tunnel" } else { "" }
                )
            })
            .collect()
    }

    #[track_caller]
    fn now(&self, expected: &[&str]) {
        assert_eq!(Self::routes(&self.state.borrow()), expected);
    }

    pub(super) async fn becomes(
        &mut self,
        expected: impl Fn(&NetworkState) -> bool,
    ) -> Arc<NetworkState> {
        let seen = self.state.wait_for(|state| expected(state));
        if let Ok(state) = timeout(Duration::from_secs(5), seen).await {
            return Arc::clone(&state.unwrap());
        }
        panic!("have {:#?}", self.state.borrow());
    }
}

const NODE_30_ROUTES: [&str; 4] = [
    "10.244.0.0/16 eth0 10.60.20.1 10.60.20.30 1500",
    "10.244.1.0/24 flannel.1 10.244.1.0 10.244.30.0 1450 tunnel",
    "10.244.2.0/24 flannel.1 10.244.2.0 10.244.30.0 1450 tunnel",
    "192.168.0.0/22 eth0 10.60.20.1 10.60.20.30 1500",
];

#[test]
fn flannels_routes_have_flannels_own_address_as_source() {
    in_a_namespace(|| async {
        node_30();
        let watched = Watched::start(&INTEREST).await;
        watched.now(&NODE_30_ROUTES);
        let state = watched.state.borrow();
        let flannel = state.link_named("flannel.1").unwrap();
        assert_eq!(flannel.kind, LinkKind::Vxlan);
        let ports = crate::kernel::sysctl::local_port_range().unwrap();
        assert_eq!(
            flannel.vxlan,
            Some(Vxlan {
                vni: 1,
                port: 8472,
                underlying: Some(state.link_named("eth0").unwrap().index),
                local: Some(Ipv4Addr::new(10, 60, 20, 30)),
                ttl: crate::kernel::sysctl::default_ttl().unwrap(),
                source_port_min: *ports.start(),
                source_port_count: ports.end() - ports.start(),
                special: None,
            })
        );
        assert!(flannel.up && flannel.mac.is_some());
        assert_eq!(state.link_named("lo").unwrap().kind, LinkKind::Loopback);
        assert_eq!(state.link_named("eth0").unwrap().kind, LinkKind::Veth);
        assert_eq!(
            state.addresses_of(flannel.index).collect::<Vec<_>>(),
            [Ipv4Addr::new(10, 244, 30, 0)]
        );
        assert_eq!(state.local, nets(&["10.244.30.0/32"]));
        assert_eq!(state.unreachable, []);
        assert_eq!(
            state
                .route_to(Ipv4Addr::new(10, 244, 1, 77))
                .unwrap()
                .ifindex,
            flannel.index
        );
        assert_eq!(state.route_to(Ipv4Addr::new(10, 244, 30, 0)), None);
    });
}

#[test]
fn the_interfaces_towards_pods_are_found_without_the_default_route() {
    in_a_namespace(|| async {
        node_30();
        let mut watched = Watched::start(&INTEREST).await;
        let pods = nets(&["10.244.0.0/16"]);
        let names = |state: &NetworkState| -> Vec<String> {
            cluster_interfaces(state, &pods)
                .iter()
                .map(|index| state.links[index].name.clone())
                .collect()
        };
        assert_eq!(names(&watched.state.borrow()), ["flannel.1"]);
        first_pod();
        watched
            .becomes(|state| names(state) == ["flannel.1", "cni0"])
            .await;
        ip("link del flannel.1");
        ip("link del cni0");
        // Then the default route is the only way to the pods.
        watched.becomes(|state| names(state) == ["eth0"]).await;
        ip("route add 10.244.1.0/24 via 10.60.20.31");
        ip("route del default");
        let state = watched
            .becomes(|state| state.routes.len() == 1 && !state.unreachable.is_empty())
            .await;
        assert_eq!(names(&state), ["eth0"]);
    });
}

#[test]
fn a_vxlan_device_that_is_deleted_and_made_again_is_followed() {
    in_a_namespace(|| async {
        node_30();
        let mut watched = Watched::start(&INTEREST).await;
        let before = watched
            .state
            .borrow()
            .link_named("flannel.1")
            .unwrap()
            .index;
        ip("link del flannel.1");
        watched
            .becomes(|state| state.link_named("flannel.1").is_none() && state.routes.len() == 2)
            .await;
        flannel();
        let after = watched
            .becomes(|state| Watched::routes(state) == NODE_30_ROUTES)
            .await;
        assert_ne!(after.link_named("flannel.1").unwrap().index, before);
    });
}

#[test]
fn the_first_local_pod_brings_cni0() {
    in_a_namespace(|| async {
        node_30();
        let mut watched = Watched::start(&INTEREST).await;
        first_pod();
        let started = Instant::now();
        let state = watched
            .becomes(|state| {
                Watched::routes(state)
                    .contains(&"10.244.30.0/24 cni0 direct 10.244.30.1 1500".to_owned())
            })
            .await;
        // Generous: a busy machine must not make this fail.
        assert!(started.elapsed() < Duration::from_secs(2));
        assert_eq!(state.link_named("cni0").unwrap().kind, LinkKind::Bridge);
        assert_eq!(
            state.link_named("veth0").unwrap().master,
            Some(state.link_named("cni0").unwrap().index)
        );
        assert!(state.local.contains(&"10.244.30.1/32".parse().unwrap()));

        // The last pod is gone: the bridge has no carrier and nobody to answer.
        ip("link del veth0");
        watched
            .becomes(|state| state.unreachable == nets(&["10.244.30.0/24"]))
            .await;
    });
}

#[test]
fn a_changed_address_changes_the_preferred_source() {
    in_a_namespace(|| async {
        node_30();
        let mut watched = Watched::start(&INTEREST).await;
        ip("address add 10.244.30.9/32 dev flannel.1");
        ip("address del 10.244.30.0/32 dev flannel.1");
        watched
            .becomes(|state| {
                Watched::routes(state)
                    .contains(&"10.244.1.0/24 flannel.1 10.244.1.0 10.244.30.9 1450 tunnel".into())
            })
            .await;
    });
}

#[test]
fn host_gateway_routes_use_the_nodes_own_address() {
    in_a_namespace(|| async {
        node_30();
        ip("link del flannel.1");
        ip("route add 10.244.1.0/24 via 10.60.20.31 mtu 1400");
        ip("route add 10.244.2.0/24 via 10.60.20.32");
        ip("address add 10.60.20.99/24 dev eth0");
        ip("route add 10.244.3.0/24 via 10.60.20.33 src 10.60.20.99");
        let watched = Watched::start(&["10.244.0.0/16"]).await;
        watched.now(&[
            "10.244.0.0/16 eth0 10.60.20.1 10.60.20.30 1500",
            "10.244.1.0/24 eth0 10.60.20.31 10.60.20.30 1400",
            "10.244.2.0/24 eth0 10.60.20.32 10.60.20.30 1500",
            "10.244.3.0/24 eth0 10.60.20.33 10.60.20.99 1500",
        ]);
    });
}

#[test]
fn routes_that_lead_nowhere_are_told_apart() {
    in_a_namespace(|| async {
        node_30();
        ip("route add blackhole 10.244.4.0/24");
        ip("route add unreachable 10.244.5.0/24");
        ip("route add prohibit 10.244.6.0/24");
        let mut watched = Watched::start(&INTEREST).await;
        watched.now(&NODE_30_ROUTES);
        let nowhere = nets(&["10.244.4.0/24", "10.244.5.0/24", "10.244.6.0/24"]);
        assert_eq!(watched.state.borrow().unreachable, nowhere);
        assert_eq!(
            watched
                .state
                .borrow()
                .route_to(Ipv4Addr::new(10, 244, 5, 1)),
            None
        );

        ip("route del default");
        watched
            .becomes(|state| {
                state
                    .unreachable
                    .contains(&"192.168.0.0/22".parse().unwrap())
            })
            .await;
        ip("link set eth0 down");
        watched
            .becomes(|state| !state.link_named("eth0").unwrap().up)
            .await;
    });
}

#[test]
fn of_several_next_hops_one_is_used() {
    in_a_namespace(|| async {
        node_30();
        ip("route add 10.244.7.0/24 nexthop via 10.60.20.31 nexthop via 10.60.20.32");
        let watched = Watched::start(&["10.244.7.0/24"]).await;
        let state = watched.state.borrow();
        assert_eq!(state.routes.len(), 1);
        let gateway = state.routes[0].gateway.unwrap();
        assert!([31, 32].contains(&gateway.octets()[3]), "{gateway}");
    });
}

#[test]
fn policy_rules_decide_as_they_do_for_the_kernel() {
    in_a_namespace(|| async {
        node_30();
        let mut watched = Watched::start(&INTEREST).await;
        ip("link add office0 type veth peer name router0");
        ip("link set office0 up");
        ip("link set router0 up");
        ip("address add 10.61.0.2/24 dev office0");
        ip("route add 192.168.0.0/22 via 10.61.0.1 dev office0 table 100");
        ip("rule add to 192.168.0.0/22 lookup 100");
        watched
            .becomes(|state| {
                Watched::routes(state)
                    .contains(&"192.168.0.0/22 office0 10.61.0.1 10.61.0.2 1500".to_owned())
            })
            .await;
        ip("rule del to 192.168.0.0/22 lookup 100");
        watched
            .becomes(|state| Watched::routes(state) == NODE_30_ROUTES)
            .await;
    });
}

#[test]
fn new_networks_of_interest_are_looked_up_at_once() {
    in_a_namespace(|| async {
        node_30();
        let mut watched = Watched::start(&[]).await;
        watched.now(&[]);
        watched.interest.send_replace(nets(&INTEREST));
        watched
            .becomes(|state| Watched::routes(state) == NODE_30_ROUTES)
            .await;
    });
}

#[test]
fn a_flood_of_notices_is_survived() {
    in_a_namespace(|| async {
        node_30();
        let mut watched = Watched::start(&INTEREST).await;
        // The single thread of this runtime doesn't read while it is busy here, so that the
        // socket's buffer overflows.
        let batch = tempfile::NamedTempFile::new().unwrap();
        let mut lines = String::new();
        for round in 0..4 {
            for host in 0..250 {
                use std::fmt::Write;
                writeln!(lines, "route add 10.9.{round}.{host}/32 dev eth0").unwrap();
                writeln!(lines, "route del 10.9.{round}.{host}/32 dev eth0").unwrap();
            }
        }
        std::fs::write(batch.path(), lines).unwrap();
        ip(&format!("-batch {}", batch.path().display()));
        ip("route add 10.244.8.0/24 via 10.60.20.38");
        watched
            .becomes(|state| {
                state
                    .routes
                    .iter()
                    .any(|route| route.prefix == nets(&["10.244.8.0/24"])[0])
            })
            .await;
    });
}

#[test]
fn a_card_that_takes_tags_off_is_known_by_its_features() {
    in_a_namespace(|| async {
        ip("link add eth0 type veth peer name lan");
        let ethtool = |setting: &str| {
            let status = Command::new("ethtool")
                .args(["-K", "eth0", "rxvlan", setting])
                .status()
                .unwrap();
            assert!(status.success());
        };
        ethtool("on");
        assert!(offloads::strips_tags("eth0").await.contains(&"rxvlan"));
        ethtool("off");
        assert!(!offloads::strips_tags("eth0").await.contains(&"rxvlan"));
        // Nobody knows.
        assert_eq!(offloads::strips_tags("eth1").await, ["rxvlan"]);
    });
}

#[test]
fn what_a_device_is_stacked_on_is_told_from_what_it_is_a_peer_of() {
    in_a_namespace(|| async {
        ip("link add eth0 type veth peer name lan");
        ip("link add stacked0 link eth0 type macvlan mode bridge");
        let watched = Watched::start(&[]).await;
        let state = watched.state.borrow().clone();
        let link = |name: &str| state.link_named(name).unwrap();
        assert_eq!(link("stacked0").lower, Some(link("eth0").index));
        assert_eq!(link("eth0").lower, None);
        assert_eq!(link("lan").lower, None);
    });
}

#[test]
fn a_quiet_kernel_is_read_again_as_proof_that_it_answers() {
    in_a_namespace(|| async {
        node_30();
        let mut watched = Watched::start(&INTEREST).await;
        // The reading with which following begins.
        watched.read_at.changed().await.unwrap();
        let first = *watched.read_at.borrow_and_update();
        let heartbeat = watched.read_at.changed();
        timeout(Duration::from_secs(8), heartbeat)
            .await
            .unwrap()
            .unwrap();
        assert!(*watched.read_at.borrow() > first);
        assert!(!watched.state.has_changed().unwrap());
    });
}
