//! The lab itself: opens everything, hands out its hosts, closes everything.

mod cabling;
mod names;
mod options;
mod workloads;
mod xdp_pass;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::api::ApiServer;
use crate::api::envtest::{self, Programs};
use crate::api::kube_proxy::KubeProxy;
use crate::cluster::manifests;
use crate::cluster::{Cluster, ClusterNode, Protocol};
use crate::hosts::dns::{self, DnsPlan};
use crate::hosts::host::{Host, exchange};
use crate::hosts::netfilter::{self, Firewall, NodeRules};
use crate::hosts::node;
use crate::machine::netns::{self, Namespace};
use crate::machine::process::Daemon;
use crate::machine::run_dir::{self, RunDir};
use crate::plan::{self, PodPlan, port};
use crate::variant::Overlay;

pub use options::LabOptions;

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
            (names::OFFICE_PC, plan::OFFICE_PC),
            (names::OFFICE_PC2, plan::OFFICE_PC2),
            (names::ROUTER, plan::ROUTER_LAN),
        ];
        if self.options.api_server {
            fixed.push((names::CONTROL_PLANE, plan::CONTROL_PLANE));
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
        let switch = self.run.namespace(names::SWITCH);
        let namespaces: Vec<_> = self
            .hosts
            .iter()
            .map(Host::namespace)
            .chain([&switch])
            .collect();
        netns::create(&namespaces)?;

        cabling::cable(&switch, &self.hosts, &self.options, self.run.path())?;
        if self.options.api_server {
            self.start_api_server()?;
        }
        cabling::bring_up_office(&self.hosts)?;
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
            netfilter::install(host.namespace(), node, &self.cluster, rules)?;
            self.plug_pods(node, &pods)?;
        }
        for pod in &pods {
            workloads::serve(self.host(pod.name))?;
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

    /// The API server takes seconds to start: the rest of the lab is built meanwhile.
    fn start_api_server(&mut self) -> Result<()> {
        let programs = Programs::find()?
            .with_context(|| format!("no API server is found; {}", envtest::HOW_TO_GET))?;
        let host = self.host(names::CONTROL_PLANE);
        cabling::bring_up_control_plane(host)?;
        self.api = Some(ApiServer::spawn(
            programs,
            host.namespace(),
            self.run.path(),
        )?);
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
                netfilter::follow(namespace, &before, &self.cluster, masquerade)?;
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
        self.host(names::CONTROL_PLANE)
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
        self.run.namespace(names::SWITCH)
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
        names::find(&self.hosts, name)
    }

    /// All hosts.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The developer's machine.
    #[must_use]
    pub fn office_pc(&self) -> &Host {
        self.host(names::OFFICE_PC)
    }

    /// A second developer's machine.
    #[must_use]
    pub fn office_pc2(&self) -> &Host {
        self.host(names::OFFICE_PC2)
    }

    /// The office router, which is the office DNS too.
    #[must_use]
    pub fn office_router(&self) -> &Host {
        self.host(names::ROUTER)
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
        workloads::serve(self.host(pod.name))
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
        netfilter::add_recipe(namespace)
    }
}

impl LabOptions {
    /// Opens a lab with these options, or fails the test.
    #[must_use]
    #[track_caller]
    pub fn open(self) -> Lab {
        Lab::open(self).unwrap_or_else(|error| panic!("{error:#}"))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for host in &self.hosts {
            host.close();
        }
    }
}
