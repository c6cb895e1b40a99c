//! A source of cluster state, whichever it is.

use std::fmt;
use std::path::PathBuf;

use futures::future::BoxFuture;

/// Where the knowledge about the cluster comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceSpec {
    /// The API server, followed by watches.
    Kube(ApiAccess),
    /// The CIDRs of the configuration and nothing else; services are translated by kube-proxy.
    Static,
    /// A directory of ordinary Kubernetes manifests, followed as it changes.
    Manifests(PathBuf),
}

impl fmt::Display for SourceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kube(_) => f.write_str("kube"),
            Self::Static => f.write_str("static"),
            Self::Manifests(directory) => write!(f, "manifests={}", directory.display()),
        }
    }
}

/// What says how to reach the API server. Never `~/.kube/config` unasked: whoever starts the bridge by
/// hand is not always at work on the cluster that the node belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiAccess {
    /// A kubeconfig file.
    Kubeconfig(PathBuf),
    /// The files that the variable `KUBECONFIG` names, merged.
    KubeconfigVariable,
    /// The service account of the pod that this process runs in.
    ServiceAccount,
}

/// A source that is open, and hands what it knows to a [`Feed`].
pub trait Source: Send + Sync {
    /// Follows the cluster until that can't go on, and says why. It may be called again then, also after a panic; what
    /// has changed meanwhile is not lost, and the last good state stays in force.
    fn follow(&self) -> BoxFuture<'_, anyhow::Error>;
}
