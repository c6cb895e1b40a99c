//! The few fields of each kind of object that make a difference.

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;

use super::Protocol;

/// Ties a slice to its Service (kubernetes/api discovery/v1 `LabelServiceName`).
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// The Service is some other proxy's (kube-proxy `LabelServiceProxyName`).
const SERVICE_PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// Where kubeadm keeps its `ClusterConfiguration`.
const CLUSTER_CONFIGURATION: &str = "ClusterConfiguration";

/// A node.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) pod_cidrs: Vec<String>,
}

impl From<core::Node> for Node {
    fn from(node: core::Node) -> Self {
        let spec = node.spec.unwrap_or_default();
        Self {
            // `podCIDRs` repeats `podCIDR` as its first item; only old objects lack it.
            pod_cidrs: spec
                .pod_cidrs
                .filter(|cidrs| !cidrs.is_empty())
                .unwrap_or_else(|| spec.pod_cidr.into_iter().collect()),
        }
    }
}

/// A network that cluster IPs are taken from.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ServiceCidr {
    pub(super) cidrs: Vec<String>,
}

impl From<networking::ServiceCIDR> for ServiceCidr {
    fn from(object: networking::ServiceCIDR) -> Self {
        Self {
            cidrs: object.spec.and_then(|spec| spec.cidrs).unwrap_or_default(),
        }
    }
}

/// A configuration map.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ConfigMap {
    pub(super) cluster_configuration: Option<String>,
}

impl From<core::ConfigMap> for ConfigMap {
    fn from(object: core::ConfigMap) -> Self {
        Self {
            cluster_configuration: object
                .data
                .and_then(|mut data| data.remove(CLUSTER_CONFIGURATION)),
        }
    }
}

/// A service.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Service {
    /// Whether it has a VIP that is ours to translate: no `ExternalName`, no other proxy's.
    pub(super) is_ours: bool,
    /// As written, IPv6 and `None` included.
    pub(super) cluster_ips: Vec<String>,
    pub(super) ports: Vec<ServicePort>,
    pub(super) affinity_seconds: Option<u32>,
    /// `internalTrafficPolicy: Local`.
    pub(super) is_local: bool,
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ServicePort {
    /// Empty for none.
    pub(super) name: String,
    /// As written, where it is neither TCP nor UDP.
    pub(super) protocol: Result<Protocol, String>,
    /// As written.
    pub(super) port: i32,
}

impl From<core::Service> for Service {
    fn from(object: core::Service) -> Self {
        let spec = object.spec.unwrap_or_default();
        let is_other_proxys = object
            .metadata
            .labels
            .is_some_and(|labels| labels.contains_key(SERVICE_PROXY_NAME_LABEL));
        let affinity_seconds = affinity_seconds(&spec);
        Self {
            is_ours: !is_other_proxys && spec.type_.as_deref() != Some("ExternalName"),
            affinity_seconds,
            is_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            cluster_ips: spec
                .cluster_ips
                .unwrap_or_default()
                .into_iter()
                .chain(spec.cluster_ip)
                .collect(),
            ports: spec
                .ports
                .unwrap_or_default()
                .into_iter()
                .map(|port| ServicePort {
                    name: port.name.unwrap_or_default(),
                    protocol: protocol_of(port.protocol),
                    port: port.port,
                })
                .collect(),
        }
    }
}

/// `sessionAffinity: ClientIP` and its timeout, 10,800 s unless given (kubernetes/api core/v1
/// `DefaultClientIPServiceAffinitySeconds`), a day at most (validation of `ClientIPConfig`).
fn affinity_seconds(spec: &core::ServiceSpec) -> Option<u32> {
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

/// TCP is Kubernetes' default; SCTP and anything newer is none of ours.
fn protocol_of(protocol: Option<String>) -> Result<Protocol, String> {
    match protocol.as_deref() {
        None | Some("" | "TCP") => Ok(Protocol::Tcp),
        Some("UDP") => Ok(Protocol::Udp),
        Some(_) => Err(protocol.unwrap_or_default()),
    }
}

/// Some of a service's IPv4 endpoints; none for a slice of another address type.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct EndpointSlice {
    /// The name of the Service, in the same namespace.
    pub(super) service: Option<Box<str>>,
    pub(super) ports: Vec<SlicePort>,
    pub(super) endpoints: Vec<Endpoint>,
}

/// A port that all endpoints of a slice have.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct SlicePort {
    /// Empty for none.
    pub(super) name: Box<str>,
    pub(super) protocol: Protocol,
    /// Host order.
    pub(super) port: u16,
}

/// An endpoint.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Endpoint {
    /// As written, where it is no pod's IPv4 address.
    pub(super) address: Result<Ipv4Addr, Box<str>>,
    pub(super) usability: Usability,
    /// The node that it is on.
    pub(super) node: Option<Box<str>>,
}

/// What an endpoint is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Usability {
    /// New flows.
    Ready,
    /// New flows if no endpoint is ready, and established ones.
    ServingWhileTerminating,
    /// Established flows: the pod lives, whatever its probe says.
    Unready,
    /// Nothing: the pod is about to end, or has.
    None,
}

impl From<discovery::EndpointSlice> for EndpointSlice {
    fn from(object: discovery::EndpointSlice) -> Self {
        let mut labels = object.metadata.labels.unwrap_or_default();
        let is_ipv4 = object.address_type == "IPv4";
        let ports = object.ports.unwrap_or_default();
        let endpoints = object.endpoints.unwrap_or_default();
        Self {
            service: labels
                .remove(SERVICE_NAME_LABEL)
                .filter(|_| is_ipv4)
                .map(Into::into),
            ports: ports.into_iter().filter_map(slice_port).collect(),
            endpoints: endpoints.into_iter().filter_map(endpoint).collect(),
        }
    }
}

fn slice_port(port: discovery::EndpointPort) -> Option<SlicePort> {
    Some(SlicePort {
        name: port.name.unwrap_or_default().into(),
        protocol: protocol_of(port.protocol).ok()?,
        port: transport_port(port.port?)?,
    })
}

/// A port number that packets can have, in host order.
pub(super) fn transport_port(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|port| *port != 0)
}

fn endpoint(endpoint: discovery::Endpoint) -> Option<Endpoint> {
    let usability = usability(&endpoint);
    // All addresses of an endpoint are the same pod; kube-proxy takes the first.
    let text = endpoint.addresses.into_iter().next()?;
    Some(Endpoint {
        address: pod_address(&text).ok_or_else(|| text.into()),
        usability,
        node: endpoint.node_name.map(Into::into),
    })
}

/// KEP-1669 and KEP-1672: ready endpoints take new flows; if there is none at all, those that still
/// serve while they terminate do. Flows that are established go on at any but those that terminate and serve no more. An absent condition reads as ready, serving, not terminating
/// (kubernetes/api discovery/v1 `EndpointConditions`). `ready` has heeded `publishNotReadyAddresses`.
fn usability(endpoint: &discovery::Endpoint) -> Usability {
    let Some(conditions) = &endpoint.conditions else {
        return Usability::Ready;
    };
    let is_terminating = conditions.terminating.unwrap_or(false);
    if conditions.ready.unwrap_or(true) {
        Usability::Ready
    } else if !is_terminating {
        Usability::Unready
    } else if conditions.serving.unwrap_or(true) {
        Usability::ServingWhileTerminating
    } else {
        Usability::None
    }
}

fn pod_address(text: &str) -> Option<Ipv4Addr> {
    text.parse().ok().filter(|address: &Ipv4Addr| {
        !(address.is_unspecified()
            || address.is_loopback()
            || address.is_link_local()
            || address.is_multicast()
            || address.is_broadcast())
    })
}
