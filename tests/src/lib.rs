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
//! The rooms, each of which imports only from those above it:
//!
//! | room | |
//! |---|---|
//! | [`plan`], [`variant`], [`wait`] | the addressing plan; which datapath and overlay a lab is for; waiting for a condition |
//! | `machine` | what a lab uses of this machine: [`netns`] makes and enters namespaces, [`process`] holds child processes, [`run_dir`] removes what a lab leaves |
//! | [`cluster`] | nodes, services and backends; [`manifests`] writes them as YAML, [`objects`] makes Kubernetes objects of them |
//! | [`serve`] | what the pods serve |
//! | `hosts` | [`host`] is what a test does on a host, [`capture`] what it sees on a wire, [`foreign`] a program of somebody else; [`node`] builds a node with its overlay and pods, [`netfilter`] its rules, [`dns`] the office DNS and kube-dns |
//! | `api` | a real API server, whose programs [`envtest`] finds, and the real [`kube_proxy`] |
//! | `lab` | [`Lab`] puts all of it together |
//! | [`bridge`] | the program under test on node-30, its commands, and which of its layers has [`carried`] a flow |
//! | `traffic` | [`reach`] asserts that traffic gets through; [`stream`] tells how long a flow is interrupted; [`frames`], [`packets`], [`fragments`] and [`portless`] are what no ordinary program sends |
//! | [`pod`] | a pod of applied manifests |
//! | [`demo`] | the office developer's day |
//!
//! A lab needs root, and the programs `ip`, `bridge`, `nsenter`, `iptables-restore`, `dnsmasq`,
//! `unbound`, `ping`, `traceroute`, `dig`, `tcpdump`, `conntrack`, `ethtool` and `bpftool`; with an API server `setpriv` too.
#![allow(
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    reason = "an error or a panic here is a failed test or a broken lab, and it tells the whole story"
)]

mod api;
pub mod bridge;
pub mod cluster;
pub mod demo;
mod hosts;
mod lab;
mod machine;
pub mod plan;
pub mod pod;
pub mod serve;
mod traffic;
pub mod variant;
pub mod wait;

pub use api::{ApiServer, client, envtest, kube_proxy, kube_proxy::KubeProxy};
pub use bridge::{Bridge, carried};
pub use cluster::{manifests, objects};
pub use hosts::{capture, dns, foreign, host, host::Host, netfilter, netfilter::Firewall, node};
pub use lab::{Lab, LabOptions};
pub use machine::{netns, process, run_dir};
pub use traffic::{fragments, frames, packets, portless, reach, stream};
pub use variant::{Datapath, Overlay, Variant};
pub use wait::eventually;
