//! Every setting of `run`, in the order of the help.

use super::setting::SettingFacts;
use super::{clients, cluster, datapath, dns, host, http, nat, networks, timeouts};

/// Every setting that the YAML file can have, for the documentation; all but those without a flag are flags too.
pub fn settings() -> impl Iterator<Item = &'static SettingFacts> {
    [
        networks::SETTINGS,
        cluster::SETTINGS,
        datapath::SETTINGS,
        clients::SETTINGS,
        nat::SETTINGS,
        dns::SETTINGS,
        http::SETTINGS,
        host::SETTINGS,
        timeouts::SETTINGS,
    ]
    .into_iter()
    .flatten()
}
