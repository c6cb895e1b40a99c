//! The sockets that `run` listens on: the DNS relay's and the HTTP listener's.

use tokio::sync::watch;
use tracing::info;

use crate::agent::supervisor::Supervisor;
use crate::config::Config;
use crate::dns;
use crate::maps::Pins;
use crate::model::{Finding, Findings};
use crate::observe::http;
use crate::observe::report::{DnsState, Report};

/// Sockets, bound before anything in the kernel is touched.
pub struct Listeners {
    relay: Option<dns::Relay>,
    http: Option<http::Server>,
}

impl Listeners {
    /// Binds what the configuration asks for.
    ///
    /// # Errors
    /// Names all addresses that can't be had and who has them.
    pub fn bind(config: &Config) -> Result<Self, Findings> {
        let relay = bind_relay(config);
        let http = config.http.as_ref().map(http::Server::bind).transpose();
        match (relay, http) {
            (Ok(relay), Ok(http)) => Ok(Self { relay, http }),
            (relay, http) => {
                let relay = relay.err().into_iter().flatten().map(Finding::from);
                Err(relay.chain(http.err().map(Finding::from)).collect())
            }
        }
    }

    /// Serves health and metrics at once: the verifier takes its time, and the process lives meanwhile.
    ///
    /// # Errors
    /// When the kernel doesn't tell the address bound.
    pub fn serve(
        self,
        pins: &Pins,
        report: watch::Receiver<Option<Report>>,
        supervisor: &mut Supervisor,
    ) -> anyhow::Result<Served> {
        let relay = self.relay.as_ref().map(dns::Relay::handle);
        let sources = http::Sources::new(pins.clone(), report, relay.clone());
        let stop = watch::Sender::new(false);
        if let Some(http) = self.http {
            info!("health and metrics at http://{}", http.address()?);
            let serving = http.run(sources.clone(), wait_for(stop.subscribe()));
            supervisor.require("the HTTP listener", async { Ok(serving.await?) });
        }
        Ok(Served {
            waiting: self.relay,
            relay,
            sources,
            stop,
        })
    }
}

/// What answers on the sockets. The tasks end with the supervisor if nobody stops them before.
pub struct Served {
    /// The relay until it is started.
    waiting: Option<dns::Relay>,
    relay: Option<dns::RelayHandle>,
    sources: http::Sources,
    stop: watch::Sender<bool>,
}

impl Served {
    /// Where garbage collection is counted.
    #[must_use]
    pub fn gc_counts(&self) -> &http::GcCounts {
        self.sources.gc_counts()
    }

    /// Where the time from a change of the cluster to the tables is counted.
    #[must_use]
    pub fn sync_lag(&self) -> &http::SyncLag {
        self.sources.sync_lag()
    }

    /// Starts the relay, if there is one and it does not run yet.
    pub fn answer_dns(&mut self, supervisor: &mut Supervisor) {
        if let Some(relay) = self.waiting.take() {
            let serving = relay.run(wait_for(self.stop.subscribe()));
            supervisor.require("the DNS relay", async { Ok(serving.await?) });
        }
    }

    /// How the relay stands, if there is one and it is started.
    #[must_use]
    pub fn dns_state(&self) -> Option<DnsState> {
        let relay = self.relay.as_ref().filter(|_| self.waiting.is_none())?;
        Some(DnsState::new(&relay.snapshot()))
    }

    /// Lets requests under way end, all listeners at the same time.
    ///
    /// # Errors
    /// When one of them has broken down.
    pub async fn stop(self, supervisor: &mut Supervisor) -> anyhow::Result<()> {
        self.stop.send_replace(true);
        supervisor.required_have_ended().await
    }
}

fn bind_relay(config: &Config) -> Result<Option<dns::Relay>, dns::BindErrors> {
    let Some(settings) = &config.dns else {
        return Ok(None);
    };
    let allow = config
        .office_cidrs
        .iter()
        .chain(&settings.allow)
        .map(|&cidr| cidr.into())
        .collect();
    let mut relay = dns::Config::new(
        settings
            .listen
            .iter()
            .map(|&address| address.into())
            .collect(),
        settings
            .upstream
            .iter()
            .map(|&address| address.into())
            .collect(),
        allow,
    );
    relay.probe_domain.clone_from(&config.cluster_domain);
    Ok(Some(dns::Relay::bind(&relay)?))
}

async fn wait_for(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone: time to stop as well.
    let _ = stopped.wait_for(|&stopped| stopped).await;
}
