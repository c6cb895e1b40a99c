//! The cluster: what runs where, and the same as Kubernetes objects.

pub mod manifests;
mod model;
pub mod objects;

pub use model::*;
