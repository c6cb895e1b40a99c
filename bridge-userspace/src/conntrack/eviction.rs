//! Which flows go first where there is no room for all.

use std::collections::HashMap;

use bridge_common::abi::{Flow, FlowKey, Ipv4, Layer, ReplyKey, Seconds};
use bridge_common::conntrack::lifetime::{FlowState, SPENT, is_accepted};
use bridge_common::conntrack::tcp_state::{Seen, State};
use bridge_common::packet::parse::TCP;

/// What a flow is worth, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Value {
    /// A TCP connection whose handshake is not finished.
    HalfOpen,
    /// A TCP connection that has ended.
    Over,
    /// An exchange without a connection, answered and silent.
    Spent,
    /// One that nobody has answered.
    Unreplied,
    /// One that is in use.
    InUse,
    /// A TCP session, however long it has been silent.
    Established,
}

impl Value {
    pub(super) fn of(state: FlowState, idle: Seconds) -> Self {
        match state {
            FlowState::Tcp(State::Opening) => Self::HalfOpen,
            FlowState::Tcp(State::Closing | State::Reset) => Self::Over,
            FlowState::Tcp(State::Established) => Self::Established,
            FlowState::Unreplied => Self::Unreplied,
            FlowState::Replied | FlowState::Exchanged if idle >= SPENT => Self::Spent,
            FlowState::Replied | FlowState::Exchanged => Self::InUse,
        }
    }

    /// Of a flow that is not translated, of which only the office's side is seen.
    pub(super) fn of_untranslated(key: &FlowKey, flow: &Flow, idle: Seconds) -> Self {
        if key.protocol != TCP {
            Self::of(FlowState::Replied, idle)
        } else if flow.tcp_seen & (Seen::FIN | Seen::RST) != 0 {
            Self::Over
        } else if !is_accepted(flow) {
            Self::HalfOpen
        } else if flow.layer == Layer::Passed as u8 {
            // Nobody has seen the pod's side, so anybody in the office can have made it up. The next segment brings it back.
            Self::InUse
        } else {
            Self::Established
        }
    }
}

/// A flow that may have to go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) value: Value,
    pub(super) idle: Seconds,
    pub(super) key: FlowKey,
    pub(super) reply_key: Option<ReplyKey>,
}

/// Chooses `count` of the candidates: sessions last, of all others the heaviest clients', of these the least valuable, of
/// these the longest idle.
pub(super) fn choose(mut candidates: Vec<Candidate>, count: usize) -> Vec<Candidate> {
    candidates.sort_unstable_by(|a, b| a.value.cmp(&b.value).then(b.idle.cmp(&a.idle)));
    candidates.reverse();
    // How many flows the client has that are worth no less: to remove the largest first takes the cheapest from the
    // heaviest clients until they have no more than the others.
    let mut held: HashMap<(bool, Ipv4), u32> = HashMap::new();
    let mut ranked: Vec<(bool, u32, Candidate)> = candidates
        .into_iter()
        .map(|candidate| {
            let is_session = candidate.value == Value::Established;
            let rank = held.entry((is_session, candidate.key.client)).or_default();
            *rank += 1;
            (is_session, *rank, candidate)
        })
        .collect();
    ranked.sort_by(|a, b| {
        a.0.cmp(&b.0)
            .then(b.1.cmp(&a.1))
            .then(a.2.value.cmp(&b.2.value))
            .then(b.2.idle.cmp(&a.2.idle))
    });
    ranked.truncate(count);
    ranked
        .into_iter()
        .map(|(_, _, candidate)| candidate)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(client: u8, value: Value, idle: Seconds) -> Candidate {
        Candidate {
            value,
            idle,
            key: FlowKey {
                client: [192, 168, 0, client],
                ..FlowKey::default()
            },
            reply_key: None,
        }
    }

    fn chosen(candidates: Vec<Candidate>, count: usize) -> Vec<(u8, Value, Seconds)> {
        choose(candidates, count)
            .into_iter()
            .map(|candidate| (candidate.key.client[3], candidate.value, candidate.idle))
            .collect()
    }

    #[test]
    fn the_least_valuable_go_first_however_long_a_session_is_idle() {
        let order = [
            Value::HalfOpen,
            Value::Over,
            Value::Spent,
            Value::Unreplied,
            Value::InUse,
            Value::Established,
        ];
        let candidates = order
            .iter()
            .rev()
            .zip(0..)
            .map(|(&value, age)| candidate(1, value, 80_000 - age))
            .collect();
        let values: Vec<Value> = chosen(candidates, 6)
            .iter()
            .map(|chosen| chosen.1)
            .collect();
        assert_eq!(values, order);
    }

    #[test]
    fn the_heaviest_client_loses_first_and_its_longest_idle() {
        let mut candidates = vec![candidate(2, Value::Spent, 90)];
        candidates.extend((40..44).map(|idle| candidate(1, Value::Spent, idle)));
        assert_eq!(
            chosen(candidates, 4),
            [
                (1, Value::Spent, 43),
                (1, Value::Spent, 42),
                (1, Value::Spent, 41),
                (2, Value::Spent, 90),
            ]
        );
    }

    #[test]
    fn what_another_is_about_to_open_goes_after_the_heaviest_clients_newest() {
        let mut candidates = vec![candidate(2, Value::HalfOpen, 0)];
        candidates.extend((0..4).map(|idle| candidate(1, Value::InUse, idle)));
        candidates.extend((0..9).map(|idle| candidate(3, Value::Established, idle)));
        let clients: Vec<u8> = chosen(candidates, 3)
            .iter()
            .map(|chosen| chosen.0)
            .collect();
        assert_eq!(clients, [1, 1, 1]);
    }

    #[test]
    fn an_answered_exchange_is_spent_after_a_while_and_a_session_never() {
        let value = |state, idle| Value::of(state, idle);
        assert_eq!(value(FlowState::Replied, SPENT - 1), Value::InUse);
        assert_eq!(value(FlowState::Replied, SPENT), Value::Spent);
        let session = FlowState::Tcp(State::Established);
        assert_eq!(value(session, 80_000), Value::Established);
    }
}
