//! A real Kubernetes API server in the lab, and the real kube-proxy that follows it.
//!
//! There is no controller-manager and no kubelet: the lab itself writes nodes, services and
//! `EndpointSlices`, from the same [`Cluster`](crate::cluster::Cluster) as the manifests.

pub mod client;
pub mod envtest;
pub mod kube_proxy;
mod pki;
mod resource;
mod seed;
mod server;

pub use server::ApiServer;
