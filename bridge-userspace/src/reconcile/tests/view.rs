//! The tables as the datapath follows them from one to the next.

use std::collections::BTreeMap;

use bridge_common::abi::{
    Backend, ClusterCidr, Destination, NextHop, OfficeCidr, Route, ServiceKey, Settings, XdpPort,
    capacity,
};
use bridge_common::packet::parse::ICMP;
use ipnet::Ipv4Net;

use crate::plan::map_state::{MapState, ServiceEntry};
use crate::plan::next_hops::Hop;
use crate::reconcile::image::Image;
use crate::reconcile::routes::destinations;

/// Tables without the ids and numbers that tie them together.
#[derive(Debug, PartialEq)]
pub(super) struct View {
    pub(super) services: BTreeMap<ServiceKey, ServiceEntry>,
    pub(super) routes: BTreeMap<Ipv4Net, (Route, Option<Hop>)>,
    settings: Settings,
    candidates: Vec<u16>,
    reserved: Vec<u8>,
    ports: [XdpPort; capacity::XDP_PORTS],
    destinations: [Destination; capacity::DESTINATIONS],
    cluster: BTreeMap<Ipv4Net, ClusterCidr>,
    office: BTreeMap<Ipv4Net, OfficeCidr>,
}

impl View {
    /// What the datapath finds. Panics where one entry names another that is not there.
    pub(super) fn of(tables: &Image) -> Self {
        let count = tables.settings.nat_port_count as usize;
        let mut candidates: Vec<u16> = tables.nat_ports[..count]
            .iter()
            .map(|port| port.candidate)
            .collect();
        assert!(candidates.iter().all(|&candidate| candidate != 0));
        candidates.sort_unstable();
        Self {
            services: tables
                .services
                .keys()
                .map(|key| (*key, service(tables, *key)))
                .collect(),
            routes: tables
                .routes
                .iter()
                .map(|(prefix, route)| (*prefix, resolved(tables, *route)))
                .collect(),
            settings: tables.settings,
            candidates,
            reserved: tables.nat_ports.iter().map(|port| port.reserved).collect(),
            ports: tables.fast_path.ports,
            destinations: tables.fast_path.destinations,
            cluster: tables.cluster.clone(),
            office: tables.office.clone(),
        }
    }

    /// What it should find.
    pub(super) fn wanted(map_state: &MapState) -> Self {
        let count = map_state.settings.nat_port_count as usize;
        let ports = &map_state.nat_ports;
        let hop = |prefix| map_state.next_hops.hops.get(prefix).copied();
        Self {
            services: map_state.services.clone(),
            routes: map_state
                .routes
                .iter()
                .map(|(prefix, route)| (*prefix, (*route, hop(prefix))))
                .collect(),
            settings: map_state.settings,
            candidates: ports[..count].iter().map(|port| port.candidate).collect(),
            reserved: ports.iter().map(|port| port.reserved).collect(),
            ports: map_state.next_hops.ports,
            destinations: destinations(&map_state.cluster),
            cluster: map_state.cluster.clone(),
            office: map_state.office.clone(),
        }
    }
}

fn service(tables: &Image, key: ServiceKey) -> ServiceEntry {
    let service = tables.services[&key];
    if key.protocol == ICMP {
        return ServiceEntry::Address(service.backend_count);
    }
    let list: Vec<_> = tables.list(service.id).collect();
    let slots = list.iter().map(|(key, _)| key.slot);
    assert!(slots.eq(0..service.backend_count), "{key:?} has {list:?}");
    let backends: Vec<_> = list.into_iter().map(|(_, backend)| backend).collect();
    match backends[..] {
        [only] => assert_eq!(service.only, only),
        _ => assert_eq!(service.only, Backend::default()),
    }
    ServiceEntry::Port {
        backends,
        affinity_seconds: service.affinity_seconds,
    }
}

fn resolved(tables: &Image, route: Route) -> (Route, Option<Hop>) {
    let hop = (route.next_hop != 0).then(|| {
        let next_hop = tables.next_hops[&route.next_hop];
        Hop {
            vtep: tables
                .vtep_of(route.next_hop)
                .map(|number| tables.vteps[&number]),
            next_hop: NextHop {
                vtep: 0,
                ..next_hop
            },
        }
    });
    let without_number = Route {
        next_hop: 0,
        ..route
    };
    (without_number, hop)
}
