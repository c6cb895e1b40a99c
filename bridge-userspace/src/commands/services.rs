//! `office-bridge services`.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{endpoint, print_json, protocol_name, table};
use crate::commands::cli::OutputFormat;
use crate::maps::{TableError, Tables};

/// One service port as it is listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServiceView {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The cluster IP and the service port.
    pub vip: String,
    /// The ready backends that new flows go to.
    pub backends: Vec<String>,
    /// For how many seconds a client comes to the same backend after its last new flow; nothing without
    /// session affinity.
    pub affinity_seconds: Option<u32>,
}

/// The services as the datapath has them.
///
/// # Errors
/// When the tables can't be read.
pub fn views(tables: &Tables) -> Result<Vec<ServiceView>, TableError> {
    let lists = tables.backend_lists()?;
    let mut services = tables.service_ports()?;
    services.sort_unstable_by_key(|(key, _)| *key);
    Ok(services
        .into_iter()
        .map(|(key, service)| ServiceView {
            protocol: protocol_name(key.protocol),
            vip: endpoint(key.vip, key.port),
            backends: lists
                .get(&service.id)
                .into_iter()
                .flat_map(BTreeMap::values)
                .map(|backend| endpoint(backend.address, backend.port))
                .collect(),
            affinity_seconds: Some(service.affinity_seconds).filter(|seconds| *seconds != 0),
        })
        .collect())
}

/// Lists services.
///
/// # Errors
/// When the tables can't be read.
pub fn list(tables: &Tables, output: OutputFormat) -> anyhow::Result<()> {
    let services = views(tables)?;
    match output {
        OutputFormat::Json => print_json(&services),
        OutputFormat::Table => table::print(
            &["PROTOCOL", "VIP", "AFFINITY", "BACKENDS"],
            services.into_iter().map(|service| {
                let backends = if service.backends.is_empty() {
                    "none ready".to_owned()
                } else {
                    service.backends.join(" ")
                };
                let affinity = service
                    .affinity_seconds
                    .map_or_else(|| "-".to_owned(), |seconds| format!("{seconds} s"));
                vec![service.protocol, service.vip, affinity, backends]
            }),
            "no services: with `--cluster static` they are kube-proxy's",
        ),
    }
}
