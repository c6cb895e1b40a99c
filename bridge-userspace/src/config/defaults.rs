//! What holds where neither flag nor file says anything.

use std::net::{Ipv4Addr, SocketAddrV4};

/// Where tables and links are pinned unless told otherwise; on the bpf filesystem that systemd
/// and the container runtimes mount.
pub const DEFAULT_PIN_PATH: &str = "/sys/fs/bpf/office-bridge";
/// Flows that the tables hold unless told otherwise: the size that `nf_conntrack` has at most by
/// default (`nf_conntrack_core.c`).
pub const DEFAULT_FLOW_CAPACITY: u32 = 262_144;
/// Where status and metrics are served unless told otherwise.
pub const DEFAULT_HTTP_LISTEN: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9530);
/// The domain of cluster names unless told otherwise; kubeadm's default.
pub const DEFAULT_CLUSTER_DOMAIN: &str = "cluster.local";
