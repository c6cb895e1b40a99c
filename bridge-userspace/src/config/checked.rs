//! The checked form of the configuration.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;

use ipnet::Ipv4Net;

use super::timeouts::Timeouts;
use crate::cluster::{ClusterCidr, InternalTrafficPolicy, SourceSpec};
use crate::datapath::TcAttach;

/// What `run` has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The interface where clients come in.
    pub uplink: String,
    /// Whose packets are taken care of; disjoint, at least one.
    pub office_cidrs: Vec<Ipv4Net>,
    /// The cluster's networks as configured; they win over discovered ones. Disjoint among
    /// themselves and from the office's.
    pub cluster_cidrs: Vec<ClusterCidr>,
    /// Where everything else about the cluster comes from.
    pub cluster: SourceSpec,
    /// What becomes of services that are for clients on the same node only.
    pub internal_traffic_policy: InternalTrafficPolicy,
    /// Which hooks to use.
    pub datapath: Datapath,
    /// Addresses to translate clients to; empty for the preferred source of the kernel's route.
    pub snat_addresses: Vec<Ipv4Addr>,
    /// Whether a ping to the address of a service with a ready backend is answered.
    pub answer_ping: bool,
    /// The DNS relay, if there is to be one.
    pub dns: Option<DnsConfig>,
    /// The domain under which the cluster's names are, without the last dot, in lower case.
    pub cluster_domain: String,
    /// Where status and metrics are served, if they are to be.
    pub http_listen: Option<SocketAddrV4>,
    /// Directory of the pinned tables and links.
    pub pin_path: PathBuf,
    /// Whether sysctls that stand in the way may be changed.
    pub manage_sysctls: bool,
    /// How to attach at TC.
    pub tc_attach: TcAttach,
    /// How many flows the tables hold.
    pub flow_capacity: u32,
    /// How long a flow may be silent.
    pub timeouts: Timeouts,
}

/// Which layers of the datapath new flows take. Flows that are there stay on theirs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Datapath {
    /// The fastest that works on each interface, and the stack path for what the tables don't know.
    #[default]
    Auto,
    /// As `Auto`, but XDP on the uplink or nothing.
    Xdp,
    /// The TC path, and the stack path for what the tables don't know.
    Tc,
    /// The stack path alone: the kernel routes, netfilter sees everything.
    Stack,
}

/// What the DNS relay has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsConfig {
    /// Where queries are taken, UDP and TCP; at least one.
    pub listen: Vec<SocketAddrV4>,
    /// Who answers them, in order of preference; at least one, none of them one of `listen`.
    pub upstream: Vec<SocketAddrV4>,
    /// Whose queries are taken besides those of the office.
    pub allow: Vec<Ipv4Net>,
}
