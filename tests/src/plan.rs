//! The addressing plan: the office, the LAN between router and nodes, and the cluster.

use std::net::{Ipv4Addr, SocketAddrV4};

/// The office network.
pub const OFFICE_CIDR: &str = "192.168.0.0/22";
/// First office host.
pub const OFFICE_PC: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 10);
/// Second office host.
pub const OFFICE_PC2: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 11);
/// The office router, as the office sees it.
pub const OFFICE_GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 1);

/// The office router, as the LAN sees it; also the office DNS.
pub const ROUTER_LAN: Ipv4Addr = Ipv4Addr::new(10, 60, 20, 1);
/// The forwarding node.
pub const NODE_30: Ipv4Addr = Ipv4Addr::new(10, 60, 20, 30);
/// First worker.
pub const WORKER_1: Ipv4Addr = Ipv4Addr::new(10, 60, 20, 31);
/// Second worker.
pub const WORKER_2: Ipv4Addr = Ipv4Addr::new(10, 60, 20, 32);
/// The API server, where the lab has one.
pub const CONTROL_PLANE: Ipv4Addr = Ipv4Addr::new(10, 60, 20, 10);

/// Where the bridge serves HTTP on node-30 (the default of `--http-listen`).
pub const HTTP_LISTEN: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9530);

/// All pods (flannel's `Network`).
pub const POD_CIDR: &str = "10.244.0.0/16";
/// All services.
pub const SERVICE_CIDR: &str = "10.96.0.0/12";
/// The domain of the cluster's names.
pub const CLUSTER_DOMAIN: &str = "cluster.local";

/// The VIP of kube-dns.
pub const KUBE_DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// The VIP of `kubernetes.default`; its endpoint is the API server, where the lab has one.
pub const KUBERNETES: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// The VIP of `mysql.project-a-dev1`.
pub const MYSQL: Ipv4Addr = Ipv4Addr::new(10, 96, 20, 15);
/// The VIP of `echo.project-a-dev1`.
pub const ECHO: Ipv4Addr = Ipv4Addr::new(10, 96, 20, 16);
/// The VIP of `web.project-a-dev1`.
pub const WEB: Ipv4Addr = Ipv4Addr::new(10, 96, 20, 17);
/// The VIP of `registry.project-a-dev1`.
pub const REGISTRY: Ipv4Addr = Ipv4Addr::new(10, 96, 20, 18);

/// The service `echo`, with a backend on each node.
pub const ECHO_SERVICE: SocketAddrV4 = SocketAddrV4::new(ECHO, port::ECHO);
/// The same service's bulk transfer.
pub const BULK_SERVICE: SocketAddrV4 = SocketAddrV4::new(ECHO, port::BULK);
/// The service `web`.
pub const WEB_SERVICE: SocketAddrV4 = SocketAddrV4::new(WEB, port::HTTP_SERVICE);
/// The service `mysql`.
pub const MYSQL_SERVICE: SocketAddrV4 = SocketAddrV4::new(MYSQL, port::MYSQL);
/// The name of the service `mysql`.
pub const MYSQL_NAME: &str = "mysql.project-a-dev1.svc.cluster.local";
/// A client port that node-30 never uses itself, so that NAT may keep it.
pub const FREE_PORT: u16 = 20_007;

/// MTU of the office and the LAN.
pub const LAN_MTU: u32 = 1500;
/// MTU of pods under VXLAN: 50 octets go to the outer Ethernet, IPv4, UDP and VXLAN headers
/// (RFC 7348 section 5).
pub const VXLAN_MTU: u32 = 1450;
/// Flannel's VXLAN network identifier.
pub const VXLAN_VNI: u32 = 1;
/// Flannel's (and the kernel's historic) VXLAN port.
pub const VXLAN_PORT: u16 = 8472;

/// A pod's place in the plan.
#[derive(Clone, Copy, Debug)]
pub struct PodPlan {
    /// Name of the pod and of its host in the lab.
    pub name: &'static str,
    /// Its node.
    pub node: &'static str,
    /// Its address, in the node's pod CIDR.
    pub address: Ipv4Addr,
}

const fn pod(name: &'static str, node: &'static str, third: u8, last: u8) -> PodPlan {
    PodPlan {
        name,
        node,
        address: Ipv4Addr::new(10, 244, third, last),
    }
}

/// The pods that every lab starts with.
pub const PODS: [PodPlan; 7] = [
    pod("dns-1", "worker-1", 1, 2),
    pod("dns-2", "worker-2", 2, 2),
    pod("mysql-0", "worker-1", 1, 3),
    pod("echo-1", "worker-1", 1, 4),
    pod("echo-2", "worker-2", 2, 4),
    pod("web-0", "worker-2", 2, 5),
    pod("registry-0", "worker-2", 2, 6),
];

/// The pod on node-30 itself, if the lab is asked for it: a third backend of `echo`.
pub const LOCAL_POD: PodPlan = pod("echo-0", "node-30", 30, 4);

/// The pods behind the service `echo`: on node-30 itself, and on both workers.
pub const ECHO_PODS: [&str; 3] = ["echo-0", "echo-1", "echo-2"];

/// Ports of the pods.
pub mod port {
    /// Echo, TCP and UDP (RFC 862).
    pub const ECHO: u16 = 7;
    /// Bulk transfer: the client sends a count, the pod that many octets, and back.
    pub const BULK: u16 = 5001;
    /// DNS.
    pub const DNS: u16 = 53;
    /// HTTP in the pod.
    pub const HTTP: u16 = 8080;
    /// HTTP at the service.
    pub const HTTP_SERVICE: u16 = 80;
    /// `MySQL`.
    pub const MYSQL: u16 = 3306;
    /// The registry's HTTP, in the pod and at the service.
    pub const REGISTRY: u16 = 8761;
    /// The API server.
    pub const API_SERVER: u16 = 6443;
}
