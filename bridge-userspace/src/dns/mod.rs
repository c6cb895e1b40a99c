//! The DNS relay: clients of the office ask it on port 53, and it asks the cluster's DNS service.
//!
//! A query's way through the modules: [`listen`](Relay::bind) has bound the addresses; `udp` and
//! `tcp` take messages from clients and give answers back; `relay` judges each message (who asks,
//! is it a query, is there room); `message` is the little that is read of it; `exchange` asks the
//! upstreams; `upstream` knows how each of them stands and `upstream_connection` is TCP to it; `counters`
//! tells what happened.
//!
//! Messages go through unmodified in both directions but for the id, so EDNS, the TC bit and
//! whatever else they carry work as if the client had asked the upstream itself. An upstream's
//! answer is passed on whatever its response code: only silence and refused connections make the
//! relay turn to the next upstream. Upstreams are preferred in the order given. One that is down
//! is probed every 0.5 to 2 s and is asked by clients' queries only when no other one answers.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use bridge_userspace::dns::{Config, Relay};
//!
//! let config = Config::new(
//!     vec!["10.60.20.30:53".parse()?],
//!     vec!["10.96.0.10:53".parse()?],
//!     vec!["192.168.0.0/22".parse()?, "10.60.20.1/32".parse()?],
//! );
//! let relay = Relay::bind(&config)?;
//! let handle = relay.handle();
//! relay.run(async { tokio::signal::ctrl_c().await.unwrap_or_default() }).await?;
//! println!("{} queries over UDP", handle.snapshot().queries.udp);
//! # Ok(())
//! # }
//! ```

mod config;
mod counters;
mod descriptors;
mod exchange;
mod framing;
mod listen;
mod message;
mod relay;
mod tcp;
mod udp;
mod upstream;
mod upstream_connection;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use hickory_proto::rr::Name;
use ipnet::IpNet;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

pub use self::config::{Config, Limits};
pub use self::counters::{ByTransport, Snapshot, UpstreamSnapshot};
pub use self::listen::{BindError, BindErrors};

use self::listen::Listener;
use self::relay::{Settings, Shared};

/// A relay with its addresses bound, not answering yet.
#[derive(Debug)]
pub struct Relay {
    listeners: Vec<Listener>,
    shared: Arc<Shared>,
}

/// Looks at a relay and changes its settings while it runs.
#[derive(Clone, Debug)]
pub struct RelayHandle {
    shared: Arc<Shared>,
}

impl Relay {
    /// Checks the configuration and binds every address, without a runtime.
    ///
    /// It raises the process's limit of open files to what the limits of the configuration need,
    /// and lowers the number of queries in flight if it may not.
    ///
    /// # Errors
    /// Says what is wrong and what to do; nothing stays bound then.
    pub fn bind(config: &Config) -> Result<Self, BindErrors> {
        let probe_domain =
            Name::from_ascii(&config.probe_domain).map_err(|_| BindError::ProbeDomain {
                domain: config.probe_domain.clone(),
            })?;
        listen::check_upstreams(&config.upstreams, &config.listen)?;
        let listeners = listen::bind(&config.listen)?;
        let addresses: Vec<_> = listeners.iter().map(|listener| listener.address).collect();
        let limits = descriptors::provide(config.limits);
        let settings = Settings::new(config.allow.clone(), &config.upstreams, &[]);
        Ok(Self {
            listeners,
            shared: Arc::new(Shared::new(limits, addresses, probe_domain, settings)),
        })
    }

    /// The addresses bound, in the order of the configuration, with the ports that the kernel chose.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.shared.listen
    }

    /// A handle that stays useful while the relay runs.
    #[must_use]
    pub fn handle(&self) -> RelayHandle {
        RelayHandle {
            shared: self.shared.clone(),
        }
    }

    /// Answers queries until `shutdown` completes; takes no new ones then, and returns when those
    /// in flight are answered or their time is up.
    ///
    /// # Errors
    /// If the runtime can't watch the sockets.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> io::Result<()> {
        let shared = self.shared;
        let _closing = CloseOnDrop(shared.clone());
        let (stop_sender, stop) = watch::channel(false);
        let connections = tcp::Connections::new(shared.limits.tcp_connections);
        // Ends with this function, however it ends.
        let mut servers = JoinSet::new();
        for listener in self.listeners {
            let front = Arc::new(udp::Front::new(listener.udp)?);
            let accepting = TcpListener::from_std(listener.tcp)?;
            servers.spawn(front.serve(shared.clone(), stop.clone()));
            servers.spawn(tcp::serve(
                accepting,
                shared.clone(),
                connections.clone(),
                stop.clone(),
            ));
        }
        exchange::probe_all(&shared);
        shutdown.await;
        stop_sender.send_replace(true);
        let draining = async {
            while servers.join_next().await.is_some() {}
            shared.drained().await;
        };
        if timeout(shared.limits.drain_timeout, draining)
            .await
            .is_err()
        {
            tracing::warn!(
                in_flight = shared.snapshot().in_flight,
                "DNS queries left unanswered at the shutdown"
            );
        }
        Ok(())
    }
}

/// Ends the probing too, however `run` ends.
struct CloseOnDrop(Arc<Shared>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl RelayHandle {
    /// What the relay has done so far and how it stands.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.shared.snapshot()
    }

    /// Puts other clients and upstreams in force for queries that come from now on. Upstreams that
    /// stay keep their state. Call it inside of the runtime.
    ///
    /// # Errors
    /// Says what is wrong with them; the old ones stay in force then.
    pub fn reconfigure(
        &self,
        allow: Vec<IpNet>,
        upstreams: &[SocketAddr],
    ) -> Result<(), BindErrors> {
        listen::check_upstreams(upstreams, &self.shared.listen)?;
        let old = self.shared.settings();
        self.shared
            .replace_settings(Settings::new(allow, upstreams, &old.upstreams));
        exchange::probe_all(&self.shared);
        Ok(())
    }
}
