//! The cluster as Kubernetes knows it: nodes, services and their backends. The netfilter rules, the
//! zone of kube-dns, the manifests and what the API server serves are all written from this one value.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::plan::{self, NODE_30, PodPlan, port};

/// Transport protocol of a service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// As iptables writes it.
    #[must_use]
    pub fn lower(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    /// As Kubernetes writes it.
    #[must_use]
    pub fn upper(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
}

/// One port of a service.
#[derive(Clone, Debug)]
pub struct ServicePort {
    /// Its name.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port at the VIP.
    pub port: u16,
    /// The port in the pods.
    pub target: u16,
}

/// One backend of a service.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The pod's name.
    pub pod: String,
    /// The node that the pod runs on.
    pub node: String,
    /// The pod's address.
    pub address: Ipv4Addr,
    /// Whether its readiness probe succeeds: it serves, also while it terminates.
    pub ready: bool,
    /// Whether the pod is being deleted.
    pub terminating: bool,
}

impl Endpoint {
    /// A host-network backend on node-30.
    #[must_use]
    pub fn of_node_30() -> Self {
        Self {
            pod: "host-network".to_owned(),
            node: "node-30".to_owned(),
            address: NODE_30,
            ready: true,
            terminating: false,
        }
    }

    /// Whether it takes new connections: condition `ready` of an `EndpointSlice`.
    #[must_use]
    pub fn takes_connections(&self) -> bool {
        self.ready && !self.terminating
    }
}

/// A `ClusterIP` service with its backends.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its virtual address.
    pub vip: Ipv4Addr,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Its backends.
    pub endpoints: Vec<Endpoint>,
    /// `sessionAffinity: ClientIP` with this timeout (whole seconds), or none.
    pub session_affinity: Option<Duration>,
}

impl Service {
    /// The name that kube-dns answers for.
    #[must_use]
    pub fn dns_name(&self) -> String {
        format!(
            "{}.{}.svc.{}",
            self.name,
            self.namespace,
            plan::CLUSTER_DOMAIN
        )
    }

    /// Its backends that take new connections.
    pub fn ready(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints
            .iter()
            .filter(|endpoint| endpoint.takes_connections())
    }

    /// Scales it to these pods of the plan, all of them ready.
    ///
    /// # Panics
    ///
    /// If the plan has no pod of such a name.
    pub fn scale_to(&mut self, pods: &[&str]) {
        self.endpoints = pods.iter().map(|pod| endpoint(pod)).collect();
    }

    /// The backend in this pod, to change it.
    ///
    /// # Panics
    ///
    /// If it has none there.
    pub fn endpoint_mut(&mut self, pod: &str) -> &mut Endpoint {
        self.endpoints
            .iter_mut()
            .find(|endpoint| endpoint.pod == pod)
            .unwrap_or_else(|| panic!("{} has no backend {pod}", self.name))
    }
}

/// A node as Kubernetes knows it.
#[derive(Clone, Debug)]
pub struct ClusterNode {
    /// Its name.
    pub name: &'static str,
    /// Its address on the LAN.
    pub address: Ipv4Addr,
    /// Its address on the network between the nodes, which may be the LAN.
    pub underlay: Ipv4Addr,
    /// Third octet of its pod CIDR, `10.244.<n>.0/24`.
    pub pod_octet: u8,
}

impl ClusterNode {
    /// Its pod CIDR.
    #[must_use]
    pub fn pod_cidr(&self) -> String {
        format!("{}/24", self.network())
    }

    /// The network address of its pod CIDR, which flannel gives to `flannel.1`.
    #[must_use]
    pub fn network(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, self.pod_octet, 0)
    }

    /// The address of `cni0`, the gateway of its pods.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, self.pod_octet, 1)
    }

    /// The interface towards the other nodes.
    #[must_use]
    pub fn underlay_device(&self) -> &'static str {
        if self.underlay == self.address {
            "eth0"
        } else {
            "eth1"
        }
    }

    /// The MAC address of its `flannel.1`.
    #[must_use]
    pub fn vtep_mac(&self) -> String {
        format!("02:f1:00:00:00:{:02x}", self.pod_octet)
    }
}

/// The whole cluster.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Its nodes; the first is node-30.
    pub nodes: Vec<ClusterNode>,
    /// Its services.
    pub services: Vec<Service>,
}

impl Cluster {
    /// The lab's cluster, with node-30's own pod as a backend of `echo` if there is one, and with a
    /// network of their own between the nodes if they have one.
    #[must_use]
    pub fn new(local_pod: bool, second_nic: bool) -> Self {
        let mut echo = vec!["echo-1", "echo-2"];
        if local_pod {
            echo.push(plan::LOCAL_POD.name);
        }
        let services = vec![
            service(
                "default",
                "kubernetes",
                plan::KUBERNETES,
                &[("https", Protocol::Tcp, 443, 6443)],
                &[],
            ),
            service(
                "kube-system",
                "kube-dns",
                plan::KUBE_DNS,
                &[
                    ("dns", Protocol::Udp, port::DNS, port::DNS),
                    ("dns-tcp", Protocol::Tcp, port::DNS, port::DNS),
                ],
                &["dns-1", "dns-2"],
            ),
            project_service(
                "mysql",
                plan::MYSQL,
                &[("mysql", Protocol::Tcp, port::MYSQL, port::MYSQL)],
                &["mysql-0"],
            ),
            project_service(
                "echo",
                plan::ECHO,
                &[
                    ("echo", Protocol::Tcp, port::ECHO, port::ECHO),
                    ("echo-udp", Protocol::Udp, port::ECHO, port::ECHO),
                    ("bulk", Protocol::Tcp, port::BULK, port::BULK),
                ],
                &echo,
            ),
            project_service(
                "web",
                plan::WEB,
                &[("http", Protocol::Tcp, port::HTTP_SERVICE, port::HTTP)],
                &["web-0"],
            ),
            project_service(
                "registry",
                plan::REGISTRY,
                &[("http", Protocol::Tcp, port::REGISTRY, port::REGISTRY)],
                &["registry-0"],
            ),
        ];
        let nodes = [
            ("node-30", NODE_30, 30),
            ("worker-1", plan::WORKER_1, 1),
            ("worker-2", plan::WORKER_2, 2),
        ]
        .map(|(name, address, pod_octet)| {
            let [.., last] = address.octets();
            let underlay = if second_nic {
                Ipv4Addr::new(10, 70, 0, last)
            } else {
                address
            };
            ClusterNode {
                name,
                address,
                underlay,
                pod_octet,
            }
        });
        let nodes = nodes.into();
        Self { nodes, services }
    }

    /// Gives `kubernetes.default` its endpoint, the API server.
    pub fn add_api_server(&mut self) {
        self.service_mut("kubernetes").endpoints = vec![Endpoint {
            pod: "kube-apiserver-control-plane".to_owned(),
            node: "control-plane".to_owned(),
            address: plan::CONTROL_PLANE,
            ready: true,
            terminating: false,
        }];
    }

    /// The service `name`, to change it.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn service_mut(&mut self, name: &str) -> &mut Service {
        self.services
            .iter_mut()
            .find(|service| service.name == name)
            .unwrap_or_else(|| panic!("the lab has no service {name}"))
    }
}

/// The namespace of the project that the recipe's developers work on.
pub const PROJECT: &str = "project-a-dev1";

fn project_service(
    name: &str,
    vip: Ipv4Addr,
    ports: &[(&str, Protocol, u16, u16)],
    pods: &[&str],
) -> Service {
    service(PROJECT, name, vip, ports, pods)
}

fn service(
    namespace: &str,
    name: &str,
    vip: Ipv4Addr,
    ports: &[(&str, Protocol, u16, u16)],
    pods: &[&str],
) -> Service {
    Service {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        vip,
        ports: ports
            .iter()
            .map(|&(name, protocol, port, target)| ServicePort {
                name: name.to_owned(),
                protocol,
                port,
                target,
            })
            .collect(),
        endpoints: pods.iter().map(|pod| endpoint(pod)).collect(),
        session_affinity: None,
    }
}

fn endpoint(name: &str) -> Endpoint {
    let all: Vec<PodPlan> = plan::PODS.into_iter().chain([plan::LOCAL_POD]).collect();
    let pod = all
        .iter()
        .find(|pod| pod.name == name)
        .unwrap_or_else(|| panic!("the plan has no pod {name}"));
    Endpoint {
        pod: pod.name.to_owned(),
        node: pod.node.to_owned(),
        address: pod.address,
        ready: true,
        terminating: false,
    }
}
