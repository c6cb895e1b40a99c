//! How long a flow may be silent before it counts as gone.

use std::time::Duration;

use serde::Deserialize;

use crate::model::UsageError;

/// Idle times in seconds, as the file has them; absent ones keep their default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TimeoutArgs {
    /// TCP, established.
    pub tcp_established: Option<u32>,
    /// TCP, opening, closing or reset.
    pub tcp_transitory: Option<u32>,
    /// UDP that has been answered.
    pub udp: Option<u32>,
    /// UDP without an answer so far.
    pub udp_unreplied: Option<u32>,
    /// ICMP echo.
    pub icmp: Option<u32>,
}

/// Idle times of flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP, established. A day by default, so that an idle database session survives the night;
    /// RFC 5382 REQ-5 asks for at least 2 h 4 min.
    pub tcp_established: Duration,
    /// TCP, opening, closing or reset: 4 min by default, which is also the least that RFC 5382
    /// REQ-5 and RFC 7857 section 2.2 ask for.
    pub tcp_transitory: Duration,
    /// UDP that has been answered: 5 min by default, as RFC 4787 REQ-5c recommends; at least
    /// 2 min by REQ-5.
    pub udp: Duration,
    /// UDP without an answer so far: 2 min by default, the least by RFC 4787 REQ-5.
    pub udp_unreplied: Duration,
    /// ICMP echo: 60 s by default, the least by RFC 5508 REQ-2.
    pub icmp: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_established: Duration::from_hours(24),
            tcp_transitory: Duration::from_mins(4),
            udp: Duration::from_mins(5),
            udp_unreplied: Duration::from_mins(2),
            icmp: Duration::from_mins(1),
        }
    }
}

/// The longest timeout that makes sense: `nf_conntrack`'s for established TCP, five days, with
/// room to spare.
const LONGEST: u32 = 30 * 86_400;

impl TimeoutArgs {
    pub(super) fn check(self, warnings: &mut Vec<String>) -> Result<Timeouts, UsageError> {
        let defaults = Timeouts::default();
        let mut one = |field: &str, value, default, least: u32, rfc: &str| match value {
            None => Ok(default),
            Some(0) => Err(UsageError::new(format!(
                "timeouts.{field} is 0: every flow would end at once"
            ))),
            Some(seconds) if seconds > LONGEST => Err(UsageError::new(format!(
                "timeouts.{field} is {seconds} s, more than 30 days ({LONGEST} s)"
            ))),
            Some(seconds) => {
                if seconds < least {
                    warnings.push(format!(
                        "timeouts.{field} is {seconds} s, less than the {least} s of {rfc}: \
                         silent connections will break"
                    ));
                }
                Ok(Duration::from_secs(seconds.into()))
            }
        };
        let timeouts = Timeouts {
            tcp_established: one(
                "tcpEstablished",
                self.tcp_established,
                defaults.tcp_established,
                7_440,
                "RFC 5382 REQ-5",
            )?,
            tcp_transitory: one(
                "tcpTransitory",
                self.tcp_transitory,
                defaults.tcp_transitory,
                240,
                "RFC 5382 REQ-5",
            )?,
            udp: one("udp", self.udp, defaults.udp, 120, "RFC 4787 REQ-5")?,
            udp_unreplied: one(
                "udpUnreplied",
                self.udp_unreplied,
                defaults.udp_unreplied,
                120,
                "RFC 4787 REQ-5",
            )?,
            icmp: one("icmp", self.icmp, defaults.icmp, 60, "RFC 5508 REQ-2")?,
        };
        Ok(timeouts)
    }
}
