//! A cluster node: its uplink, its overlay, `cni0` and the pods behind it.

use anyhow::Result;

use super::host::Host;
use crate::cluster::{Cluster, ClusterNode};
use crate::machine::netns::{Batch, Namespace};
use crate::plan::{self, PodPlan, ROUTER_LAN, VXLAN_MTU, VXLAN_PORT, VXLAN_VNI};
use crate::variant::Overlay;

/// Brings a node's own interfaces up: the ends of the cables are there already, `eth0` towards the LAN
/// and, where there is a second one, `eth1` towards the other nodes.
pub fn bring_up(
    namespace: &Namespace,
    node: &ClusterNode,
    cluster: &Cluster,
    overlay: Overlay,
) -> Result<()> {
    namespace.sysctl(&[
        ("net/ipv4/ip_forward", "1"),
        // What systemd sets on Debian and Ubuntu.
        ("net/ipv4/conf/default/rp_filter", "2"),
        ("net/ipv4/conf/all/rp_filter", "2"),
        // kubeadm's preflight check asks for it.
        ("net/bridge/bridge-nf-call-iptables", "1"),
    ])?;
    let mut batch = Batch::default();
    batch
        .add("link set lo up")
        .add(format!("addr add {}/24 brd + dev eth0", node.address))
        .add("link set eth0 up")
        .add(format!("route add default via {ROUTER_LAN} dev eth0"));
    if node.underlay != node.address {
        let device = node.underlay_device();
        batch
            .add(format!("addr add {}/24 brd + dev {device}", node.underlay))
            .add(format!("link set {device} up"));
    }
    batch.run(namespace)?;
    add_overlay(namespace, node, cluster, overlay)
}

/// Adds what flannel adds for the other nodes: `flannel.1` with its entries, or routes.
pub fn add_overlay(
    namespace: &Namespace,
    node: &ClusterNode,
    cluster: &Cluster,
    overlay: Overlay,
) -> Result<()> {
    let mut batch = Batch::default();
    let mut forwarding = Batch::default();
    if overlay == Overlay::Vxlan {
        batch
            .add(format!(
                "link add flannel.1 address {} mtu {VXLAN_MTU} type vxlan id {VXLAN_VNI} dev {} \
                 local {} dstport {VXLAN_PORT} nolearning",
                node.vtep_mac(),
                node.underlay_device(),
                node.underlay
            ))
            .add(format!("addr add {}/32 dev flannel.1", node.network()))
            .add("link set flannel.1 up");
    }
    for peer in cluster.nodes.iter().filter(|peer| peer.name != node.name) {
        match overlay {
            Overlay::Vxlan => {
                batch
                    .add(format!(
                        "neigh replace {} lladdr {} dev flannel.1 nud permanent",
                        peer.network(),
                        peer.vtep_mac()
                    ))
                    .add(format!(
                        "route add {} via {} dev flannel.1 onlink",
                        peer.pod_cidr(),
                        peer.network()
                    ));
                forwarding.add(format!(
                    "fdb add {} dev flannel.1 dst {} self permanent",
                    peer.vtep_mac(),
                    peer.underlay
                ));
            }
            Overlay::HostGw => {
                batch.add(format!(
                    "route add {} via {} dev {}",
                    peer.pod_cidr(),
                    peer.underlay,
                    node.underlay_device()
                ));
            }
        }
    }
    batch.run(namespace)?;
    forwarding.run_bridge(namespace)
}

/// Adds pods to a node, and `cni0` with the first of them as the bridge plugin does.
pub fn add_pods(
    namespace: &Namespace,
    node: &ClusterNode,
    overlay: Overlay,
    pods: &[(PodPlan, &Host)],
) -> Result<()> {
    if pods.is_empty() {
        return Ok(());
    }
    let mtu = overlay.pod_mtu();
    let mut batch = Batch::default();
    if namespace
        .output("ip", &["link", "show", "dev", "cni0"])
        .is_err()
    {
        batch
            .add(format!(
                "link add cni0 mtu {mtu} type bridge forward_delay 0"
            ))
            .add(format!("addr add {}/24 brd + dev cni0", node.gateway()))
            .add("link set cni0 up");
    }
    for (pod, host) in pods {
        let [.., last] = pod.address.octets();
        batch
            .add(format!(
                "link add veth{last} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}",
                host.namespace().name()
            ))
            .add(format!("link set veth{last} master cni0 up"))
            // `hairpinMode` of flannel's CNI configuration: a pod may reach itself by its service.
            .add(format!("link set veth{last} type bridge_slave hairpin on"));
    }
    batch.run(namespace)?;
    for (pod, host) in pods {
        let mut batch = Batch::default();
        batch
            .add("link set lo up")
            .add(format!("addr add {}/24 brd + dev eth0", pod.address))
            .add("link set eth0 up")
            .add(format!("route add default via {}", node.gateway()))
            .add(format!(
                "route add {} via {}",
                plan::POD_CIDR,
                node.gateway()
            ));
        batch.run(host.namespace())?;
    }
    Ok(())
}
