//! Sets a contestant up in the node.

use std::path::{Path, PathBuf};

use anyhow::Result;
use lab::Firewall;
use lab::cluster::Cluster;
use lab::netfilter::{self, NodeRules};
use lab::plan::{OFFICE_CIDR, POD_CIDR, SERVICE_CIDR};

use super::bridge::Bridge;
use super::plan::Contestant;
use super::topology::{Topology, UPLINK};
use super::traffic::{Redirect, Sink};

/// What keeps a contestant running. Dropping it ends that.
pub enum Forwarder {
    /// Rules in the kernel; they go with the namespace.
    Kernel,
    Ceiling(Sink),
    /// XDP programs at both ends of the node.
    Redirect(#[expect(dead_code, reason = "detaches when dropped")] Redirect),
    /// The process of office-bridge.
    Bridge(Bridge),
}

/// Files of the programs that are measured and that measure.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The executable of office-bridge.
    pub bridge: PathBuf,
    /// The eBPF object with the generator and the sink.
    pub traffic: PathBuf,
}

/// Sets `contestant` up in the node.
pub fn set_up(
    contestant: Contestant,
    programs: &Programs,
    topology: &Topology,
    cluster: &Cluster,
    flow_capacity: u32,
) -> Result<Forwarder> {
    let object: &Path = &programs.traffic;
    match contestant {
        Contestant::Ceiling => Sink::attach(object, &topology.node, UPLINK).map(Forwarder::Ceiling),
        Contestant::Redirect => Redirect::attach(object, topology).map(Forwarder::Redirect),
        Contestant::Kernel => Ok(Forwarder::Kernel),
        Contestant::Iptables => {
            if !cluster.services.is_empty() {
                let kube_proxy = NodeRules {
                    kube_proxy: true,
                    masquerade: false,
                    // The recipe's own rules masquerade, and they keep the client's port where it is free, so that the
                    // bench knows which replies to send.
                    service_masquerade: false,
                    firewall: Firewall::Open,
                };
                netfilter::install(&topology.node, &cluster.nodes[0], cluster, kube_proxy)?;
            }
            netfilter::add_recipe(&topology.node)?;
            Ok(Forwarder::Kernel)
        }
        Contestant::Nftables => {
            let ruleset = format!(
                "table ip nat {{\nchain postrouting {{\ntype nat hook postrouting priority srcnat;\n\
                 ip saddr {OFFICE_CIDR} ip daddr {{ {POD_CIDR}, {SERVICE_CIDR} }} masquerade\n}}\n}}\n"
            );
            topology.node.feed("nft", &["-f", "-"], &ruleset)?;
            Ok(Forwarder::Kernel)
        }
        Contestant::Stack | Contestant::Tc | Contestant::Xdp => {
            let datapath = contestant.datapath().unwrap_or("auto");
            Bridge::start(&programs.bridge, topology, datapath, cluster, flow_capacity)
                .map(Forwarder::Bridge)
        }
    }
}
