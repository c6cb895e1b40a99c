//! The cluster: nodes, services and backends, as values and as Kubernetes objects.

pub mod manifests;
mod model;
pub mod objects;

pub use model::*;
