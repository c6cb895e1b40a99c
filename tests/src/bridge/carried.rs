//! Which layer of the bridge has carried packets.

use anyhow::{Context as _, Result};

use serde_json::Value;

use super::client::Client;

/// Packets that a bridge has forwarded since it was installed, and flows that it has opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carried {
    /// By XDP, from clients to backends.
    pub xdp_to_backend: u64,
    /// By XDP, from backends to clients.
    pub xdp_to_client: u64,
    /// By the TC path, from clients to backends.
    pub tc_to_backend: u64,
    /// By the TC path, from backends to clients.
    pub tc_to_client: u64,
    /// Flows opened, by either.
    pub opened: u64,
}

impl Carried {
    /// As `status` tells it, whose sum of a direction includes what XDP has forwarded.
    ///
    /// # Panics
    ///
    /// If `status` fails or counts something else.
    #[must_use]
    #[track_caller]
    pub fn of(client: &Client) -> Self {
        let counted = client.status().and_then(|status| Self::in_status(&status));
        counted.unwrap_or_else(|error| panic!("{error:#}"))
    }

    fn in_status(status: &Value) -> Result<Self> {
        let packets = |name: &str| {
            let count = status["traffic"][name]["packets"].as_u64();
            count.with_context(|| format!("status counts no {name}: {status}"))
        };
        let (xdp_to_backend, xdp_to_client) =
            (packets("xdp-to-backend")?, packets("xdp-to-client")?);
        Ok(Self {
            xdp_to_backend,
            xdp_to_client,
            tc_to_backend: packets("to-backend")? - xdp_to_backend,
            tc_to_client: packets("to-client")? - xdp_to_client,
            opened: packets("flow-opened")?,
        })
    }

    /// What has come since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            xdp_to_backend: self.xdp_to_backend - earlier.xdp_to_backend,
            xdp_to_client: self.xdp_to_client - earlier.xdp_to_client,
            tc_to_backend: self.tc_to_backend - earlier.tc_to_backend,
            tc_to_client: self.tc_to_client - earlier.tc_to_client,
            opened: self.opened - earlier.opened,
        }
    }

    /// By the TC path, both directions.
    #[must_use]
    pub fn tc(self) -> u64 {
        self.tc_to_backend + self.tc_to_client
    }

    /// By XDP, in the direction that has less of it.
    #[must_use]
    pub fn xdp(self) -> u64 {
        self.xdp_to_backend.min(self.xdp_to_client)
    }
}
