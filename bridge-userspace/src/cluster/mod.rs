//! What the cluster looks like: a *source* gives the facts of Kubernetes objects, and from them comes the one
//! typed [`DesiredState`] that the reconciler brings the kernel tables to.
//!
//! ```text
//! API server --+
//! manifests ---+--> objects --> discovery (CIDRs) --+
//!                          \--> services (VIPs) ----+--> DesiredState --> feed
//! command line -------------------------------------+
//! ```
//!
//! Neither source knows of tables, and [`desired_state`] knows of no source.

mod derive;
mod desired_state;
mod discovery;
mod facts;
mod feed;
mod kube;
mod manifests;
mod objects;
mod open;
mod rules;
mod services;
mod source;

pub use self::derive::{desired_state, static_state};
pub use self::desired_state::{
    Backend, CidrKind, ClusterCidr, DesiredState, Protocol, Service, ServicePort,
};
pub use self::feed::{Feed, SourceStatus, Update};
#[cfg(test)]
pub(crate) use self::feed::{Publisher, channel};
pub use self::manifests::ManifestError;
pub use self::objects::{Change, Key, Kind, Object, Objects};
pub use self::open::open;
pub use self::rules::{InternalTrafficPolicy, Rules};
pub use self::source::{ApiAccess, Source, SourceSpec};

#[cfg(test)]
mod tests;
