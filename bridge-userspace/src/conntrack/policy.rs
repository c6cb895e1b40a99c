//! What makes a flow legitimate, apart from its age.
//!
//! Endpoints decide where new flows go, not when a session ends: as with kube-proxy, an established one lives as long as
//! its pod answers, whatever is said of the pod meanwhile.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use bridge_common::abi::{Flow, FlowKey, Layer, Seconds, Timeouts};
use bridge_common::packet::parse::{TCP, UDP};
use ipnet::Ipv4Net;

use crate::cluster::{self, CidrKind, DesiredState, Protocol, Service, ServicePort};

/// What makes a flow legitimate, apart from its age.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Idle timeouts.
    pub timeouts: Timeouts,
    /// How long a backend may be gone from its service before what it does not answer ends.
    pub backend_grace: Seconds,
    /// Office networks: the flows of other clients end.
    pub office: Vec<Ipv4Net>,
    /// Our NAT addresses.
    pub nat_addresses: HashSet<Ipv4Addr>,
    /// Networks that there is a way to. One that is gone for a moment, as while a tunnel is made anew, ends no flow.
    pub reachable: Vec<Ipv4Net>,
    /// The cluster, if every service is known.
    pub cluster: Option<Arc<DesiredState>>,
}

/// What a flow needs and has lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Loss {
    /// The service has the backend no more.
    Backend(ServicePort, cluster::Backend),
    /// The backend answers to an address that is not ours.
    NatAddress(Ipv4Addr),
}

impl Policy {
    pub(super) fn is_office(&self, key: &FlowKey) -> bool {
        let client = Ipv4Addr::from(key.client);
        self.office.iter().any(|office| office.contains(&client))
    }

    /// What a flow has lost, if so.
    pub(super) fn loss(&self, key: &FlowKey, flow: &Flow) -> Option<Loss> {
        if self.has_moved(flow) {
            return Some(Loss::NatAddress(flow.nat.into()));
        }
        let (address, service) = self.service(key, flow)?;
        let backend = backend(flow);
        let is_alive = service.is_some_and(|service| has(&service.alive, backend));
        (!is_alive).then_some(Loss::Backend(address, backend))
    }

    /// Whether the service would send a new flow elsewhere: not to this flow's backend, and to another.
    pub(super) fn has_better_backend(&self, key: &FlowKey, flow: &Flow) -> bool {
        self.service(key, flow)
            .and_then(|(_, service)| service)
            .is_some_and(|service| {
                !service.backends.is_empty() && !has(&service.backends, backend(flow))
            })
    }

    /// Addresses that are behind some service.
    pub(super) fn addresses_in_services(&self) -> HashSet<Ipv4Addr> {
        let services = self
            .cluster
            .iter()
            .flat_map(|cluster| cluster.services.values());
        services
            .flat_map(|service| &service.alive)
            .map(|backend| backend.address)
            .collect()
    }

    /// The service that a flow goes through, as it is now; `None` for a flow to a pod itself, and where services are not
    /// known.
    fn service(&self, key: &FlowKey, flow: &Flow) -> Option<(ServicePort, Option<&Service>)> {
        let cluster = self.cluster.as_ref()?;
        let address = service_port(key)?;
        if (key.destination, key.destination_port) == (flow.backend, flow.backend_port) {
            return None;
        }
        Some((
            address,
            cluster.services.get(&address).map(|service| &**service),
        ))
    }

    /// Whether a connection that was left to kube-proxy goes to a service that is no more: nothing translates its next
    /// connection then.
    pub(super) fn has_lost_service(&self, key: &FlowKey) -> bool {
        let (Some(cluster), Some(address)) = (&self.cluster, service_port(key)) else {
            return false;
        };
        let mut networks = cluster.cidrs_of(CidrKind::Service);
        networks.any(|network| network.contains(&address.vip))
            && !cluster.services.contains_key(&address)
    }

    /// Whether a service has lost a backend since `before`, so that there may be flows to move.
    #[must_use]
    pub fn loses_backends(&self, before: &Self) -> bool {
        match (&before.cluster, &self.cluster) {
            (Some(before), Some(now)) if !Arc::ptr_eq(before, now) => {
                before.services.iter().any(|(address, service)| {
                    now.services.get(address).is_none_or(|now| {
                        !Arc::ptr_eq(now, service)
                            && (lacks(&now.backends, &service.backends)
                                || lacks(&now.alive, &service.alive))
                    })
                })
            }
            (None, Some(_)) => true,
            _ => false,
        }
    }

    /// Whether the backend is now reached from another address than the flow's: its replies don't come home.
    fn has_moved(&self, flow: &Flow) -> bool {
        flow.layer != Layer::Local as u8
            && !self.nat_addresses.contains(&Ipv4Addr::from(flow.nat))
            && self
                .reachable
                .iter()
                .any(|network| network.contains(&Ipv4Addr::from(flow.backend)))
    }
}

fn backend(flow: &Flow) -> cluster::Backend {
    cluster::Backend {
        address: flow.backend.into(),
        port: flow.backend_port,
    }
}

fn has(list: &[cluster::Backend], backend: cluster::Backend) -> bool {
    list.binary_search(&backend).is_ok()
}

/// What a client addressed, as services are named.
fn service_port(key: &FlowKey) -> Option<ServicePort> {
    let protocol = match key.protocol {
        TCP => Protocol::Tcp,
        UDP => Protocol::Udp,
        _ => return None,
    };
    Some(ServicePort {
        vip: key.destination.into(),
        port: key.destination_port,
        protocol,
    })
}

/// Whether one of `wanted` is not in `list`.
fn lacks(list: &[cluster::Backend], wanted: &[cluster::Backend]) -> bool {
    list != wanted && wanted.iter().any(|&backend| !has(list, backend))
}
