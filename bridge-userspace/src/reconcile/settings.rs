//! `settings` and `nat_ports`.

use bridge_common::abi::Settings;

use super::image::Image;
use super::write::Write;
use crate::plan::map_state::MapState;
use crate::plan::nat_ports::rearranged;

/// The writes, in two parts.
#[derive(Debug, Default, PartialEq)]
pub(super) struct SettingsDiff {
    /// Before all else.
    pub(super) first: Vec<Write>,
    /// When the services are there.
    pub(super) after_services: Vec<Write>,
}

/// What makes the wanted settings and NAT ports of those in `tables`.
pub(super) fn diff(tables: &Image, wanted: &MapState) -> SettingsDiff {
    let applied = &tables.settings;
    // Unknown services are rejected only when all that are known are there.
    let cautious = Settings {
        authoritative: wanted.settings.authoritative.min(applied.authoritative),
        ..wanted.settings
    };
    let nat_ports = nat_ports(tables, wanted);
    let settings = write_unless(cautious == *applied, &cautious);
    // The datapath must not choose a candidate that goes, nor one that has not come yet.
    let first = if cautious.nat_port_count < applied.nat_port_count {
        settings.into_iter().chain(nat_ports).collect()
    } else {
        nat_ports.into_iter().chain(settings).collect()
    };
    SettingsDiff {
        first,
        after_services: write_unless(wanted.settings == cautious, &wanted.settings)
            .into_iter()
            .collect(),
    }
}

fn write_unless(is_applied: bool, settings: &Settings) -> Option<Write> {
    (!is_applied).then(|| Write::Settings(Box::new(*settings)))
}

fn nat_ports(tables: &Image, wanted: &MapState) -> Vec<Write> {
    let count = tables.settings.nat_port_count as usize;
    let wanted = rearranged(&tables.nat_ports, count, &wanted.nat_ports);
    (0..)
        .zip(wanted.into_iter().zip(&tables.nat_ports))
        .filter(|(_, (port, applied))| port != *applied)
        .map(|(index, (port, _))| Write::NatPort { index, port })
        .collect()
}
