//! Connections: how long they may take, and what of them is answered.
//!
//! | what | ends after |
//! |---|---|
//! | a request's head, or the wait for one | [`HEAD_TIMEOUT`] |
//! | an answer that is not taken | [`WRITE_TIMEOUT`] |
//! | a connection, whatever it does | [`LIFETIME`], and [`LAST`] for a request under way |

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse as _;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tower::ServiceExt as _;
use tracing::debug;

use super::connections::{Connections, HttpCounts, Limits, Place};
use super::hosts::Hosts;
use crate::kernel::accept::Acceptor;
use crate::kernel::descriptors;

/// How long a client may take for a request's head, and for the next request on the same connection.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client may leave an answer unread.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may be used.
const LIFETIME: Duration = Duration::from_mins(1);
/// How long the last request on it may take.
const LAST: Duration = Duration::from_secs(10);
/// A request's head and what of its body may come with it, which nobody reads: a Prometheus sends a few hundred bytes.
const MOST_HEAD_BYTES: usize = 16 << 10;

/// What is served, and to whom.
#[derive(Clone)]
pub struct Service {
    pub router: Router,
    pub hosts: Arc<Hosts>,
    pub counts: HttpCounts,
}

impl Service {
    /// Accepts connections until `stop` says true, then waits for those that are open.
    pub async fn serve(self, listener: TcpListener, mut stop: watch::Receiver<bool>) {
        let limits = Limits::within(descriptors::limit());
        let connections = Connections::new(limits, self.counts.clone());
        let mut acceptor = Acceptor::new(listener, "HTTP");
        let mut open = JoinSet::new();
        loop {
            let (stream, client) = tokio::select! {
                biased;
                _ = stop.wait_for(|&stop| stop) => break,
                Some(_) = open.join_next() => continue,
                accepted = acceptor.accept() => accepted,
            };
            let place = Arc::new(connections.admit(client.ip()).await);
            let (service, stop) = (self.clone(), stop.clone());
            open.spawn(async move {
                tokio::select! {
                    () = place.evicted() => debug!(%client, "a newer HTTP connection needs the place"),
                    ended = service.converse(stream, place.clone(), stop) => {
                        if let Err(error) = ended {
                            debug!(%client, %error, "HTTP connection lost");
                        }
                    }
                }
            });
        }
        drop(acceptor);
        while open.join_next().await.is_some() {}
    }

    /// One client's connection.
    async fn converse(
        self,
        stream: TcpStream,
        place: Arc<Place>,
        mut stop: watch::Receiver<bool>,
    ) -> anyhow::Result<()> {
        let local = prepare(&stream)?;
        let answer = service_fn(|request| self.answer(request, local, &place));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(MOST_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), answer);
        let mut connection = pin!(connection);
        tokio::select! {
            ended = &mut connection => return Ok(ended?),
            () = sleep(LIFETIME) => {}
            _ = stop.wait_for(|&stop| stop) => {}
        }
        connection.as_mut().graceful_shutdown();
        Ok(timeout(LAST, connection).await??)
    }

    async fn answer(
        &self,
        request: hyper::Request<hyper::body::Incoming>,
        local: IpAddr,
        place: &Arc<Place>,
    ) -> Result<axum::response::Response, Infallible> {
        let _answering = place.answering();
        let (version, uri, headers) = (request.version(), request.uri(), request.headers());
        if let Err(misdirected) = self.hosts.check(version, uri, headers, local) {
            self.counts.misdirected.inc();
            return Ok(misdirected.into_response());
        }
        self.router.clone().oneshot(request.map(Body::new)).await
    }
}

/// Has the kernel give up a connection whose client takes nothing, also one that this process has closed; gives the
/// address that the client has connected to.
fn prepare(stream: &TcpStream) -> io::Result<IpAddr> {
    stream.set_nodelay(true)?;
    // It covers a window that stays closed, too (`tcp(7)`, TCP_USER_TIMEOUT; net/ipv4/tcp_timer.c, `tcp_probe_timer`).
    SockRef::from(stream).set_tcp_user_timeout(Some(WRITE_TIMEOUT))?;
    Ok(stream.local_addr()?.ip())
}
