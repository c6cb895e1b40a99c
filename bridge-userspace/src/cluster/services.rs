//! From Services and their slices to VIPs and backends, by the rules that kube-proxy follows for a client
//! outside the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;

use super::facts::{self, Endpoint, EndpointSlice, Usability, transport_port};
use super::{
    Backend, CidrKind, ClusterCidr, InternalTrafficPolicy, Key, Objects, Protocol, Service,
    ServicePort,
};
use crate::model::{Problem, Subject};

/// How many cluster IPs outside of all known networks are forwarded one by one.
const VIPS_OUTSIDE: usize = 64;

/// What follows from one Service object and its slices.
#[derive(Debug, PartialEq)]
pub(super) struct Derived {
    entries: Vec<(ServicePort, Arc<Service>)>,
    problems: Vec<Problem>,
    /// Whether the service is for clients on an endpoint's node.
    is_local: bool,
}

/// What follows from the Service of this name; `None` without one.
pub(super) fn derive(
    objects: &Objects,
    key: &Key,
    policy: &InternalTrafficPolicy,
) -> Option<Derived> {
    let service = objects.services.get(key)?;
    let mut derived = Derived {
        entries: Vec::new(),
        problems: Vec::new(),
        is_local: false,
    };
    if !service.is_ours {
        return Some(derived);
    }
    let vips = vips(key, &service.cluster_ips, &mut derived.problems);
    if vips.is_empty() {
        return Some(derived);
    }
    derived.is_local = service.is_local;
    let slices: Vec<&EndpointSlice> = objects.slices_of(key).collect();
    let only_node = match policy {
        InternalTrafficPolicy::Honor { node } if service.is_local => Some(node.as_str()),
        _ => None,
    };
    for port in &service.ports {
        let Some((protocol, number)) = port_and_protocol(key, port, &mut derived.problems) else {
            continue;
        };
        let endpoints = endpoints(
            key,
            &slices,
            &port.name,
            protocol,
            only_node,
            &mut derived.problems,
        );
        let entry = Arc::new(Service {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            port_name: Some(port.name.clone()).filter(|name| !name.is_empty()),
            backends: endpoints.chosen,
            alive: endpoints.alive,
            affinity_seconds: service.affinity_seconds,
        });
        derived.entries.extend(vips.iter().map(|&vip| {
            let address = ServicePort {
                vip,
                port: number,
                protocol,
            };
            (address, Arc::clone(&entry))
        }));
    }
    Some(derived)
}

/// All services together.
pub(super) struct Merged {
    pub(super) services: BTreeMap<ServicePort, Arc<Service>>,
    /// Cluster IPs that the networks of the cluster don't contain.
    pub(super) vips_outside: Vec<ClusterCidr>,
}

/// All services together; of two that claim one address the first by name has it.
pub(super) fn merge<'a>(
    derived: impl IntoIterator<Item = &'a Derived>,
    cidrs: &[ClusterCidr],
    policy: &InternalTrafficPolicy,
    problems: &mut Vec<Problem>,
) -> Merged {
    let mut found: BTreeMap<ServicePort, Arc<Service>> = BTreeMap::new();
    let mut has_local = false;
    for service in derived {
        has_local |= service.is_local;
        problems.extend_from_slice(&service.problems);
        for (address, entry) in &service.entries {
            if let Some(first) = found.get(address) {
                problems.push(Problem::new(
                    Subject::Object(format!("Service {}/{}", entry.namespace, entry.name)),
                    format!(
                        "Service {}/{}: {address} already belongs to Service {}/{}",
                        entry.namespace, entry.name, first.namespace, first.name
                    ),
                    "give one of the two another cluster IP",
                ));
            } else {
                found.insert(*address, Arc::clone(entry));
            }
        }
    }
    if has_local && *policy == InternalTrafficPolicy::Ignore {
        problems.push(Problem::new(
            Subject::Cluster,
            "there are services with internalTrafficPolicy: Local; they lead to their endpoints on \
             all nodes, as an office host is on none (--internal-traffic-policy honor limits them \
             to this node's)",
            "nothing, if that is as it should be",
        ));
    }
    let vips_outside = vips_outside(&found, cidrs, problems);
    Merged {
        services: found,
        vips_outside,
    }
}

/// The Service's IPv4 cluster IPs; none for headless services.
fn vips(key: &Key, texts: &[String], problems: &mut Vec<Problem>) -> BTreeSet<Ipv4Addr> {
    let mut vips = BTreeSet::new();
    for text in texts {
        if text.is_empty() || text == "None" || text.contains(':') {
            continue;
        }
        match text.parse() {
            Ok(vip) => {
                vips.insert(vip);
            }
            Err(_) => problems.push(of_service(
                key,
                format!("Service {key}: cluster IP `{text}` is no address"),
            )),
        }
    }
    vips
}

fn port_and_protocol(
    key: &Key,
    port: &facts::ServicePort,
    problems: &mut Vec<Problem>,
) -> Option<(Protocol, u16)> {
    match (&port.protocol, transport_port(port.port)) {
        (Ok(protocol), Some(number)) => Some((*protocol, number)),
        (Err(other), _) => {
            problems.push(Problem::new(
                Subject::Object(format!("Service {key}")),
                format!(
                    "Service {key}: port {} is {other}, which is not translated",
                    port.port
                ),
                "address the pods: other protocols reach them by the stack path",
            ));
            None
        }
        (Ok(_), None) => {
            let what = format!("Service {key}: {} is no port", port.port);
            problems.push(of_service(key, what));
            None
        }
    }
}

fn of_service(key: &Key, what: String) -> Problem {
    Problem::new(
        Subject::Object(format!("Service {key}")),
        what,
        "mend the object; the rest of the cluster is followed all the same",
    )
}

/// The endpoints of one service port.
struct Endpoints {
    chosen: Vec<Backend>,
    alive: Vec<Backend>,
}

/// The backends of one service port, merged over all slices: an endpoint that is moved from one slice to another
/// is in both for a moment. Ports are matched by name, as only the slice knows the pods' port numbers,
/// which may differ from slice to slice.
fn endpoints(
    key: &Key,
    slices: &[&EndpointSlice],
    port_name: &str,
    protocol: Protocol,
    only_node: Option<&str>,
    problems: &mut Vec<Problem>,
) -> Endpoints {
    let mut ready = BTreeSet::new();
    let mut terminating = BTreeSet::new();
    let mut unready = BTreeSet::new();
    let is_near =
        |endpoint: &&Endpoint| only_node.is_none_or(|node| endpoint.node.as_deref() == Some(node));
    for slice in slices {
        let ports = slice
            .ports
            .iter()
            .filter(|port| *port.name == *port_name && port.protocol == protocol);
        for port in ports {
            for endpoint in slice.endpoints.iter().filter(is_near) {
                let usable = match endpoint.usability {
                    Usability::Ready => &mut ready,
                    Usability::ServingWhileTerminating => &mut terminating,
                    Usability::Unready => &mut unready,
                    Usability::None => continue,
                };
                match &endpoint.address {
                    Ok(address) => {
                        usable.insert(Backend {
                            address: *address,
                            port: port.port,
                        });
                    }
                    Err(text) => problems.push(of_service(
                        key,
                        format!(
                            "Service {key}: endpoint address `{text}` is no pod's IPv4 address"
                        ),
                    )),
                }
            }
        }
    }
    let alive: BTreeSet<Backend> = ready
        .iter()
        .chain(&terminating)
        .chain(&unready)
        .copied()
        .collect();
    let chosen = if ready.is_empty() { terminating } else { ready };
    Endpoints {
        chosen: chosen.into_iter().collect(),
        alive: alive.into_iter().collect(),
    }
}

/// Cluster IPs that are in none of the known networks, each as a network of its own. A network that contains them is
/// never guessed; more of them than [`VIPS_OUTSIDE`] mean that a network is missing.
fn vips_outside(
    services: &BTreeMap<ServicePort, Arc<Service>>,
    cidrs: &[ClusterCidr],
    problems: &mut Vec<Problem>,
) -> Vec<ClusterCidr> {
    let networks: Vec<_> = cidrs
        .iter()
        .filter(|cidr| cidr.kind == CidrKind::Service)
        .collect();
    if networks.is_empty() {
        if !services.is_empty() {
            problems.push(Problem::new(
                Subject::Cluster,
                "no service CIDR is known, so no service is reachable: give --service-cidr, or see \
                 that the cluster has a ServiceCIDR object or the kubeadm-config ConfigMap, and \
                 lets them be read",
                "give --service-cidr, or grant the right to read ServiceCIDRs or kubeadm-config",
            ));
        }
        return Vec::new();
    }
    let mut outside: BTreeMap<Ipv4Addr, &Service> = BTreeMap::new();
    for (address, service) in services {
        if !networks
            .iter()
            .any(|network| network.cidr.contains(&address.vip))
        {
            outside.entry(address.vip).or_insert(service);
        }
    }
    let mut own = Vec::new();
    for (vip, service) in outside {
        let name = format!("Service {}/{}", service.namespace, service.name);
        let fate = if own.len() < VIPS_OUTSIDE {
            own.push(ClusterCidr {
                kind: CidrKind::Service,
                cidr: Ipv4Net::from(vip),
                source: name.clone(),
            });
            "is forwarded by itself"
        } else {
            "stays unreachable, as there are too many such"
        };
        problems.push(Problem::new(
            Subject::Object(name.clone()),
            format!("{name}: cluster IP {vip} is in no service CIDR and {fate}"),
            "add the network that it is in with --service-cidr, and give the router a route to it",
        ));
    }
    own
}
