//! What the configuration has to say about the cluster.

use super::desired_state::ClusterCidr;

/// The part of the configuration that the desired state depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Networks of the configuration; per kind, they win over everything that the objects say.
    pub explicit: Vec<ClusterCidr>,
    /// What becomes of services that are for clients on the same node only.
    pub internal_traffic_policy: InternalTrafficPolicy,
}

/// What becomes of services with `internalTrafficPolicy: Local`, which are for clients on the node of an
/// endpoint. A client in the office is on no node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InternalTrafficPolicy {
    /// They lead to all their endpoints.
    Ignore,
    /// They lead to their endpoints on this node, and nowhere if there is none.
    Honor {
        /// This node's name in the cluster.
        node: String,
    },
}
