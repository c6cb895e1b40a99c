//! From Service and `EndpointSlice` objects to VIPs and backends, by the rules that kube-proxy
//! follows for a client outside the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::core::v1::ServiceSpec;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Backend, CidrKind, ClusterCidr, Key, Objects, Protocol, Service, ServicePort};

/// Ties a slice to its Service (kubernetes/api discovery/v1 `LabelServiceName`).
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// The Service is some other proxy's (kube-proxy `LabelServiceProxyName`).
const SERVICE_PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";

pub(super) fn services(
    objects: &Objects,
    cidrs: &[ClusterCidr],
    problems: &mut Vec<String>,
) -> BTreeMap<ServicePort, Service> {
    let slices = slices_by_service(objects);
    let mut found: BTreeMap<ServicePort, Service> = BTreeMap::new();
    for (key, object) in &objects.services {
        let Some(spec) = &object.spec else { continue };
        if has_label(&object.metadata, SERVICE_PROXY_NAME_LABEL) {
            continue;
        }
        let vips = vips(key, spec, problems);
        let slices = slices.get(key).map(Vec::as_slice).unwrap_or_default();
        for port in spec.ports.iter().flatten() {
            let Some((protocol, number)) = port_and_protocol(key, port, problems) else {
                continue;
            };
            let endpoints = endpoints(key, slices, port.name.as_deref(), protocol, problems);
            let service = Service {
                namespace: key.namespace.clone(),
                name: key.name.clone(),
                port_name: port.name.clone().filter(|name| !name.is_empty()),
                backends: endpoints.chosen,
                serving: endpoints.serving,
                affinity_seconds: affinity_seconds(spec),
            };
            for &vip in &vips {
                let address = ServicePort {
                    vip,
                    port: number,
                    protocol,
                };
                if let Some(first) = found.get(&address) {
                    problems.push(format!(
                        "Service {key}: {address} already belongs to Service {}/{}",
                        first.namespace, first.name
                    ));
                } else {
                    found.insert(address, service.clone());
                }
            }
        }
    }
    note_vips_outside(&found, cidrs, problems);
    found
}

fn slices_by_service(objects: &Objects) -> BTreeMap<Key, Vec<&EndpointSlice>> {
    let mut slices: BTreeMap<Key, Vec<&EndpointSlice>> = BTreeMap::new();
    for (key, slice) in &objects.endpoint_slices {
        let labels = slice.metadata.labels.as_ref();
        let Some(name) = labels.and_then(|labels| labels.get(SERVICE_NAME_LABEL)) else {
            continue;
        };
        if slice.address_type == "IPv4" {
            slices
                .entry(Key {
                    namespace: key.namespace.clone(),
                    name: name.clone(),
                })
                .or_default()
                .push(slice);
        }
    }
    slices
}

fn has_label(metadata: &ObjectMeta, label: &str) -> bool {
    metadata
        .labels
        .as_ref()
        .is_some_and(|labels| labels.contains_key(label))
}

/// The Service's IPv4 cluster IPs; none for headless and `ExternalName` services.
fn vips(key: &Key, spec: &ServiceSpec, problems: &mut Vec<String>) -> BTreeSet<Ipv4Addr> {
    if spec.type_.as_deref() == Some("ExternalName") {
        return BTreeSet::new();
    }
    let listed = spec.cluster_ips.iter().flatten();
    let mut vips = BTreeSet::new();
    for text in listed.chain(&spec.cluster_ip) {
        if text.is_empty() || text == "None" || text.contains(':') {
            continue;
        }
        match text.parse() {
            Ok(vip) => {
                vips.insert(vip);
            }
            Err(_) => problems.push(format!("Service {key}: cluster IP `{text}` is no address")),
        }
    }
    vips
}

fn port_and_protocol(
    key: &Key,
    port: &core::ServicePort,
    problems: &mut Vec<String>,
) -> Option<(Protocol, u16)> {
    let protocol = protocol_of(port.protocol.as_deref());
    let number = transport_port(port.port);
    if protocol.is_none() {
        problems.push(format!(
            "Service {key}: port {} is {}, which is not translated",
            port.port,
            port.protocol.as_deref().unwrap_or_default()
        ));
    } else if number.is_none() {
        problems.push(format!("Service {key}: {} is no port", port.port));
    }
    Some((protocol?, number?))
}

/// TCP is Kubernetes' default; SCTP and anything newer is none of ours.
fn protocol_of(protocol: Option<&str>) -> Option<Protocol> {
    match protocol {
        None | Some("" | "TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some(_) => None,
    }
}

fn transport_port(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|port| *port != 0)
}

/// `sessionAffinity: ClientIP` and its timeout, 10,800 s unless given (kubernetes/api core/v1
/// `DefaultClientIPServiceAffinitySeconds`), a day at most (validation of `ClientIPConfig`).
fn affinity_seconds(spec: &ServiceSpec) -> Option<u32> {
    const DEFAULT: u32 = 10_800;
    const MAX: u32 = 86_400;
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let configured = spec
        .session_affinity_config
        .as_ref()
        .and_then(|config| config.client_ip.as_ref())
        .and_then(|client_ip| client_ip.timeout_seconds)
        .and_then(|seconds| u32::try_from(seconds).ok())
        .filter(|seconds| *seconds > 0);
    Some(configured.unwrap_or(DEFAULT).min(MAX))
}

/// The endpoints of one service port.
struct Endpoints {
    chosen: Vec<Backend>,
    serving: Vec<Backend>,
}

/// The backends of one service port, merged over all slices. Ports are matched by name, as only
/// the slice knows the pods' port numbers, which may differ from slice to slice.
fn endpoints(
    key: &Key,
    slices: &[&EndpointSlice],
    port_name: Option<&str>,
    protocol: Protocol,
    problems: &mut Vec<String>,
) -> Endpoints {
    let mut ready = BTreeSet::new();
    let mut terminating = BTreeSet::new();
    for slice in slices {
        for port in slice.ports.iter().flatten() {
            if port.name.as_deref().unwrap_or_default() != port_name.unwrap_or_default()
                || protocol_of(port.protocol.as_deref()) != Some(protocol)
            {
                continue;
            }
            let Some(number) = port.port.and_then(transport_port) else {
                continue;
            };
            for endpoint in slice.endpoints.iter().flatten() {
                let usable = match usability(endpoint) {
                    Usability::Ready => &mut ready,
                    Usability::ServingWhileTerminating => &mut terminating,
                    Usability::None => continue,
                };
                // All addresses of an endpoint are the same pod; kube-proxy takes the first.
                let Some(text) = endpoint.addresses.first() else {
                    continue;
                };
                match backend_address(text) {
                    Some(address) => {
                        usable.insert(Backend {
                            address,
                            port: number,
                        });
                    }
                    None => problems.push(format!(
                        "Service {key}: endpoint address `{text}` is no pod's IPv4 address"
                    )),
                }
            }
        }
    }
    let serving = ready.union(&terminating).copied().collect();
    let chosen = if ready.is_empty() { terminating } else { ready };
    Endpoints {
        chosen: chosen.into_iter().collect(),
        serving,
    }
}

enum Usability {
    Ready,
    ServingWhileTerminating,
    None,
}

/// KEP-1669 and KEP-1672: ready endpoints take new flows; if there is none at all, those that still
/// serve while they terminate do. An absent condition reads as ready, serving, not terminating
/// (kubernetes/api discovery/v1 `EndpointConditions`).
fn usability(endpoint: &Endpoint) -> Usability {
    let Some(conditions) = &endpoint.conditions else {
        return Usability::Ready;
    };
    if conditions.ready.unwrap_or(true) {
        Usability::Ready
    } else if conditions.serving.unwrap_or(true) && conditions.terminating.unwrap_or(false) {
        Usability::ServingWhileTerminating
    } else {
        Usability::None
    }
}

fn backend_address(text: &str) -> Option<Ipv4Addr> {
    text.parse().ok().filter(|address: &Ipv4Addr| {
        !(address.is_unspecified()
            || address.is_loopback()
            || address.is_link_local()
            || address.is_multicast()
            || address.is_broadcast())
    })
}

fn note_vips_outside(
    services: &BTreeMap<ServicePort, Service>,
    cidrs: &[ClusterCidr],
    problems: &mut Vec<String>,
) {
    let networks: Vec<_> = cidrs
        .iter()
        .filter(|cidr| cidr.kind == CidrKind::Service)
        .collect();
    if networks.is_empty() {
        if !services.is_empty() {
            problems.push(
                "no service CIDR is known, so no service is reachable: give --service-cidr, or a \
                 ServiceCIDR object or the kubeadm-config ConfigMap among the manifests"
                    .to_owned(),
            );
        }
        return;
    }
    for (address, service) in services {
        if !networks
            .iter()
            .any(|network| network.cidr.contains(&address.vip))
        {
            problems.push(format!(
                "Service {}/{}: cluster IP {} is in no service CIDR and stays unreachable",
                service.namespace, service.name, address.vip
            ));
        }
    }
}
