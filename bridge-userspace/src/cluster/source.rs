//! A source of cluster state, whichever it is.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use futures::future::BoxFuture;

use super::feed::{self, Publisher};
use super::{ApiAccess, Feed, Rules, kube, manifests, static_state};

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

/// A source that is open, and hands what it knows to a [`Feed`].
pub trait Source: Send + Sync {
    /// Follows the cluster until that can't go on, and says why. It may be called again then, also after a panic; what
    /// has changed meanwhile is not lost, and the last good state stays in force.
    fn follow(&self) -> BoxFuture<'_, anyhow::Error>;
}

/// Opens a source. The desired state only changes when it really does. Whatever happens to the source later, the last
/// good state stays. Directories are read before this returns; an API server may be away.
///
/// # Errors
/// When a directory cannot be read at first: a state with holes in it would have the reconciler
/// remove services that exist. A [`UsageError`](crate::exit::UsageError) when what should lead to the API server
/// doesn't.
pub async fn open(spec: &SourceSpec, rules: Rules) -> anyhow::Result<(Arc<dyn Source>, Feed)> {
    let (publisher, feed) = feed::channel();
    let source: Arc<dyn Source> = match spec {
        SourceSpec::Static => Arc::new(Static::open(publisher, &rules)),
        SourceSpec::Manifests(directory) => {
            Arc::new(manifests::Manifests::open(directory, rules, publisher)?)
        }
        SourceSpec::Kube(access) => {
            Arc::new(kube::ApiServer::open(access, rules, publisher).await?)
        }
    };
    Ok((source, feed))
}

/// The CIDRs of the configuration, which don't change.
struct Static {
    /// Without a sender the feed would say that the source is gone.
    _publisher: Publisher,
}

impl Static {
    fn open(publisher: Publisher, rules: &Rules) -> Self {
        publisher.publish(static_state(rules), Instant::now());
        publisher.in_touch();
        Self {
            _publisher: publisher,
        }
    }
}

impl Source for Static {
    fn follow(&self) -> BoxFuture<'_, anyhow::Error> {
        Box::pin(std::future::pending())
    }
}
