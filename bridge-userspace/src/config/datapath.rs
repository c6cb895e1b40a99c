//! How packets are forwarded.

use super::setting::{DefaultValue, Setting, SettingFacts};
use super::settings::Settings;
use super::values::choice;
use crate::datapath::TcAttach;
use crate::model::Findings;

pub(super) const SETTINGS: &[SettingFacts] = &[
    DATAPATH.facts,
    TC_ATTACH.facts,
    FLOW_CAPACITY.facts,
    ANSWER_PING.facts,
    PASS_OTHER_SOURCES.facts,
];

const DATAPATH: Setting<String> = Setting::new(
    "datapath",
    "datapath",
    "LAYER",
    DefaultValue::Text("auto"),
    "The path of new flows: `auto` (the fastest that each interface can), `xdp` (in the uplink's driver, or no start; \
     what XDP can't finish takes the TC path), `tc` (past the kernel's IP stack; what the tables don't know takes the \
     stack path) or `stack` (routed by the kernel, through netfilter)",
);
const TC_ATTACH: Setting<String> = Setting::new(
    "tcAttach",
    "tc-attach",
    "MODE",
    DefaultValue::Text("auto"),
    "How to attach at TC: `auto` (TCX links, or clsact filters below kernel 6.6) or `clsact`",
);
const FLOW_CAPACITY: Setting<u32> = Setting::new(
    "flowCapacity",
    "flow-capacity",
    "FLOWS",
    DefaultValue::Number(DEFAULT_FLOW_CAPACITY),
    "Number of flows that the tables hold",
);
const ANSWER_PING: Setting<bool> = Setting::new(
    "answerPing",
    "answer-ping",
    "BOOL",
    DefaultValue::Switch(ANSWERS_PING),
    "Answer pings to the addresses of services that have a ready backend",
);

const PASS_OTHER_SOURCES: Setting<bool> = Setting::new(
    "passOtherSources",
    "pass-other-sources",
    "BOOL",
    DefaultValue::Switch(PASSES_OTHER_SOURCES),
    "Let packets to services pass whose source is in no office network, for something else on this node to translate; \
     otherwise they are refused and counted, as the kernel would send them back to the router",
);

/// The size that `nf_conntrack` has at most by default (`nf_conntrack_core.c`).
const DEFAULT_FLOW_CAPACITY: u32 = 262_144;
/// Fewer flows than this cannot serve even one busy client.
const SMALLEST_FLOW_CAPACITY: u32 = 1_024;
/// More flows than this need several gigabytes of kernel memory.
const LARGEST_FLOW_CAPACITY: u32 = 16_777_216;
const ANSWERS_PING: bool = true;
const PASSES_OTHER_SOURCES: bool = false;

/// Which layers of the datapath new flows take. Flows that are there stay on theirs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Datapath {
    /// The fastest that works on each interface, and the stack path for what the tables don't know.
    #[default]
    Auto,
    /// As `Auto`, but XDP on the uplink or nothing.
    Xdp,
    /// The TC path, and the stack path for what the tables don't know.
    Tc,
    /// The stack path alone: the kernel routes, netfilter sees everything.
    Stack,
}

pub(super) fn layer(settings: &Settings, findings: &mut Findings) -> Datapath {
    let choices = [
        ("auto", Datapath::Auto),
        ("xdp", Datapath::Xdp),
        ("tc", Datapath::Tc),
        ("stack", Datapath::Stack),
    ];
    let default = Datapath::default();
    choice(settings, &DATAPATH, "datapath", &choices, default, findings)
}

pub(super) fn tc_attach(settings: &Settings, findings: &mut Findings) -> TcAttach {
    let choices = [("auto", TcAttach::Auto), ("clsact", TcAttach::Clsact)];
    let default = TcAttach::Auto;
    choice(settings, &TC_ATTACH, "mode", &choices, default, findings)
}

pub(super) fn flow_capacity(settings: &Settings, findings: &mut Findings) -> u32 {
    let capacity = settings.get(&FLOW_CAPACITY).copied();
    let capacity = capacity.unwrap_or(DEFAULT_FLOW_CAPACITY);
    if !(SMALLEST_FLOW_CAPACITY..=LARGEST_FLOW_CAPACITY).contains(&capacity) {
        findings.push(settings.wrong(
            &FLOW_CAPACITY,
            &format!(" {capacity} is out of range"),
            format!("choose from {SMALLEST_FLOW_CAPACITY} to {LARGEST_FLOW_CAPACITY}"),
        ));
    }
    capacity
}

pub(super) fn answers_ping(settings: &Settings) -> bool {
    settings.is_on(&ANSWER_PING, ANSWERS_PING)
}

pub(super) fn passes_other_sources(settings: &Settings) -> bool {
    settings.is_on(&PASS_OTHER_SOURCES, PASSES_OTHER_SOURCES)
}
