//! Wanted states, small ones.

use std::collections::{BTreeMap, BTreeSet};

use bridge_common::abi::{
    Backend, ClusterCidr, DestinationKind, NatPort, NextHop, OfficeCidr, Route, Seconds,
    ServiceKey, Settings, Vtep, XdpPort,
};
use bridge_common::packet::parse::{ICMP, TCP};
use ipnet::Ipv4Net;

use crate::plan::map_state::{MapState, ServiceEntry};
use crate::plan::next_hops::{Hop, NextHops};

/// Ports that `nat_ports` has in these tests.
pub(super) const PORTS: u16 = 16;

/// A state by what differs in these tests.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    /// Last numbers of backends, and seconds of affinity, by the last number of a VIP.
    pub(super) services: BTreeMap<u8, (Vec<u8>, Seconds)>,
    /// VIPs that answer pings, and backends behind them.
    pub(super) addresses: BTreeMap<u8, u32>,
    /// Workers' pod networks, and behind which next hop they are: the last numbers of the outer Ethernet address and of
    /// the remote VTEP, 0 without a tunnel.
    pub(super) routes: BTreeMap<u8, Option<(u8, u8)>>,
    /// NAT ports that are not free, besides port 0.
    pub(super) reserved: BTreeSet<u16>,
    pub(super) cluster: BTreeSet<u8>,
    pub(super) office: BTreeSet<u8>,
    pub(super) is_authoritative: bool,
}

impl Wanted {
    /// Something in every table.
    pub(super) fn rich() -> Self {
        Self {
            services: [
                (1, (vec![1, 2, 3], 600)),
                (2, (vec![4], 0)),
                (3, (vec![], 0)),
            ]
            .into(),
            addresses: [(1, 3)].into(),
            routes: [
                (1, Some((31, 31))),
                (2, Some((32, 32))),
                (3, Some((33, 0))),
                (4, None),
            ]
            .into(),
            reserved: [1, 2, 7].into(),
            cluster: [96, 244].into(),
            office: [0, 1].into(),
            is_authoritative: true,
        }
    }

    /// Something else in every table.
    pub(super) fn changed() -> Self {
        Self {
            services: [
                (1, (vec![1, 4], 60)),
                (3, (vec![5, 6], 0)),
                (4, (vec![7], 600)),
            ]
            .into(),
            addresses: [(1, 2), (4, 1)].into(),
            routes: [
                (1, Some((99, 31))),
                (2, Some((32, 34))),
                (3, None),
                (5, Some((33, 0))),
            ]
            .into(),
            reserved: [1, 2, 3, 9].into(),
            cluster: [97, 244].into(),
            office: [1, 2].into(),
            is_authoritative: true,
        }
    }

    pub(super) fn map_state(&self) -> MapState {
        let is_reserved = |port: &u16| *port == 0 || self.reserved.contains(port);
        let free = (0..PORTS).filter(|port| !is_reserved(port));
        let mut candidates = free.clone();
        MapState {
            office: self.office.iter().map(|&index| office(index)).collect(),
            cluster: self.cluster.iter().map(|&number| cluster(number)).collect(),
            routes: self
                .routes
                .keys()
                .map(|&worker| (pods(worker), ROUTE))
                .collect(),
            next_hops: self.next_hops(),
            services: self.services(),
            link_addresses: BTreeMap::new(),
            nat_ports: (0..PORTS)
                .map(|port| NatPort {
                    candidate: candidates.next().unwrap_or_default(),
                    reserved: u8::from(is_reserved(&port)),
                    pad: 0,
                })
                .collect(),
            settings: Settings {
                authoritative: u8::from(self.is_authoritative),
                nat_port_count: u32::try_from(free.count()).unwrap(),
                ..Settings::default()
            },
        }
    }

    fn next_hops(&self) -> NextHops {
        let mut next_hops = NextHops::default();
        for (&worker, hop) in &self.routes {
            if let Some((mac, remote)) = *hop {
                next_hops.hops.insert(pods(worker), self::hop(mac, remote));
                next_hops.ports[0] = XdpPort {
                    ifindex: 2,
                    ..XdpPort::default()
                };
            }
        }
        next_hops
    }

    fn services(&self) -> BTreeMap<ServiceKey, ServiceEntry> {
        let ports = self.services.iter().map(|(&vip, (backends, affinity))| {
            let entry = ServiceEntry::Port {
                backends: backends.iter().copied().map(backend).collect(),
                affinity_seconds: *affinity,
            };
            (service(vip), entry)
        });
        let addresses = self.addresses.iter().map(|(&vip, &ready)| {
            let key = ServiceKey {
                port: 0,
                protocol: ICMP,
                ..service(vip)
            };
            (key, ServiceEntry::Address(ready))
        });
        ports.chain(addresses).collect()
    }
}

const ROUTE: Route = Route {
    ifindex: 7,
    source: [10, 244, 30, 0],
    mtu: 1_450,
    flags: Route::TUNNEL,
    next_hop: 0,
    gateway: [0; 4],
};

pub(super) fn service(vip: u8) -> ServiceKey {
    ServiceKey {
        vip: [10, 96, 0, vip],
        port: 80,
        protocol: TCP,
        pad: 0,
    }
}

pub(super) fn backend(last: u8) -> Backend {
    Backend {
        address: [10, 244, 1, last],
        port: 8_080,
        pad: [0; 2],
    }
}

/// The pods of a worker.
pub(super) fn pods(worker: u8) -> Ipv4Net {
    Ipv4Net::new_assert([10, 244, worker, 0].into(), 24)
}

pub(super) fn office(index: u8) -> (Ipv4Net, OfficeCidr) {
    let prefix = Ipv4Net::new_assert([192, 168, index, 0].into(), 24);
    let index = u32::from(index);
    (prefix, OfficeCidr { index })
}

pub(super) fn cluster(number: u8) -> (Ipv4Net, ClusterCidr) {
    let prefix = Ipv4Net::new_assert([10, number, 0, 0].into(), 16);
    (prefix, ClusterCidr::new(DestinationKind::Service))
}

fn hop(mac: u8, remote: u8) -> Hop {
    Hop {
        next_hop: NextHop {
            ifindex: 2,
            vtep: 0,
            mtu: 1_450,
            destination: [2, 0, 0, 0, 0, mac],
            source: [2, 0, 0, 0, 0, 30],
        },
        vtep: (remote != 0).then(|| Vtep {
            remote: [10, 60, 20, remote],
            ..Vtep::default()
        }),
    }
}
