//! Opening the source that is configured.

use std::sync::Arc;
use std::time::Instant;

use futures::future::BoxFuture;

use super::derive::static_state;
use super::feed::{self, Feed, Publisher};
use super::rules::Rules;
use super::source::{Source, SourceSpec};
use super::{kube, manifests};
use crate::model::Findings;

/// Opens a source. The desired state only changes when it really does. Whatever happens to the source later, the last
/// good state stays. Directories are read before this returns; an API server may be away.
///
/// # Errors
/// When a directory cannot be read at first: a state with holes in it would have the reconciler
/// remove services that exist. Wrong usage, as a [`Finding`](crate::model::Finding), when what should lead to the
/// API server doesn't.
pub async fn open(spec: &SourceSpec, rules: Rules) -> Result<(Arc<dyn Source>, Feed), Findings> {
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
