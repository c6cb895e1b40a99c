//! The uplink and the networks on both sides.

use super::setting::{DefaultValue, Setting, SettingFacts};
use super::settings::Settings;
use super::values::cidrs;
use crate::model::networks::{self, Labelled};
use crate::model::{Finding, Findings, Subject};

pub(super) const SETTINGS: &[SettingFacts] = &[
    UPLINK.facts,
    OFFICE_CIDR.facts,
    POD_CIDR.facts,
    SERVICE_CIDR.facts,
];

const UPLINK: Setting<String> = Setting::new(
    "uplink",
    "uplink",
    "IF",
    DefaultValue::None,
    "Interface where office packets come in",
);
const OFFICE_CIDR: Setting<Vec<String>> = Setting::new(
    "officeCidr",
    "office-cidr",
    "CIDR",
    DefaultValue::None,
    "Network whose hosts may reach the cluster; a single host is ADDRESS/32 (repeatable)",
);
pub(super) const POD_CIDR: Setting<Vec<String>> = Setting::new(
    "podCidr",
    "pod-cidr",
    "CIDR",
    DefaultValue::None,
    "Network of pods; wins over what the cluster says (repeatable)",
);
pub(super) const SERVICE_CIDR: Setting<Vec<String>> = Setting::new(
    "serviceCidr",
    "service-cidr",
    "CIDR",
    DefaultValue::None,
    "Network of service addresses; wins over what the cluster says (repeatable)",
);

/// Longest interface name (linux/if.h `IFNAMSIZ` without the final NUL).
const LONGEST_INTERFACE_NAME: usize = 15;

/// The networks that are configured.
pub(super) struct Networks {
    pub(super) uplink: String,
    pub(super) office: Vec<Labelled>,
    pub(super) pods: Vec<Labelled>,
    pub(super) services: Vec<Labelled>,
}

pub(super) fn check(settings: &Settings, findings: &mut Findings) -> Networks {
    let uplink = uplink(settings, findings);
    let office = cidrs(settings, &OFFICE_CIDR, networks::OFFICE, findings);
    if settings.lacks(&OFFICE_CIDR) {
        findings.push(settings.wrong(
            &OFFICE_CIDR,
            " is missing",
            "say whose packets to take care of, e.g. --office-cidr 192.168.0.0/22",
        ));
    }
    let pods = cidrs(settings, &POD_CIDR, networks::POD, findings);
    let services = cidrs(settings, &SERVICE_CIDR, networks::SERVICE, findings);
    let all: Vec<Labelled> = [&office[..], &pods, &services].concat();
    findings.extend(networks::conflicts(&all).map(|conflict| {
        let subject = Subject::Network(conflict.network());
        Finding::usage(subject, conflict.cause(), conflict.remedy())
    }));
    Networks {
        uplink,
        office,
        pods,
        services,
    }
}

fn uplink(settings: &Settings, findings: &mut Findings) -> String {
    if settings.lacks(&UPLINK) {
        findings.push(settings.wrong(
            &UPLINK,
            " is missing",
            "name the interface where office packets come in (`ip route get` with an office host's \
             address shows it)",
        ));
    }
    let Some(name) = settings.get(&UPLINK) else {
        return String::new();
    };
    let is_valid = !name.is_empty()
        && name.len() <= LONGEST_INTERFACE_NAME
        && name != "."
        && name != ".."
        && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c == '\0');
    if !is_valid {
        findings.push(settings.wrong(
            &UPLINK,
            &format!(": `{name}` cannot be the name of an interface"),
            "`ip link` shows the names",
        ));
    }
    name.clone()
}
