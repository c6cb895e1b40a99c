//! Health, readiness and metrics over HTTP.
//!
//! | path | answers |
//! |---|---|
//! | `/healthz` | 200 as long as the process lives, whatever became of the cluster source |
//! | `/readyz` | 200 when the cluster's state was read once, programs are attached, tables are filled and, with a DNS relay, an upstream answers; else 503 with one reason in each line |
//! | `/metrics` | the text format of `OpenMetrics` |
//!
//! Everybody on the listener's network may connect, so nobody may keep others from it: `listen` binds the address; `serve`
//! accepts connections and bounds their time; `connections` bounds their number; `hosts` refuses what is meant for somebody
//! else. `metrics` puts together what `datapath` reads from kernel and tables at each
//! request, what `relay` makes of the relay's counters, what `cluster` tells of the way to the cluster, and what
//! `gc_counts` has counted; `family` writes values out.
//! All of it is a view of one [`Snapshot`], as `office-bridge status` is.

mod cluster;
mod connections;
mod datapath;
mod family;
mod gc_counts;
mod hosts;
mod listen;
mod metrics;
mod relay;
mod serve;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;

pub use self::cluster::SyncLag;
pub use self::connections::HttpCounts;
pub use self::gc_counts::GcCounts;
pub use self::listen::BindError;
pub use self::metrics::example as example_metrics;

use self::hosts::Hosts;
use self::serve::Service;
use crate::config::HttpConfig;
use crate::dns::RelayHandle;
use crate::maps::Pins;
use crate::observe::report::Report;
use crate::observe::snapshot::{Fill, Snapshot, Viewpoint};

/// How long requests may go on after the shutdown has begun.
const DRAIN: Duration = Duration::from_secs(2);

/// A listener with its address bound, not answering yet.
#[derive(Debug)]
pub struct Server {
    listener: std::net::TcpListener,
    hosts: Hosts,
}

impl Server {
    /// Binds the address, without a runtime.
    ///
    /// # Errors
    /// Says what is in the way.
    pub fn bind(config: &HttpConfig) -> Result<Self, BindError> {
        Ok(Self {
            listener: listen::bind(config.listen)?,
            hosts: Hosts::new(config),
        })
    }

    /// The address, with the port that the kernel chose if it was 0.
    ///
    /// # Errors
    /// When the kernel doesn't tell.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers requests until `shutdown` completes, and ends those under way in 2 s at most.
    ///
    /// # Errors
    /// If the runtime can't watch the socket.
    pub async fn run(self, sources: Sources, shutdown: impl Future<Output = ()>) -> io::Result<()> {
        let listener = TcpListener::from_std(self.listener)?;
        let (stop, stopped) = watch::channel(false);
        let service = Service {
            counts: sources.counts.clone(),
            router: router(sources),
            hosts: Arc::new(self.hosts),
        };
        let mut serving = std::pin::pin!(service.serve(listener, stopped));
        tokio::select! {
            () = &mut serving => return Ok(()),
            () = shutdown => {}
        }
        stop.send_replace(true);
        // A client that never finishes its request must not hold the process up.
        let _ = timeout(DRAIN, serving).await;
        Ok(())
    }
}

/// What the answers are made from. Clones are the same sources.
#[derive(Clone, Debug)]
pub struct Sources {
    pins: Pins,
    viewpoint: Viewpoint,
    relay: Option<RelayHandle>,
    gc_counts: GcCounts,
    lag: SyncLag,
    counts: HttpCounts,
    scraping: Arc<Mutex<()>>,
}

impl Sources {
    /// The bridge with these pins, what this process reports of it, and its DNS relay, if it has one.
    #[must_use]
    pub fn new(
        pins: Pins,
        report: watch::Receiver<Option<Report>>,
        relay: Option<RelayHandle>,
    ) -> Self {
        Self {
            viewpoint: Viewpoint::inside(&pins, report),
            pins,
            relay,
            gc_counts: GcCounts::default(),
            lag: SyncLag::default(),
            counts: HttpCounts::default(),
            scraping: Arc::default(),
        }
    }

    /// Where garbage collection is counted.
    #[must_use]
    pub fn gc_counts(&self) -> &GcCounts {
        &self.gc_counts
    }

    /// Where the time from a change of the cluster to the tables is counted.
    #[must_use]
    pub fn sync_lag(&self) -> &SyncLag {
        &self.lag
    }

    /// What keeps the bridge from being ready; nothing if it is.
    async fn not_ready(&self) -> Vec<String> {
        match Snapshot::take(&self.viewpoint).await {
            Ok(snapshot) => snapshot.not_ready.iter().map(ToString::to_string).collect(),
            Err(error) => vec![format!("{error:#}")],
        }
    }

    async fn metrics(&self) -> anyhow::Result<String> {
        // A full table takes memory and a moment to read, so one request at a time. The turn goes with the reading, which a
        // client that leaves does not end.
        let turn = self.scraping.clone().lock_owned().await;
        let snapshot = Snapshot::take(&self.viewpoint).await?;
        let relay = self.relay.as_ref().map(RelayHandle::snapshot);
        let gc_counts = self.gc_counts.clone();
        let lag = self.lag.clone();
        let counts = self.counts.clone();
        let pins = self.pins.clone();
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let fill = Fill::read(&pins)?;
            let own = metrics::Own {
                gc: &gc_counts,
                lag: &lag,
                http: &counts,
            };
            Ok(metrics::render(snapshot, fill, relay, &own)?)
        })
        .await?
    }
}

fn router(sources: Sources) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(serve_metrics))
        .with_state(sources)
}

async fn readyz(State(sources): State<Sources>) -> Response {
    let reasons = sources.not_ready().await;
    if reasons.is_empty() {
        return "ready\n".into_response();
    }
    let reasons = reasons.join("\n") + "\n";
    (StatusCode::SERVICE_UNAVAILABLE, reasons).into_response()
}

async fn serve_metrics(State(sources): State<Sources>) -> Response {
    match sources.metrics().await {
        Ok(text) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("the metrics can't be read: {error:#}\n"),
        )
            .into_response(),
    }
}

#[cfg(test)]
mod tests;
