//! What the cluster looks like: a *source* gives Kubernetes objects, and from them comes the one
//! typed [`DesiredState`] that the reconciler brings the kernel tables to.
//!
//! ```text
//! manifests --> objects --> discovery (CIDRs) --+
//!                      \--> services (VIPs) ----+--> DesiredState --> watch channel
//! command line --------------------------------+
//! ```
//!
//! [`desired_state`] is a pure function of the objects; a source only has to keep [`Objects`] up
//! to date and to call it.

mod discovery;
mod manifests;
mod objects;
mod services;

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::Ipv4Net;
use serde::Serialize;
use tokio::sync::watch;

pub use self::manifests::ManifestError;
pub use self::objects::{Key, Object, Objects};
use crate::networks::{self, Conflict, Labelled};

/// Where the knowledge about the cluster comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The CIDRs of the configuration and nothing else; services are translated by kube-proxy.
    Static,
    /// A directory of ordinary Kubernetes manifests, followed as it changes.
    Manifests(PathBuf),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Static => f.write_str("static"),
            Self::Manifests(directory) => write!(f, "manifests={}", directory.display()),
        }
    }
}

/// Everything about the cluster that the datapath has to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DesiredState {
    /// The networks on the cluster's side, pods first, ascending, each once.
    pub cidrs: Vec<ClusterCidr>,
    /// What to do with a packet to a VIP and port.
    pub services: BTreeMap<ServicePort, Service>,
    /// Whether `services` is complete. If so, nothing else on the node may translate a packet to
    /// a VIP or port that isn't listed, and it has to be rejected; if not, it is kube-proxy's.
    pub authoritative: bool,
    /// What was left out of the above and why, for people; sorted.
    pub problems: Vec<String>,
}

impl DesiredState {
    /// The CIDRs of one kind.
    pub fn cidrs_of(&self, kind: CidrKind) -> impl Iterator<Item = Ipv4Net> + '_ {
        self.cidrs
            .iter()
            .filter(move |cidr| cidr.kind == kind)
            .map(|cidr| cidr.cidr)
    }

    /// Whether the cluster's networks and these office networks can live together.
    ///
    /// # Errors
    /// When networks of two roles share an address, such as an office network that contains a
    /// node's pod CIDR. The cluster's networks are found while running, so this has to be asked
    /// for every new state.
    pub fn check_against_office(&self, office: &[Ipv4Net]) -> Result<(), Conflict> {
        let mut networks: Vec<Labelled> = office
            .iter()
            .map(|network| Labelled {
                network: *network,
                role: networks::OFFICE,
                source: "configuration".to_owned(),
            })
            .collect();
        networks.extend(self.cidrs.iter().map(ClusterCidr::labelled));
        networks::check_roles(&networks)
    }
}

/// One network on the cluster's side.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ClusterCidr {
    /// Pods or services.
    pub kind: CidrKind,
    /// The network.
    pub cidr: Ipv4Net,
    /// Who says so, for people: `command line`, `ServiceCIDR kubernetes`,
    /// `Node worker-1 spec.podCIDRs`.
    pub source: String,
}

impl ClusterCidr {
    /// The same with its role, for messages about conflicts.
    #[must_use]
    pub fn labelled(&self) -> Labelled {
        Labelled {
            network: self.cidr,
            role: match self.kind {
                CidrKind::Pod => networks::POD,
                CidrKind::Service => networks::SERVICE,
            },
            source: self.source.clone(),
        }
    }
}

/// What lives in a network of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CidrKind {
    /// Pods: real hosts.
    Pod,
    /// Services: addresses that exist only in translation tables.
    Service,
}

impl fmt::Display for CidrKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pod => "pod",
            Self::Service => "service",
        })
    }
}

/// A transport protocol that a service can have here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// The protocol's number in the IPv4 header (IANA "Assigned Internet Protocol Numbers").
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// What a client addresses when it uses a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ServicePort {
    /// The service's cluster IP.
    pub vip: Ipv4Addr,
    /// Port in host order.
    pub port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
}

impl fmt::Display for ServicePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.vip, self.port, self.protocol)
    }
}

/// A service as one of its ports sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Service {
    /// The Service object's namespace.
    pub namespace: String,
    /// The Service object's name.
    pub name: String,
    /// The port's name; only services with a single port may leave it out.
    pub port_name: Option<String>,
    /// Where new flows may go: ready endpoints or, without any, those that still serve while
    /// they terminate. Ascending, each once. UDP flows to any other end.
    pub backends: Vec<Backend>,
    /// Every endpoint that still serves, `backends` included: established TCP flows to these go on.
    /// Ascending, each once.
    pub serving: Vec<Backend>,
    /// How long a client comes to the same backend after its last new flow
    /// (`sessionAffinity: ClientIP`), in seconds; `None` without affinity.
    pub affinity_seconds: Option<u32>,
}

/// A pod's address and port behind a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Backend {
    /// The pod's address.
    pub address: Ipv4Addr,
    /// Port in host order.
    pub port: u16,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.address, self.port)
    }
}

/// The desired state that follows from a cluster's objects.
///
/// `explicit` are the CIDRs of the configuration; per kind, they win over everything that the
/// objects say. Then come, first hit wins: for services the `ServiceCIDR` objects, then the
/// `kubeadm-config` `ConfigMap`; for pods that `ConfigMap`, then the nodes' `spec.podCIDRs`. No CIDR
/// is ever inferred from addresses in use.
#[must_use]
pub fn desired_state(objects: &Objects, explicit: &[ClusterCidr]) -> DesiredState {
    let mut problems = Vec::new();
    let cidrs = discovery::cidrs(objects, explicit, &mut problems);
    let services = services::services(objects, &cidrs, &mut problems);
    problems.sort();
    problems.dedup();
    DesiredState {
        cidrs,
        services,
        authoritative: true,
        problems,
    }
}

/// The desired state without any knowledge of services.
#[must_use]
pub fn static_state(explicit: &[ClusterCidr]) -> DesiredState {
    DesiredState {
        authoritative: false,
        ..desired_state(&Objects::default(), explicit)
    }
}

/// Reads the source once and follows it from then on in a task of its own, which ends when the
/// last receiver is dropped.
///
/// The channel only changes when the state really does. Whatever happens to the source later, the
/// last good state stays.
///
/// # Errors
/// When the source cannot be read at first: a state with holes in it would have the reconciler
/// remove services that exist.
///
/// # Panics
/// Outside a tokio runtime.
pub fn watch(
    source: &Source,
    explicit: Vec<ClusterCidr>,
) -> Result<watch::Receiver<Arc<DesiredState>>, ManifestError> {
    match source {
        Source::Static => {
            let (sender, receiver) = watch::channel(Arc::new(static_state(&explicit)));
            // A dropped sender would read as "the source has died".
            tokio::spawn(async move { sender.closed().await });
            Ok(receiver)
        }
        Source::Manifests(directory) => manifests::watch(directory, explicit),
    }
}

#[cfg(test)]
mod tests;
