//! The flow table as `flows list` tells it.

use std::net::SocketAddrV4;

use anyhow::{Result, bail};
use serde_json::Value;

use super::client::Client;

impl Client {
    /// `flows list -o json`.
    pub fn flows(&self) -> Result<Vec<Value>> {
        match self.json(&["flows", "list"])? {
            Value::Array(flows) => Ok(flows),
            other => bail!("flows list -o json is no array: {other}"),
        }
    }

    /// The one flow of a client's address and port that `is_wanted`.
    ///
    /// # Panics
    ///
    /// If there is none, or more than one.
    #[must_use]
    #[track_caller]
    pub fn only_flow(&self, client: SocketAddrV4, is_wanted: impl Fn(&Value) -> bool) -> Value {
        let flows = self.flows().unwrap_or_else(|error| panic!("{error:#}"));
        let client = client.to_string();
        let found: Vec<_> = flows
            .iter()
            .filter(|flow| flow["client"] == client.as_str() && is_wanted(flow))
            .collect();
        match found[..] {
            [flow] => flow.clone(),
            _ => panic!("not one flow of {client}, but {found:?} in {flows:?}"),
        }
    }
}
