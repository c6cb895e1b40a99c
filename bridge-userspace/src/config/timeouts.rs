//! How long a flow may be silent before it counts as gone.

use std::time::Duration;

use super::setting::{DefaultValue, Setting, SettingFacts};
use super::settings::Settings;
use crate::model::{Finding, Findings, Subject};

pub(super) const SETTINGS: &[SettingFacts] = &[
    TCP_ESTABLISHED.setting.facts,
    TCP_TRANSITORY.setting.facts,
    UDP.setting.facts,
    UDP_UNREPLIED.setting.facts,
    ICMP.setting.facts,
    BACKEND_GRACE.setting.facts,
];

const TCP_ESTABLISHED: Timeout = Timeout::new(
    "timeouts.tcpEstablished",
    86_400,
    7_440,
    "RFC 5382 REQ-5",
    "Seconds that an established TCP connection may be silent: a day, so that an idle database session survives the \
     night; RFC 5382 REQ-5 asks for at least 2 h 4 min",
);
const TCP_TRANSITORY: Timeout = Timeout::new(
    "timeouts.tcpTransitory",
    240,
    240,
    "RFC 5382 REQ-5",
    "Seconds that a TCP connection may be silent while it is opened or closed, or after it was reset; at least 4 min \
     by RFC 5382 REQ-5 and RFC 7857 section 2.2",
);
const UDP: Timeout = Timeout::new(
    "timeouts.udp",
    300,
    120,
    "RFC 4787 REQ-5",
    "Seconds that a UDP flow may be silent after an answer: 5 min as RFC 4787 REQ-5c recommends, at least 2 min by REQ-5",
);
const UDP_UNREPLIED: Timeout = Timeout::new(
    "timeouts.udpUnreplied",
    120,
    120,
    "RFC 4787 REQ-5",
    "Seconds that a UDP flow may be silent without an answer so far; at least 2 min by RFC 4787 REQ-5",
);
const ICMP: Timeout = Timeout::new(
    "timeouts.icmp",
    60,
    60,
    "RFC 5508 REQ-2",
    "Seconds that a ping may be silent; at least 60 s by RFC 5508 REQ-2",
);

const BACKEND_GRACE: Timeout = Timeout::new(
    "timeouts.backendGrace",
    15,
    1,
    "a slice that is written anew",
    "Seconds that a backend may be gone from its service, or a NAT address from the node, before a session whose client \
     is no longer answered ends; what is answered goes on",
);

/// The longest timeout that makes sense: `nf_conntrack`'s for established TCP, five days, with
/// room to spare.
const LONGEST: u32 = 30 * 86_400;

/// A setting in seconds, with the least value that an RFC asks for.
struct Timeout {
    setting: Setting<u32>,
    default: u32,
    least: u32,
    rfc: &'static str,
}

impl Timeout {
    const fn new(
        field: &'static str,
        default: u32,
        least: u32,
        rfc: &'static str,
        doc: &'static str,
    ) -> Self {
        Self {
            setting: Setting::in_file_only(field, DefaultValue::Number(default), doc),
            default,
            least,
            rfc,
        }
    }

    fn check(&self, settings: &Settings, findings: &mut Findings) -> Duration {
        let seconds = settings.get(&self.setting).copied();
        let seconds = seconds.unwrap_or(self.default);
        let &Self {
            ref setting,
            default,
            least,
            rfc,
        } = self;
        if seconds == 0 {
            let problem = " is 0: every flow would end at once";
            findings.push(settings.wrong(setting, problem, "give the seconds, or leave it out"));
        } else if seconds > LONGEST {
            let problem = format!(" is {seconds} s, more than 30 days ({LONGEST} s)");
            findings.push(settings.wrong(setting, &problem, "give less, or leave it out"));
        } else if seconds < least {
            findings.push(Finding::warning(
                Subject::Setting(setting.facts.field.into()),
                format!(
                    "{} is {seconds} s, less than the {least} s of {rfc}: silent connections will break",
                    settings.name(setting)
                ),
                format!("give at least {least}; the default is {default}"),
            ));
        }
        Duration::from_secs(seconds.into())
    }
}

/// Idle times of flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP, established.
    pub tcp_established: Duration,
    /// TCP, opening, closing or reset.
    pub tcp_transitory: Duration,
    /// UDP that has been answered.
    pub udp: Duration,
    /// UDP without an answer so far.
    pub udp_unreplied: Duration,
    /// ICMP echo.
    pub icmp: Duration,
    /// A session whose backend has left its service, and does not answer.
    pub backend_grace: Duration,
}

pub(super) fn check(settings: &Settings, findings: &mut Findings) -> Timeouts {
    let mut check = |timeout: Timeout| timeout.check(settings, findings);
    Timeouts {
        tcp_established: check(TCP_ESTABLISHED),
        tcp_transitory: check(TCP_TRANSITORY),
        udp: check(UDP),
        udp_unreplied: check(UDP_UNREPLIED),
        icmp: check(ICMP),
        backend_grace: check(BACKEND_GRACE),
    }
}
