//! The lab: network namespaces that stand for the hosts of an office and of a Kubernetes cluster.
//!
//! ```text
//!  office-pc  .10 ─┐            ┌─ 192.168.0.1                        ┌─ node-30  .30   pods 10.244.30.0/24
//!                  ├─ office ── office-router ── 10.60.20.1 ── lan ───┼─ worker-1 .31   pods 10.244.1.0/24
//!  office-pc2 .11 ─┘ 192.168.0.0/22   dnsmasq     10.60.20.0/24       └─ worker-2 .32   pods 10.244.2.0/24
//! ```
//!
//! Nothing in it is simulated: the kernel routes, encapsulates and tracks connections, dnsmasq is the
//! office DNS, unbound is kube-dns, and the iptables rules are those that kube-proxy and flannel leave
//! on a node.
//!
//! The map, in the order in which a lab comes up:
//!
//! * [`netns`] makes namespaces, enters them, and batches `ip` commands;
//! * [`plan`] is the addressing plan, [`cluster`] the services and their backends;
//! * [`node`] builds a cluster node with its pods and its overlay, [`rules`] its netfilter rules;
//! * [`dns`] runs the office DNS and kube-dns, [`serve`] what the pods serve;
//! * [`objects`] is the cluster as Kubernetes objects; [`manifests`] writes them down as YAML, [`api`]
//!   gives them to a real API server, whose programs [`envtest`] finds; [`kube_proxy`] runs the real one;
//! * [`Lab`] puts all of it together;
//! * [`host`] is what a test does on a host, [`capture`] what it sees on a wire, [`frames`] whole frames
//!   that no program would send, [`portless`] packets that are neither TCP nor UDP;
//! * [`reach`] is what the office wants first; [`wait`] waits for what has to come; [`stream`] tells how long a
//!   flow is interrupted, [`carried`] which layer of the bridge has forwarded it;
//! * [`variant`] is which datapath and overlay all of that is done with;
//! * [`bridge`] runs the program under test on node-30, [`pod`] does as the pod of applied manifests;
//!   [`demo`] plays the office developer.
//!
//! A lab needs root, and the programs `ip`, `bridge`, `nsenter`, `iptables-restore`, `dnsmasq`,
//! `unbound`, `ping`, `traceroute`, `dig`, `tcpdump`, `conntrack`, `ethtool` and `bpftool`; with an API server `setpriv` too.
#![allow(
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    reason = "an error or a panic here is a failed test or a broken lab, and it tells the whole story"
)]

pub mod api;
pub mod bridge;
pub mod capture;
pub mod carried;
pub mod cluster;
pub mod demo;
pub mod dns;
pub mod envtest;
pub mod frames;
pub mod host;
pub mod kube_proxy;
mod lab;
pub mod manifests;
pub mod netns;
pub mod node;
pub mod objects;
pub mod plan;
pub mod pod;
pub mod portless;
pub mod process;
pub mod reach;
pub mod rules;
pub mod run_dir;
pub mod serve;
pub mod stream;
pub mod variant;
pub mod wait;
mod xdp_pass;

pub use api::ApiServer;
pub use bridge::Bridge;
pub use host::Host;
pub use kube_proxy::KubeProxy;
pub use lab::{Lab, LabOptions};
pub use node::Overlay;
pub use rules::Firewall;
pub use variant::{Datapath, Variant};
pub use wait::eventually;
