//! The checked form of the configuration.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::Ipv4Net;

use super::datapath::Datapath;
use super::dns::DnsConfig;
use super::environment::Environment;
use super::http::HttpConfig;
use super::settings::Settings;
use super::timeouts::Timeouts;
use super::{cluster, datapath, dns, host, http, nat, networks, timeouts};
use crate::cluster::{CidrKind, ClusterCidr, InternalTrafficPolicy, SourceSpec};
use crate::datapath::TcAttach;
use crate::model::Findings;
use crate::model::networks::Labelled;

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
    /// Whether packets to services from no office network pass.
    pub pass_other_sources: bool,
    /// The DNS relay, if there is to be one.
    pub dns: Option<DnsConfig>,
    /// The domain under which the cluster's names are, without the last dot, in lower case.
    pub cluster_domain: String,
    /// How status and metrics are served, if they are to be.
    pub http: Option<HttpConfig>,
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

impl Config {
    /// The settings as a configuration, which is of use only if no error is among the findings.
    pub(super) fn check(
        settings: &Settings,
        environment: Environment,
        findings: &mut Findings,
    ) -> Self {
        let networks = networks::check(settings, findings);
        let cluster = cluster::source(settings, &environment, findings);
        let foreign = networks.office.iter().chain(&networks.services);
        let snat_addresses = nat::check(settings, &foreign, findings);
        Self {
            uplink: networks.uplink,
            office_cidrs: networks
                .office
                .iter()
                .map(|office| office.network)
                .collect(),
            cluster_cidrs: [
                cluster_cidrs(CidrKind::Pod, networks.pods),
                cluster_cidrs(CidrKind::Service, networks.services),
            ]
            .concat(),
            cluster,
            internal_traffic_policy: cluster::internal_traffic_policy(
                settings,
                environment,
                findings,
            ),
            datapath: datapath::layer(settings, findings),
            snat_addresses,
            answer_ping: datapath::answers_ping(settings),
            pass_other_sources: datapath::passes_other_sources(settings),
            dns: dns::check(settings, findings),
            cluster_domain: dns::cluster_domain(settings, findings),
            http: http::check(settings, findings),
            pin_path: host::pin_path(settings, findings),
            manage_sysctls: host::manages_sysctls(settings),
            tc_attach: datapath::tc_attach(settings, findings),
            flow_capacity: datapath::flow_capacity(settings, findings),
            timeouts: timeouts::check(settings, findings),
        }
    }
}

fn cluster_cidrs(kind: CidrKind, networks: Vec<Labelled>) -> Vec<ClusterCidr> {
    networks
        .into_iter()
        .map(|labelled| ClusterCidr {
            kind,
            cidr: labelled.network,
            source: labelled.source,
        })
        .collect()
}
