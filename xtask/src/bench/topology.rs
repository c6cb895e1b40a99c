//! Three namespaces in a row, in the order of a packet from the office:
//!
//! ```text
//!  office  o0 ──── u0  node  w0 ──── w1  worker
//!   .1    10.60.20.0/24   .30     10.70.0.0/24   .31
//! ```
//!
//! Pods (10.244.1.0/24) are behind the worker; the node reaches them by a route, or through `flannel.1`.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use lab::Host;
use lab::cluster::{Cluster, ClusterNode};
use lab::netns::{Batch, Namespace, create};
use lab::plan::{
    NODE_30, OFFICE_CIDR, OFFICE_PC, POD_CIDR, ROUTER_LAN, SERVICE_CIDR, VXLAN_MTU, VXLAN_PORT,
    VXLAN_VNI,
};
use lab::run_dir::RunDir;

use super::plan::Network;

/// The pod that TCP connections go to. Generated packets go to other addresses of its network too.
pub const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 2);

/// One end of a veth pair.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// Name of the interface.
    pub name: &'static str,
    /// Its MAC address.
    pub mac: [u8; 6],
}

const fn end(name: &'static str, last: u8) -> End {
    End {
        name,
        mac: [0x02, 0xbe, 0, 0, 0, last],
    }
}

/// In the office.
pub const OFFICE: End = end("o0", 1);
pub const UPLINK: End = end("u0", 2);
/// Of the node, towards the worker.
pub const CLUSTER: End = end("w0", 3);
/// In the worker.
pub const WORKER: End = end("w1", 4);

/// The namespaces. Dropping it removes them.
#[derive(Debug)]
pub struct Topology {
    /// The clients' namespace.
    pub office: Namespace,
    /// The namespace of the forwarder under test.
    pub node: Namespace,
    /// The pods' namespace.
    pub worker: Namespace,
    /// The network between node and worker.
    pub network: Network,
    directory: RunDir,
}

impl Topology {
    /// Builds it, with no forwarder but the kernel.
    pub fn open(network: Network, nodes: &[ClusterNode]) -> Result<Self> {
        let directory = RunDir::create()?;
        let [office, node, worker] =
            ["office", "node", "worker"].map(|name| directory.namespace(name));
        let topology = Self {
            office,
            node,
            worker,
            network,
            directory,
        };
        topology.build(nodes).context("build the namespaces")?;
        Ok(topology)
    }

    fn build(&self, nodes: &[ClusterNode]) -> Result<()> {
        let [node, worker] = nodes else {
            anyhow::bail!("the bench has one node and one worker");
        };
        create(&[&self.office, &self.node, &self.worker])?;
        for namespace in [&self.office, &self.node, &self.worker] {
            // With IPv6 the kernel would send packets of its own.
            namespace.sysctl(&[
                ("net/ipv6/conf/default/disable_ipv6", "1"),
                ("net/ipv6/conf/all/disable_ipv6", "1"),
                ("net/ipv4/conf/all/rp_filter", "0"),
                ("net/ipv4/conf/default/rp_filter", "0"),
            ])?;
        }
        cable((&self.office, OFFICE), (&self.node, UPLINK))?;
        cable((&self.node, CLUSTER), (&self.worker, WORKER))?;
        self.office_side()?;
        self.node_side(node, worker)?;
        self.worker_side(node, worker)
    }

    fn office_side(&self) -> Result<()> {
        let mut batch = Batch::default();
        batch
            .add("link set lo up")
            .add(format!("addr add {OFFICE_PC}/32 dev lo"))
            .add(format!("addr add {ROUTER_LAN}/24 dev o0"));
        up(&mut batch, OFFICE, &NODE_30.to_string(), UPLINK);
        for cidr in [POD_CIDR, SERVICE_CIDR] {
            batch.add(format!(
                "route add {cidr} via {NODE_30} dev o0 src {OFFICE_PC}"
            ));
        }
        batch.run(&self.office)
    }

    fn node_side(&self, node: &ClusterNode, worker: &ClusterNode) -> Result<()> {
        self.node.sysctl(&[("net/ipv4/ip_forward", "1")])?;
        let mut batch = Batch::default();
        batch
            .add("link set lo up")
            .add(format!("addr add {NODE_30}/24 dev u0"))
            .add(format!("addr add {}/24 dev w0", node.underlay));
        up(&mut batch, UPLINK, &ROUTER_LAN.to_string(), OFFICE);
        up(&mut batch, CLUSTER, &worker.underlay.to_string(), WORKER);
        batch
            .add(format!("route add default via {ROUTER_LAN} dev u0"))
            .add(format!("route add {OFFICE_CIDR} via {ROUTER_LAN} dev u0"));
        match self.network {
            Network::HostGw => {
                batch.add(format!(
                    "route add {} via {} dev w0",
                    worker.pod_cidr(),
                    worker.underlay
                ));
                batch.run(&self.node)
            }
            Network::Vxlan => {
                batch.run(&self.node)?;
                tunnel(&self.node, CLUSTER, node, worker, &[&worker.pod_cidr()])
            }
        }
    }

    fn worker_side(&self, node: &ClusterNode, worker: &ClusterNode) -> Result<()> {
        let mut batch = Batch::default();
        batch
            .add("link set lo up")
            .add(format!("addr add {POD}/32 dev lo"))
            .add(format!("addr add {}/24 dev w1", worker.underlay));
        up(&mut batch, WORKER, &node.underlay.to_string(), CLUSTER);
        match self.network {
            Network::HostGw => {
                batch.add(format!(
                    "route add {OFFICE_CIDR} via {} dev w1",
                    node.underlay
                ));
                batch.run(&self.worker)
            }
            Network::Vxlan => {
                batch.run(&self.worker)?;
                let behind = [&node.pod_cidr(), OFFICE_CIDR];
                tunnel(&self.worker, WORKER, worker, node, &behind)
            }
        }
    }

    /// The bridge's directory for pins.
    pub fn pin_path(&self) -> PathBuf {
        self.directory.pin_path()
    }

    /// A directory for logs and manifests.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A client that opens sockets.
    pub fn client(&self) -> Host {
        let directory = self.directory.path().to_owned();
        Host::new("office", OFFICE_PC, self.office.clone(), directory)
    }

    /// The pod that TCP connections go to.
    pub fn server(&self) -> Host {
        let directory = self.directory.path().to_owned();
        Host::new("worker", POD, self.worker.clone(), directory)
    }

    pub fn index(namespace: &Namespace, end: End) -> Result<u32> {
        namespace.run_in(|| {
            nix::net::if_::if_nametoindex(end.name)
                .with_context(|| format!("find the interface {}", end.name))
        })
    }

    /// Turns checksum offload off: otherwise XDP on a veth sees packets of local senders without a checksum, as no
    /// packet from a NIC is.
    pub fn complete_checksums(&self) -> Result<()> {
        let mut ends = vec![(&self.office, "o0"), (&self.worker, "w1")];
        if self.network == Network::Vxlan {
            ends.push((&self.worker, "flannel.1"));
        }
        for (namespace, end) in ends {
            namespace.output("ethtool", &["-K", end, "tx", "off"])?;
        }
        Ok(())
    }
}

/// Turns generic receive offload on: without it a veth that has no XDP program drops redirected frames.
fn cable(one: (&Namespace, End), other: (&Namespace, End)) -> Result<()> {
    let mut batch = Batch::default();
    batch.add(format!(
        "link add {} address {} type veth peer name {} address {} netns {}",
        one.1.name,
        text(one.1.mac),
        other.1.name,
        text(other.1.mac),
        other.0.name()
    ));
    batch.run(one.0)?;
    for (namespace, end) in [one, other] {
        namespace.output("ethtool", &["-K", end.name, "gro", "on"])?;
    }
    Ok(())
}

/// Adds permanent neighbours, as the sinks drop ARP.
fn up(batch: &mut Batch, end: End, neighbour: &str, peer: End) {
    batch.add(format!("link set {} up", end.name)).add(format!(
        "neigh replace {neighbour} lladdr {} dev {} nud permanent",
        text(peer.mac),
        end.name
    ));
}

/// Makes `flannel.1` with the neighbour, the FDB entry and the route that flannel writes for its peer.
fn tunnel(
    namespace: &Namespace,
    end: End,
    own: &ClusterNode,
    peer: &ClusterNode,
    behind: &[&str],
) -> Result<()> {
    let mut batch = Batch::default();
    batch
        .add(format!(
            "link add flannel.1 address {} mtu {VXLAN_MTU} type vxlan id {VXLAN_VNI} dev {} local {} \
             dstport {VXLAN_PORT} nolearning",
            own.vtep_mac(),
            end.name,
            own.underlay
        ))
        .add(format!("addr add {}/32 dev flannel.1", own.network()))
        .add("link set flannel.1 up")
        .add(format!(
            "neigh replace {} lladdr {} dev flannel.1 nud permanent",
            peer.network(),
            peer.vtep_mac()
        ));
    for cidr in behind {
        batch.add(format!(
            "route add {cidr} via {} dev flannel.1 onlink",
            peer.network()
        ));
    }
    batch.run(namespace)?;
    let mut forwarding = Batch::default();
    forwarding.add(format!(
        "fdb add {} dev flannel.1 dst {} self permanent",
        peer.vtep_mac(),
        peer.underlay
    ));
    forwarding.run_bridge(namespace)?;
    namespace
        .output("ethtool", &["-K", "flannel.1", "gro", "on"])
        .map(drop)
}

/// Node-30 and its worker.
pub fn nodes() -> Vec<ClusterNode> {
    let mut nodes = Cluster::new(false, true).nodes;
    nodes.truncate(2);
    nodes
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}
