//! What one client may take from the others.

use bridge_common::abi::ClientLimits;

use super::setting::{DefaultValue, Setting, SettingFacts};
use super::settings::Settings;

pub(super) const SETTINGS: &[SettingFacts] = &[
    CLIENT_FLOWS.facts,
    CLIENT_FLOW_RATE.facts,
    CLIENT_NAT_PORTS.facts,
    CLIENT_ANSWER_RATE.facts,
];

const CLIENT_FLOWS: Setting<u32> = Setting::new(
    "clientFlows",
    "client-flows",
    "FLOWS",
    DefaultValue::Number(DEFAULTS.flows),
    "Flows that one client may have at a time, spent ones not counted; 0 is no limit",
);
const CLIENT_FLOW_RATE: Setting<u32> = Setting::new(
    "clientFlowRate",
    "client-flow-rate",
    "FLOWS",
    DefaultValue::Number(DEFAULTS.flow_rate),
    "Flows that one client may open in a second; 0 is no limit",
);
const CLIENT_NAT_PORTS: Setting<u32> = Setting::new(
    "clientNatPorts",
    "client-nat-ports",
    "PORTS",
    DefaultValue::Derived("seven eighths of those that there are, if these are 8,192 or more"),
    "NAT ports that one client may have towards one port of a pod; 0 is no limit",
);
const CLIENT_ANSWER_RATE: Setting<u32> = Setting::new(
    "clientAnswerRate",
    "client-answer-rate",
    "PACKETS",
    DefaultValue::Number(DEFAULTS.answer_rate),
    "Resets, ICMP errors and echo replies that the node itself sends one client in a second; 0 is no limit",
);

/// What no person at a desk comes near, and what a hundred behind one address don't reach. Half of the default flow table,
/// and half of the answers that a CPU gives in a second.
const DEFAULTS: ClientLimits = ClientLimits {
    flows: 131_072,
    flow_rate: 4_000,
    nat_ports: 0,
    answer_rate: 1_000,
};

/// What one client may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    flows: u32,
    flow_rate: u32,
    nat_ports: Option<u32>,
    answer_rate: u32,
}

impl Limits {
    /// The limits where towards each port of a pod there are `nat_ports`.
    #[must_use]
    pub fn of(self, nat_ports: u32) -> ClientLimits {
        // Of few ports one client may well need all.
        const FEW: u32 = 8_192;
        let share = if nat_ports < FEW {
            0
        } else {
            nat_ports / 8 * 7
        };
        ClientLimits {
            flows: self.flows,
            flow_rate: self.flow_rate,
            nat_ports: self.nat_ports.unwrap_or(share),
            answer_rate: self.answer_rate,
        }
    }
}

pub(super) fn limits(settings: &Settings) -> Limits {
    let number = |setting, default| settings.get(setting).copied().unwrap_or(default);
    Limits {
        flows: number(&CLIENT_FLOWS, DEFAULTS.flows),
        flow_rate: number(&CLIENT_FLOW_RATE, DEFAULTS.flow_rate),
        nat_ports: settings.get(&CLIENT_NAT_PORTS).copied(),
        answer_rate: number(&CLIENT_ANSWER_RATE, DEFAULTS.answer_rate),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_eighth_of_the_ports_is_for_others_where_there_are_many() {
        let limits = Limits {
            flows: 1,
            flow_rate: 2,
            nat_ports: None,
            answer_rate: 3,
        };
        assert_eq!(limits.of(36_280).nat_ports, 31_745);
        assert_eq!(limits.of(1_535).nat_ports, 0);
        let fixed = Limits {
            nat_ports: Some(500),
            ..limits
        };
        assert_eq!(fixed.of(36_280).nat_ports, 500);
    }
}
