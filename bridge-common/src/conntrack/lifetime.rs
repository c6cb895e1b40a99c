//! How long a flow lives: one rule for the datapath and for the garbage collection in userspace.

use network_types::ip::IpProto;

use crate::abi::{Flow, Reply, Seconds, Timeouts, since};
use crate::conntrack::tcp_state::{Seen, State};

/// What a flow is called in listings, and what its timeout depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowState {
    /// TCP.
    Tcp(State),
    /// UDP or ICMP that was answered.
    Replied,
    /// UDP or ICMP that was not.
    Unreplied,
}

impl FlowState {
    /// The state of a flow whose reply entry is `reply`.
    #[must_use]
    #[inline]
    pub fn of(protocol: u8, flow: &Flow, reply: &Reply) -> Self {
        if protocol == IpProto::Tcp as u8 {
            Self::Tcp(State::of(Seen(flow.tcp_seen), Seen(reply.tcp_seen)))
        } else if reply.packets > 0 {
            Self::Replied
        } else {
            Self::Unreplied
        }
    }

    /// Seconds that a flow of `protocol` may be idle in this state.
    #[must_use]
    #[inline]
    pub const fn timeout(self, protocol: u8, timeouts: &Timeouts) -> Seconds {
        match self {
            Self::Tcp(State::Established) => timeouts.tcp_established,
            Self::Tcp(_) => timeouts.tcp_transitory,
            Self::Replied | Self::Unreplied if protocol == IpProto::Icmp as u8 => timeouts.icmp,
            Self::Replied => timeouts.udp,
            Self::Unreplied => timeouts.udp_unreplied,
        }
    }

    /// Whether it is a TCP connection that has ended.
    #[must_use]
    #[inline]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Tcp(state) if state.is_over())
    }

    /// The name that commands show.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp(state) => state.name(),
            Self::Replied => "replied",
            Self::Unreplied => "unreplied",
        }
    }
}

/// Seconds that a connection which is not ours may be idle before its answers are taken for a new flow. Only the
/// office's side is seen: TCP counts as established once it has acknowledged, and as over with its FIN or RST.
#[must_use]
#[inline]
pub const fn untranslated_timeout(protocol: u8, flow: &Flow, timeouts: &Timeouts) -> Seconds {
    if protocol == IpProto::Tcp as u8 {
        if flow.tcp_seen & (Seen::ACK | Seen::FIN | Seen::RST) == Seen::ACK {
            timeouts.tcp_established
        } else {
            timeouts.tcp_transitory
        }
    } else {
        FlowState::Replied.timeout(protocol, timeouts)
    }
}

/// Seconds since either direction was last used.
#[must_use]
#[inline]
pub const fn idle(now: Seconds, flow: &Flow, reply: &Reply) -> Seconds {
    let forward = since(now, flow.last_seen);
    let backward = since(now, reply.last_seen);
    if forward < backward {
        forward
    } else {
        backward
    }
}

/// Whether the flow counts as absent.
#[must_use]
#[inline]
pub fn is_expired(
    protocol: u8,
    flow: &Flow,
    reply: &Reply,
    now: Seconds,
    timeouts: &Timeouts,
) -> bool {
    idle(now, flow, reply) >= FlowState::of(protocol, flow, reply).timeout(protocol, timeouts)
}

/// How long the host that has closed a TCP connection keeps its ports from another (`TCP_TIMEWAIT_LEN`,
/// include/net/tcp.h).
const TIME_WAIT: Seconds = 60;

/// Whether a TCP connection was over so long ago that its ports may serve another one if they are needed.
#[must_use]
#[inline]
pub fn is_reusable(protocol: u8, flow: &Flow, reply: &Reply, now: Seconds) -> bool {
    idle(now, flow, reply) >= TIME_WAIT && FlowState::of(protocol, flow, reply).is_over()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: u8 = IpProto::Tcp as u8;
    const UDP: u8 = IpProto::Udp as u8;
    const ICMP: u8 = IpProto::Icmp as u8;

    fn expires_after(protocol: u8, flow: &Flow, reply: &Reply) -> Seconds {
        let timeouts = Timeouts::default();
        (0..100_000)
            .find(|&now| is_expired(protocol, flow, reply, now, &timeouts))
            .unwrap()
    }

    /// A TCP connection whose ends have shown this.
    fn connection(client: u8, backend: u8) -> (Flow, Reply) {
        let flow = Flow {
            tcp_seen: client,
            ..Flow::default()
        };
        let reply = Reply {
            tcp_seen: backend,
            ..Reply::default()
        };
        (flow, reply)
    }

    #[test]
    fn an_idle_established_session_survives_a_night() {
        let (flow, reply) = connection(Seen::SYN | Seen::ACK, Seen::SYN);
        assert_eq!(expires_after(TCP, &flow, &reply), 86_400);
    }

    #[test]
    fn opening_closing_and_reset_connections_live_four_minutes() {
        for (client, backend) in [
            (Seen::SYN, 0),
            (
                Seen::SYN | Seen::ACK | Seen::FIN,
                Seen::SYN | Seen::ACK | Seen::FIN,
            ),
            (Seen::SYN | Seen::ACK, Seen::SYN | Seen::RST),
        ] {
            let (flow, reply) = connection(client, backend);
            assert_eq!(expires_after(TCP, &flow, &reply), 240);
        }
    }

    #[test]
    fn only_what_both_sides_or_a_reset_have_ended_may_go_after_a_minute() {
        const DONE: u8 = Seen::SYN | Seen::ACK | Seen::FIN;
        const RESET: u8 = Seen::SYN | Seen::RST;
        for (client, backend, is_over) in [
            (DONE, DONE, true),
            (Seen::SYN | Seen::ACK, RESET, true),
            (DONE, Seen::SYN | Seen::ACK, false),
            (Seen::SYN, 0, false),
        ] {
            let (flow, reply) = connection(client, backend);
            assert!(!is_reusable(TCP, &flow, &reply, 59));
            assert_eq!(is_reusable(TCP, &flow, &reply, 60), is_over);
            assert!(!is_reusable(UDP, &flow, &reply, 60));
        }
    }

    #[test]
    fn udp_lives_longer_once_it_was_answered() {
        let answered = Reply {
            packets: 1,
            ..Reply::default()
        };
        assert_eq!(expires_after(UDP, &Flow::default(), &Reply::default()), 120);
        assert_eq!(expires_after(UDP, &Flow::default(), &answered), 300);
        assert_eq!(expires_after(ICMP, &Flow::default(), &answered), 60);
    }

    #[test]
    fn traffic_in_either_direction_keeps_a_flow() {
        let reply = Reply {
            packets: 1,
            last_seen: 200,
            ..Reply::default()
        };
        assert_eq!(expires_after(UDP, &Flow::default(), &reply), 500);
    }
}
