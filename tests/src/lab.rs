//! The lab itself: opens everything, hands out its hosts, closes everything.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::api::ApiServer;
use crate::bridge::Bridge;
use crate::cluster::{Cluster, ClusterNode, Protocol};
use crate::dns::{self, DnsPlan};
use crate::envtest::{self, Programs};
use crate::host::{Host, exchange};
use crate::kube_proxy::KubeProxy;
use crate::manifests;
use crate::netns::{self, Batch, Namespace};
use crate::node::{self, Overlay};
use crate::plan::{self, PodPlan, port};
use crate::process::Daemon;
use crate::rules::{self, Firewall, NodeRules};
use crate::run_dir::{self, RunDir};
use crate::serve::http::{self, Response};
use crate::serve::{self, mysql, registry};
use crate::variant::{Datapath, Variant};
use crate::xdp_pass;

/// What kind of lab to open.
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "switches that have nothing to do with each other"
)]
pub struct LabOptions {
    /// The datapath of a bridge that [`Lab::start_bridge`] starts. For [`Datapath::Xdp`] the lab's cables are as XDP
    /// needs them.
    pub datapath: Datapath,
    /// How pods of different nodes reach each other.
    pub overlay: Overlay,
    /// Whether the nodes have a network of their own behind a second interface, `eth1`, and the LAN is
    /// only the way to the office.
    pub second_nic: bool,
    /// Whether kube-proxy's rules are on every node.
    pub kube_proxy: bool,
    /// Whether flannel masquerades (`--ip-masq`) on node-30. On workers it does.
    pub masquerade: bool,
    /// Whether kube-proxy masquerades what comes to services from outside of the pods' network, as it does
    /// where it is told of that network (`--cluster-cidr`).
    pub service_masquerade: bool,
    /// What node-30 lets through without the bridge. Workers are always [`Firewall::Open`].
    pub firewall: Firewall,
    /// Whether node-30 has a pod of its own, `echo-0`, and with it `cni0`.
    pub local_pod: bool,
    /// How the office DNS is wired.
    pub dns: DnsPlan,
    /// Whether there is a host `control-plane` with a real API server, which then is where the bridge
    /// learns of the cluster.
    pub api_server: bool,
}

impl LabOptions {
    /// A variant with kube-proxy and flannel on every node, a pod on node-30, DNS through the relay, and a node-30
    /// that forwards nothing for the office: what gets through is the bridge's doing. On the stack path it has to
    /// forward, and must not masquerade, which then is the bridge's doing.
    #[must_use]
    pub const fn of(Variant { datapath, overlay }: Variant) -> Self {
        let is_stack = datapath.is_stack();
        Self {
            datapath,
            overlay,
            second_nic: false,
            kube_proxy: true,
            masquerade: !is_stack,
            service_masquerade: !is_stack,
            firewall: if is_stack {
                Firewall::Open
            } else {
                Firewall::NotARouter
            },
            local_pod: true,
            dns: DnsPlan::Relay,
            api_server: false,
        }
    }
}

impl Default for LabOptions {
    /// The variant that the whole suite runs in.
    fn default() -> Self {
        Self::of(Variant::of_suite())
    }
}

/// An open lab. Dropping it closes it.
pub struct Lab {
    // Fields drop in this order: programs first, the namespaces last.
    daemons: Vec<Daemon>,
    api: Option<ApiServer>,
    hosts: Vec<Host>,
    cluster: Cluster,
    /// The cluster as [`Lab::publish`] last made it known.
    published: Option<Cluster>,
    options: LabOptions,
    run: RunDir,
}

const SWITCH: &str = "switch";
const OFFICE_PC: &str = "office-pc";
const OFFICE_PC2: &str = "office-pc2";
const ROUTER: &str = "office-router";
const CONTROL_PLANE: &str = "control-plane";

impl Lab {
    /// Opens a lab.
    pub fn open(options: LabOptions) -> Result<Self> {
        let run = RunDir::create()?;
        let mut cluster = Cluster::new(options.local_pod, options.second_nic);
        if options.api_server {
            cluster.add_api_server();
        }
        let mut lab = Self {
            daemons: Vec::new(),
            api: None,
            hosts: Vec::new(),
            cluster,
            published: None,
            options,
            run,
        };
        lab.build().context("open the lab")?;
        Ok(lab)
    }

    fn build(&mut self) -> Result<()> {
        run_dir::mount_bpffs()?;
        let pods: Vec<PodPlan> = plan::PODS
            .into_iter()
            .chain(self.options.local_pod.then_some(plan::LOCAL_POD))
            .collect();
        let mut fixed = vec![
            (OFFICE_PC, plan::OFFICE_PC),
            (OFFICE_PC2, plan::OFFICE_PC2),
            (ROUTER, plan::ROUTER_LAN),
        ];
        if self.options.api_server {
            fixed.push((CONTROL_PLANE, plan::CONTROL_PLANE));
        }
        let nodes = self
            .cluster
            .nodes
            .iter()
            .map(|node| (node.name, node.address));
        let of_pods = pods.iter().map(|pod| (pod.name, pod.address));
        let all: Vec<_> = fixed.into_iter().chain(nodes).chain(of_pods).collect();
        for (name, address) in all {
            let host = self.new_host(name, address);
            self.hosts.push(host);
        }
        let switch = self.run.namespace(SWITCH);
        let namespaces: Vec<_> = self
            .hosts
            .iter()
            .map(Host::namespace)
            .chain([&switch])
            .collect();
        netns::create(&namespaces)?;

        self.cable()?;
        if self.options.api_server {
            self.bring_up_control_plane()?;
        }
        self.bring_up_office()?;
        for node in &self.cluster.nodes {
            let host = self.host(node.name);
            node::bring_up(host.namespace(), node, &self.cluster, self.options.overlay)?;
            let (firewall, masquerade) = if node.name == "node-30" {
                (self.options.firewall, self.options.masquerade)
            } else {
                (Firewall::Open, true)
            };
            let rules = NodeRules {
                kube_proxy: self.options.kube_proxy,
                masquerade,
                service_masquerade: self.options.service_masquerade,
                firewall,
            };
            rules::install(host.namespace(), node, &self.cluster, rules)?;
            self.plug_pods(node, &pods)?;
        }
        for pod in &pods {
            self.serve(pod)?;
        }
        self.start_dns()?;
        if let Some(api) = &mut self.api {
            api.await_ready()?;
        }
        self.publish()
    }

    fn new_host(&self, name: &str, address: Ipv4Addr) -> Host {
        Host::new(
            name,
            address,
            self.run.namespace(name),
            self.run.path().to_owned(),
        )
    }

    /// The switches, and the cables from them to the hosts.
    fn cable(&self) -> Result<()> {
        let mut cables = vec![
            ("office", "pc", OFFICE_PC, "eth0"),
            ("office", "pc2", OFFICE_PC2, "eth0"),
            ("office", "router", ROUTER, "office0"),
            ("lan", "lan-router", ROUTER, "lan0"),
            ("lan", "lan-node-30", "node-30", "eth0"),
            ("lan", "lan-worker-1", "worker-1", "eth0"),
            ("lan", "lan-worker-2", "worker-2", "eth0"),
        ];
        if self.options.api_server {
            cables.push(("lan", "lan-control", CONTROL_PLANE, "eth0"));
        }
        if self.options.second_nic {
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
                    self.host(name).namespace().name()
                ))
                .add(format!("link set {near} master {switch} up"));
        }
        let switch = self.run.namespace(SWITCH);
        // A switch is no hop of IP: the kernel must not run its frames through iptables.
        switch.sysctl(&[("net/bridge/bridge-nf-call-iptables", "0")])?;
        batch.run(&switch)?;
        if self.options.datapath == Datapath::Xdp {
            self.ready_for_xdp(&switch)?;
        }
        Ok(())
    }

    /// A real NIC hands XDP whole packets with finished checksums. A veth hands on what the sender left to the
    /// hardware, so the switch does it, at node-30's ports. And a veth takes frames from XDP only while the other end
    /// has NAPI on, which `gro` does for redirected frames, and a program for all.
    fn ready_for_xdp(&self, switch: &Namespace) -> Result<()> {
        let ports = ["lan-node-30"]
            .into_iter()
            .chain(self.options.second_nic.then_some("node-30"));
        for port in ports {
            let words = "tx off sg off tso off gso off gro on txvlan off tx-udp-segmentation off";
            let arguments: Vec<&str> = ["-K", port].into_iter().chain(words.split(' ')).collect();
            switch.output("ethtool", &arguments)?;
            xdp_pass::attach(switch, port, self.run.path())?;
        }
        Ok(())
    }

    fn bring_up_office(&self) -> Result<()> {
        for (name, address) in [(OFFICE_PC, plan::OFFICE_PC), (OFFICE_PC2, plan::OFFICE_PC2)] {
            let mut batch = Batch::default();
            batch
                .add("link set lo up")
                .add(format!("addr add {address}/22 brd + dev eth0"))
                .add("link set eth0 up")
                .add(format!("route add default via {}", plan::OFFICE_GATEWAY));
            batch.run(self.host(name).namespace())?;
        }
        let router = self.office_router().namespace();
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

    /// The API server takes seconds to start: the rest of the lab is built meanwhile.
    fn bring_up_control_plane(&mut self) -> Result<()> {
        let programs = Programs::find()?
            .with_context(|| format!("no API server is found; {}", envtest::HOW_TO_GET))?;
        let namespace = self.host(CONTROL_PLANE).namespace();
        let mut batch = Batch::default();
        batch
            .add("link set lo up")
            .add(format!(
                "addr add {}/24 brd + dev eth0",
                plan::CONTROL_PLANE
            ))
            .add("link set eth0 up")
            .add(format!("route add default via {}", plan::ROUTER_LAN));
        batch.run(namespace)?;
        self.api = Some(ApiServer::spawn(programs, namespace, self.run.path())?);
        Ok(())
    }

    fn plug_pods(&self, node: &ClusterNode, pods: &[PodPlan]) -> Result<()> {
        let own: Vec<_> = pods
            .iter()
            .filter(|pod| pod.node == node.name)
            .map(|pod| (*pod, self.host(pod.name)))
            .collect();
        node::add_pods(
            self.host(node.name).namespace(),
            node,
            self.options.overlay,
            &own,
        )
    }

    /// Starts what a pod of this name serves.
    fn serve(&self, pod: &PodPlan) -> Result<()> {
        let host = self.host(pod.name);
        match pod.name {
            "mysql-0" => drop(host.serve_tcp(port::MYSQL, mysql::handler())?),
            "web-0" => {
                let greet = |_, peer| Response::ok(format!("web-0 greets {peer}\n"));
                host.serve_tcp(port::HTTP, http::handler(greet))?;
            }
            "registry-0" => {
                let handler = registry::handler(host.namespace().clone());
                host.serve_tcp(port::REGISTRY, handler)?;
            }
            name if name.starts_with("echo") => {
                host.serve_tcp(port::ECHO, serve::echo())?;
                host.serve_udp_echo(port::ECHO)?;
                host.serve_tcp(port::BULK, serve::bulk())?;
            }
            _ => {}
        }
        Ok(())
    }

    fn start_dns(&mut self) -> Result<()> {
        let mut started = Vec::new();
        for pod in plan::PODS.iter().filter(|pod| pod.name.starts_with("dns-")) {
            let namespace = self.host(pod.name).namespace();
            let path = self.run.path();
            started.push((
                pod,
                dns::start_kube_dns(namespace, path, pod.address, &self.cluster)?,
            ));
        }
        for (pod, mut daemon) in started {
            let namespace = self.host(pod.name).namespace().clone();
            dns::await_answer(&mut daemon, &namespace, pod.address, plan::CLUSTER_DOMAIN)?;
            self.daemons.push(daemon);
        }
        let host = match self.options.dns {
            DnsPlan::OnNode => self.node_30(),
            DnsPlan::ThroughNode | DnsPlan::Relay => self.office_router(),
        };
        let daemon = dns::start_office(host.namespace(), self.run.path(), self.options.dns)?;
        self.daemons.push(daemon);
        Ok(())
    }

    /// Writes the manifests of [`Lab::cluster`] anew.
    pub fn write_manifests(&self) -> Result<()> {
        manifests::write(&self.manifests(), &self.cluster, self.options.overlay)
    }

    /// Makes [`Lab::cluster`] known: writes the manifests anew, and gives what has changed to kube-proxy's rules, and
    /// to the API server if there is one.
    pub fn publish(&mut self) -> Result<()> {
        self.write_manifests()?;
        if let Some(before) = self.published.replace(self.cluster.clone())
            && self.options.kube_proxy
        {
            for node in &self.cluster.nodes {
                let namespace = self.host(node.name).namespace();
                let masquerade = self.options.service_masquerade;
                rules::follow(namespace, &before, &self.cluster, masquerade)?;
            }
        }
        match &mut self.api {
            Some(api) => api.apply(&self.cluster, self.options.overlay),
            None => Ok(()),
        }
    }

    /// The API server.
    ///
    /// # Panics
    ///
    /// If the lab was opened without.
    #[must_use]
    pub fn api(&self) -> &ApiServer {
        self.api.as_ref().expect("a lab with `api_server: true`")
    }

    /// The API server, to kill and restart it.
    ///
    /// # Panics
    ///
    /// If the lab was opened without.
    pub fn api_mut(&mut self) -> &mut ApiServer {
        self.api.as_mut().expect("a lab with `api_server: true`")
    }

    /// The host of the API server.
    #[must_use]
    pub fn control_plane(&self) -> &Host {
        self.host(CONTROL_PLANE)
    }

    /// Starts the real kube-proxy on a node.
    pub fn start_kube_proxy(&self, node: &str) -> Result<KubeProxy> {
        ensure!(
            !self.options.kube_proxy,
            "the real kube-proxy needs a lab with `kube_proxy: false`, without its rules"
        );
        KubeProxy::start(self.host(node), self.api(), self.options.service_masquerade)
    }

    /// The directory with the cluster's manifests.
    #[must_use]
    pub fn manifests(&self) -> PathBuf {
        self.run.path().join("manifests")
    }

    /// The namespace of the switches, where the hosts' cables end: node-30's `eth0` in `lan-node-30`.
    #[must_use]
    pub fn switch(&self) -> Namespace {
        self.run.namespace(SWITCH)
    }

    /// The lab's own directory: configurations, logs, captures.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.run.path()
    }

    /// Where this lab's bridge pins its tables.
    #[must_use]
    pub fn pin_path(&self) -> PathBuf {
        self.run.pin_path()
    }

    /// What the lab was opened with.
    #[must_use]
    pub fn options(&self) -> &LabOptions {
        &self.options
    }

    /// The cluster.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The cluster, to change it; [`Lab::publish`] makes the change known.
    pub fn cluster_mut(&mut self) -> &mut Cluster {
        &mut self.cluster
    }

    /// The host of this name.
    ///
    /// # Panics
    ///
    /// If the lab has none.
    #[must_use]
    pub fn host(&self, name: &str) -> &Host {
        self.hosts
            .iter()
            .find(|host| host.name() == name)
            .unwrap_or_else(|| panic!("the lab has no host {name}"))
    }

    /// All hosts.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The developer's machine.
    #[must_use]
    pub fn office_pc(&self) -> &Host {
        self.host(OFFICE_PC)
    }

    /// A second developer's machine.
    #[must_use]
    pub fn office_pc2(&self) -> &Host {
        self.host(OFFICE_PC2)
    }

    /// The office router, which is the office DNS too.
    #[must_use]
    pub fn office_router(&self) -> &Host {
        self.host(ROUTER)
    }

    /// The forwarding node.
    #[must_use]
    pub fn node_30(&self) -> &Host {
        self.host("node-30")
    }

    /// The first worker.
    #[must_use]
    pub fn worker_1(&self) -> &Host {
        self.host("worker-1")
    }

    /// The second worker.
    #[must_use]
    pub fn worker_2(&self) -> &Host {
        self.host("worker-2")
    }

    /// A pod.
    ///
    /// # Panics
    ///
    /// If the lab has none of this name.
    #[must_use]
    pub fn pod(&self, name: &str) -> &Host {
        self.host(name)
    }

    /// Where a pod serves `port`.
    ///
    /// # Panics
    ///
    /// If the lab has no such pod.
    #[must_use]
    pub fn at(&self, pod: &str, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(self.pod(pod).address(), port)
    }

    /// The address that a pod sees of the office, and that its answers come home to: node-30's own on the way to it.
    #[must_use]
    pub fn nat_address(&self, pod: Ipv4Addr) -> Ipv4Addr {
        let node = &self.cluster.nodes[0];
        match self.options.overlay {
            _ if pod.octets()[2] == node.pod_octet => node.gateway(),
            Overlay::Vxlan => node.network(),
            Overlay::HostGw => node.underlay,
        }
    }

    /// The address with which a worker answers as a hop on the way from node-30 to its pods: its end of the tunnel,
    /// or its own.
    #[must_use]
    pub fn hop_address(&self, worker: &str) -> Ipv4Addr {
        let mut nodes = self.cluster.nodes.iter();
        let node = nodes.find(|node| node.name == worker);
        let node = node.unwrap_or_else(|| panic!("the lab has no node {worker}"));
        match self.options.overlay {
            Overlay::Vxlan => node.network(),
            Overlay::HostGw => node.underlay,
        }
    }

    /// Whether office-pc reaches the echo pods at `target` by the bridge: it gets an answer, and the pod has not seen
    /// its own address, which it does where node-30 forwards by itself.
    #[must_use]
    pub fn is_bridged(&self, target: SocketAddrV4) -> bool {
        let pc = self.office_pc();
        let Ok(mut stream) = pc.tcp_within(Duration::from_secs(1), target) else {
            return false;
        };
        let Ok(SocketAddr::V4(own)) = stream.local_addr() else {
            return false;
        };
        let is_seen = |host: &Host| host.peers(Protocol::Tcp, port::ECHO).contains(&own);
        exchange(&mut stream, b"who am I?").is_ok() && !self.hosts.iter().any(is_seen)
    }

    /// Schedules the first pod to node-30, and `cni0` with it.
    pub fn add_local_pod(&mut self) -> Result<()> {
        let pod = plan::LOCAL_POD;
        let host = self.new_host(pod.name, pod.address);
        netns::create(&[host.namespace()])?;
        self.hosts.push(host);
        let node = self.cluster.nodes[0].clone();
        self.plug_pods(&node, &[pod])?;
        self.serve(&pod)
    }

    /// Restarts flannel's device on node-30 as a restart of flanneld after a changed configuration
    /// does: deletes it, with all that hangs on it, and makes it anew.
    pub fn recreate_flannel(&self) -> Result<()> {
        let namespace = self.node_30().namespace();
        namespace.output("ip", &["link", "del", "flannel.1"])?;
        self.add_flannel()
    }

    /// Makes node-30's `flannel.1`, which is gone, with its routes, neighbours and FDB.
    pub fn add_flannel(&self) -> Result<()> {
        node::add_overlay(
            self.node_30().namespace(),
            &self.cluster.nodes[0],
            &self.cluster,
            self.options.overlay,
        )
    }

    /// Sets node-30 up as the recipe does which the bridge replaces.
    pub fn apply_recipe(&self) -> Result<()> {
        let namespace = self.node_30().namespace();
        namespace.sysctl(&[("net/ipv4/ip_forward", "1")])?;
        rules::add_recipe(namespace)
    }

    /// Starts the bridge on node-30 as [`Bridge::default_arguments`] has it, with `extra` arguments,
    /// and waits until it is ready.
    pub fn start_bridge(&self, extra: &[&str]) -> Result<Bridge> {
        let mut arguments = Bridge::default_arguments(self);
        arguments.extend(extra.iter().map(|&argument| argument.to_owned()));
        Bridge::start(self, &arguments)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for host in &self.hosts {
            host.close();
        }
    }
}
