//! What the datapath has to know about a cluster.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;
use serde::Serialize;

use crate::model::networks::{self, Conflict, Labelled};
use crate::model::{Problem, Subject};

/// Everything about the cluster that the datapath has to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DesiredState {
    /// The networks on the cluster's side, pods first, ascending, each once.
    pub cidrs: Vec<ClusterCidr>,
    /// What to do with a packet to a VIP and port.
    pub services: BTreeMap<ServicePort, Arc<Service>>,
    /// Whether `services` is complete. If so, nothing else on the node may translate a packet to
    /// a VIP or port that isn't listed, and it has to be rejected; if not, it is kube-proxy's.
    pub authoritative: bool,
    /// What was left out of the above and why, for people; sorted.
    pub problems: Vec<Problem>,
}

impl DesiredState {
    /// The CIDRs of one kind.
    pub fn cidrs_of(&self, kind: CidrKind) -> impl Iterator<Item = Ipv4Net> + '_ {
        self.cidrs
            .iter()
            .filter(move |cidr| cidr.kind == kind)
            .map(|cidr| cidr.cidr)
    }

    /// Networks of two roles that share an address, such as an office network that contains a
    /// node's pod CIDR. The cluster's networks are found while running, so this has to be asked
    /// for every new state.
    #[must_use]
    pub fn conflicts_with_office(&self, office: &[Ipv4Net]) -> Vec<Conflict> {
        let mut networks: Vec<Labelled> = office
            .iter()
            .map(|network| Labelled {
                network: *network,
                role: networks::OFFICE,
                source: "configuration".to_owned(),
            })
            .collect();
        networks.extend(self.cidrs.iter().map(ClusterCidr::labelled));
        networks::role_conflicts(&networks).collect()
    }

    /// This state without the networks that contradict the office's, the configuration's (`explicit`) or those
    /// of another kind before them; they are told among the problems. Everything else is followed all the same.
    #[must_use]
    pub fn without_conflicts(&self, office: &[Ipv4Net], explicit: &[ClusterCidr]) -> Self {
        let is_explicit = |cidr: &ClusterCidr| {
            explicit
                .iter()
                .any(|known| (known.kind, known.cidr) == (cidr.kind, cidr.cidr))
        };
        let (mut kept, found): (Vec<_>, Vec<_>) = self.cidrs.iter().cloned().partition(is_explicit);
        let mut problems = self.problems.clone();
        for cidr in found {
            let mut with = Self {
                cidrs: kept,
                ..Self::default()
            };
            with.cidrs.push(cidr);
            if let Some(conflict) = with.conflicts_with_office(office).first() {
                problems.push(Problem::new(
                    Subject::Cluster,
                    format!("left out: {conflict}"),
                    "one of the two networks has to move, or to be left out of the configuration",
                ));
                with.cidrs.pop();
            }
            kept = with.cidrs;
        }
        kept.sort();
        problems.sort();
        Self {
            cidrs: kept,
            problems,
            ..self.clone()
        }
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
    /// they terminate. Ascending, each once.
    pub backends: Vec<Backend>,
    /// Every endpoint whose pod may go on with what it has begun, `backends` and unready ones included: all but those
    /// that terminate and serve no more. Ascending, each once.
    pub alive: Vec<Backend>,
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
