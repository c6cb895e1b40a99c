//! The switches of a lab, the cables from them to the hosts, and the office's addresses and routes.

use std::path::Path;

use anyhow::Result;

use super::options::LabOptions;
use super::{names, xdp_pass};
use crate::hosts::host::Host;
use crate::machine::netns::{Batch, Namespace};
use crate::plan;
use crate::variant::Datapath;

/// Adds the switches to the namespace `switch`, and the cables from them to the hosts.
pub fn cable(
    switch: &Namespace,
    hosts: &[Host],
    options: &LabOptions,
    directory: &Path,
) -> Result<()> {
    let mut cables = vec![
        ("office", "pc", names::OFFICE_PC, "eth0"),
        ("office", "pc2", names::OFFICE_PC2, "eth0"),
        ("office", "router", names::ROUTER, "office0"),
        ("lan", "lan-router", names::ROUTER, "lan0"),
        ("lan", "lan-node-30", "node-30", "eth0"),
        ("lan", "lan-worker-1", "worker-1", "eth0"),
        ("lan", "lan-worker-2", "worker-2", "eth0"),
    ];
    if options.api_server {
        cables.push(("lan", "lan-control", names::CONTROL_PLANE, "eth0"));
    }
    if options.second_nic {
        cables.extend([
            ("nodes", "node-30", "node-30", "eth1"),
            ("nodes", "worker-1", "worker-1", "eth1"),
            ("nodes", "worker-2", "worker-2", "eth1"),
        ]);
    }
    let mut batch = Batch::default();
    let mut last = "";
    for (switch, near, name, far) in cables {
        if switch != last {
            batch
                .add(format!(
                    "link add {switch} type bridge forward_delay 0 mcast_snooping 0"
                ))
                .add(format!("link set {switch} up"));
            last = switch;
        }
        batch
            .add(format!(
                "link add {near} type veth peer name {far} netns {}",
                names::find(hosts, name).namespace().name()
            ))
            .add(format!("link set {near} master {switch} up"));
    }
    // A switch is no hop of IP: the kernel must not run its frames through iptables.
    switch.sysctl(&[("net/bridge/bridge-nf-call-iptables", "0")])?;
    batch.run(switch)?;
    if options.datapath == Datapath::Xdp {
        ready_for_xdp(switch, options, directory)?;
    }
    Ok(())
}

/// A real NIC hands XDP whole packets with finished checksums. A veth hands on what the sender left to the
/// hardware, so the switch does it, at node-30's ports. And a veth takes frames from XDP only while the other end
/// has NAPI on, which `gro` does for redirected frames, and a program for all.
fn ready_for_xdp(switch: &Namespace, options: &LabOptions, directory: &Path) -> Result<()> {
    let ports = ["lan-node-30"]
        .into_iter()
        .chain(options.second_nic.then_some("node-30"));
    for port in ports {
        let words = "tx off sg off tso off gso off gro on txvlan off tx-udp-segmentation off";
        let arguments: Vec<&str> = ["-K", port].into_iter().chain(words.split(' ')).collect();
        switch.output("ethtool", &arguments)?;
        xdp_pass::attach(switch, port, directory)?;
    }
    Ok(())
}

/// Gives the hosts of the office and their router addresses and routes.
pub fn bring_up_office(hosts: &[Host]) -> Result<()> {
    for (name, address) in [
        (names::OFFICE_PC, plan::OFFICE_PC),
        (names::OFFICE_PC2, plan::OFFICE_PC2),
    ] {
        let mut batch = Batch::default();
        batch
            .add("link set lo up")
            .add(format!("addr add {address}/22 brd + dev eth0"))
            .add("link set eth0 up")
            .add(format!("route add default via {}", plan::OFFICE_GATEWAY));
        batch.run(names::find(hosts, name).namespace())?;
    }
    let router = names::find(hosts, names::ROUTER).namespace();
    router.sysctl(&[("net/ipv4/ip_forward", "1")])?;
    let mut batch = Batch::default();
    batch
        .add("link set lo up")
        .add(format!(
            "addr add {}/22 brd + dev office0",
            plan::OFFICE_GATEWAY
        ))
        .add("link set office0 up")
        .add(format!("addr add {}/24 brd + dev lan0", plan::ROUTER_LAN))
        .add("link set lan0 up")
        .add(format!(
            "route add {} via {}",
            plan::POD_CIDR,
            plan::NODE_30
        ))
        .add(format!(
            "route add {} via {}",
            plan::SERVICE_CIDR,
            plan::NODE_30
        ));
    batch.run(router)
}

/// Gives the host of the API server its address and its route.
pub fn bring_up_control_plane(host: &Host) -> Result<()> {
    let mut batch = Batch::default();
    batch
        .add("link set lo up")
        .add(format!(
            "addr add {}/24 brd + dev eth0",
            plan::CONTROL_PLANE
        ))
        .add("link set eth0 up")
        .add(format!("route add default via {}", plan::ROUTER_LAN));
    batch.run(host.namespace())
}
