//! How long a flow lives: one rule for the datapath and for the garbage collection in userspace.

use network_types::ip::IpProto;

use crate::abi::{Flow, Layer, NatPort, Reply, Seconds, Timeouts, since};
use crate::conntrack::tcp_state::{Seen, State};

/// What a flow is called in listings, and what its timeout depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowState {
    /// TCP.
    Tcp(State),
    /// UDP or ICMP that was answered.
    Replied,
    /// A question and its answer, by UDP, of which nothing more is to come: DNS, and what looks like it.
    Exchanged,
    /// UDP or ICMP that was not.
    Unreplied,
}

impl FlowState {
    /// The state of a flow whose reply entry is `reply`.
    #[must_use]
    #[inline]
    pub fn of(protocol: u8, flow: &Flow, reply: &Reply) -> Self {
        if protocol == IpProto::Tcp as u8 {
            Self::Tcp(State::of(Seen(flow.tcp_seen), Seen(reply.tcp_seen())))
        } else if reply.packets == 0 {
            Self::Unreplied
        } else if protocol == IpProto::Udp as u8 && is_short_lived(flow, reply) {
            Self::Exchanged
        } else {
            Self::Replied
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
            Self::Exchanged if EXCHANGE < timeouts.udp => EXCHANGE,
            Self::Replied | Self::Exchanged => timeouts.udp,
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
            Self::Exchanged => "exchanged",
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
        if is_accepted(flow) {
            timeouts.tcp_established
        } else {
            timeouts.tcp_transitory
        }
    } else {
        FlowState::Replied.timeout(protocol, timeouts)
    }
}

/// Whether the office's side of a TCP connection that is not ours has accepted it, and has not ended it. Of one that was
/// opened elsewhere it must have been seen to: whether there is a connection behind a bare acknowledgement nobody knows.
#[must_use]
#[inline]
pub const fn is_accepted(flow: &Flow) -> bool {
    let needed = if flow.layer == Layer::Passed as u8 {
        Seen::SYN | Seen::ACK
    } else {
        Seen::ACK
    };
    flow.tcp_seen & (needed | Seen::FIN | Seen::RST) == needed
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

/// How long the other host may still wait for the last acknowledgement: some retransmissions (`TCP_RTO_MIN`, 0.2 s,
/// include/net/tcp.h).
const LAST_ACK: Seconds = 2;

/// Seconds of silence after which an answered exchange is most likely over: a resolver asks again from another port.
pub const SPENT: Seconds = 30;

/// The same where there was one question and one answer.
const SPENT_SINGLE: Seconds = 5;

/// How long [`FlowState::Exchanged`] is kept: RFC 4787 REQ-5a allows less than two minutes for the protocols of well-known
/// ports.
const EXCHANGE: Seconds = 30;

const DNS: u16 = 53;

/// Whether one question was asked and answered.
#[inline]
const fn is_single(flow: &Flow, reply: &Reply) -> bool {
    flow.packets <= 1 && reply.packets == 1
}

/// Whether a UDP exchange is of DNS, or of another well-known port and a single one.
#[inline]
const fn is_short_lived(flow: &Flow, reply: &Reply) -> bool {
    reply.destination_port == DNS
        || flow.backend_port == DNS
        || reply.destination_port < NatPort::FIRST_USER && is_single(flow, reply)
}

/// Whether the ports of a flow may serve another one if they are needed: it was an exchange that is over most likely, or a
/// TCP connection whose backend keeps nothing of it any more. That is at once where the client has closed first, so that
/// TIME-WAIT is the client's, and else after its end.
#[must_use]
#[inline]
pub fn is_reusable(protocol: u8, flow: &Flow, reply: &Reply, now: Seconds) -> bool {
    let after = match FlowState::of(protocol, flow, reply) {
        FlowState::Tcp(State::Closing) if reply.tcp_seen() & Seen::CLOSED_BY_OTHER != 0 => LAST_ACK,
        FlowState::Tcp(state) if state.is_over() => TIME_WAIT,
        FlowState::Replied | FlowState::Exchanged if is_single(flow, reply) => SPENT_SINGLE,
        FlowState::Replied | FlowState::Exchanged => SPENT,
        FlowState::Tcp(_) | FlowState::Unreplied => return false,
    };
    idle(now, flow, reply) >= after
}

/// Whether the flow has expired or [`is_reusable`] is true, as far as the reply entry tells.
#[must_use]
#[inline]
pub const fn may_be_reusable(
    protocol: u8,
    reply: &Reply,
    now: Seconds,
    timeouts: &Timeouts,
) -> bool {
    const CLOSED: u8 = Seen::FIN | Seen::CLOSED_BY_OTHER;
    let after = if protocol != IpProto::Tcp as u8 {
        match reply.packets {
            0 => timeouts.udp_unreplied,
            1 => SPENT_SINGLE,
            _ => SPENT,
        }
    } else if reply.tcp_seen() & CLOSED == CLOSED {
        LAST_ACK
    } else if reply.tcp_seen() & (CLOSED | Seen::RST) != 0 {
        TIME_WAIT
    } else if reply.tcp_seen() & Seen::ACK == 0 {
        timeouts.tcp_transitory
    } else {
        return false;
    };
    since(now, reply.last_seen) >= after
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
            state: backend,
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
        }
    }

    #[test]
    fn what_the_client_has_closed_first_may_go_as_soon_as_the_last_ack_is_through() {
        const DONE: u8 = Seen::SYN | Seen::ACK | Seen::FIN;
        let (flow, reply) = connection(DONE, DONE | Seen::CLOSED_BY_OTHER);
        assert!(!is_reusable(TCP, &flow, &reply, 1));
        assert!(is_reusable(TCP, &flow, &reply, 2));
        let half = Seen::SYN | Seen::ACK | Seen::CLOSED_BY_OTHER;
        let (flow, reply) = connection(DONE, half);
        assert!(!is_reusable(TCP, &flow, &reply, 100));
    }

    #[test]
    fn an_answered_exchange_may_go_when_it_is_over_most_likely_and_an_open_question_never() {
        let once = Flow {
            packets: 1,
            ..Flow::default()
        };
        let often = Flow {
            packets: 2,
            ..Flow::default()
        };
        let answered = Reply {
            packets: 1,
            destination_port: 5_000,
            ..Reply::default()
        };
        for protocol in [UDP, ICMP] {
            for (flow, after) in [(once, 5), (often, 30)] {
                assert!(!is_reusable(protocol, &flow, &answered, after - 1));
                assert!(is_reusable(protocol, &flow, &answered, after));
            }
            assert!(!is_reusable(protocol, &once, &Reply::default(), 100));
        }
    }

    #[test]
    fn dns_and_single_exchanges_with_well_known_ports_are_short_lived() {
        let packets = |packets| Flow {
            packets,
            ..Flow::default()
        };
        let answered = |destination_port, packets| Reply {
            destination_port,
            packets,
            ..Reply::default()
        };
        let by_pod = Flow {
            backend_port: 53,
            ..packets(9)
        };
        for (flow, reply, seconds) in [
            (packets(1), answered(53, 1), 30),
            (packets(2), answered(53, 2), 30),
            (by_pod, answered(5_353, 7), 30),
            (packets(1), answered(123, 1), 30),
            (packets(2), answered(123, 2), 300),
            (packets(1), answered(5_000, 1), 300),
        ] {
            assert_eq!(expires_after(UDP, &flow, &reply), seconds, "{reply:?}");
        }
        let unanswered = expires_after(UDP, &packets(1), &answered(53, 0));
        assert_eq!(unanswered, 120);
        let ping = expires_after(ICMP, &packets(1), &answered(0, 1));
        assert_eq!(ping, 60);
    }

    #[test]
    fn udp_lives_longer_once_it_was_answered() {
        let answered = Reply {
            packets: 1,
            destination_port: 5_000,
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
            destination_port: 5_000,
            last_seen: 200,
            ..Reply::default()
        };
        assert_eq!(expires_after(UDP, &Flow::default(), &reply), 500);
    }
}
