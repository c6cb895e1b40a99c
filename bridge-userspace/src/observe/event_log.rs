//! What happened lately that people should know of: networks that came and went, an API server that was away.

use std::collections::VecDeque;

use ipnet::Ipv4Net;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use tracing::warn;

use super::report::{CidrState, Event};

/// How many events are kept.
const KEPT: usize = 20;
/// How many networks one event names.
const NAMED: usize = 4;

/// The last events.
#[derive(Clone, Debug, Default)]
pub struct EventLog {
    events: VecDeque<Event>,
}

impl EventLog {
    /// Goes on where an earlier process has stopped.
    #[must_use]
    pub fn new(events: Vec<Event>) -> Self {
        Self {
            events: events.into(),
        }
    }

    /// Notes an event.
    pub fn note(&mut self, message: String) {
        self.events.push_back(Event {
            time: now(),
            message,
        });
        while self.events.len() > KEPT {
            self.events.pop_front();
        }
    }

    /// Notes and logs how the cluster's networks have changed.
    pub fn note_cidrs(&mut self, before: &[CidrState], after: &[CidrState]) {
        for message in cidr_changes(before, after) {
            warn!("{message}");
            self.note(message);
        }
    }

    /// The events, the newest last.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.events.iter().cloned().collect()
    }
}

/// This moment by RFC 3339, in UTC, to the second.
#[must_use]
pub fn now() -> String {
    format!("{:.0}", Timestamp::now())
}

/// The moment some seconds ago, in the same form.
#[must_use]
pub fn ago(seconds: u32) -> String {
    let then = Timestamp::now() - SignedDuration::from_secs(seconds.into());
    format!("{then:.0}")
}

/// How the cluster's networks have changed, and what that means for the office router.
///
/// A network that lies in another one of its kind needs no route of its own, so what a larger one takes in is not lost.
fn cidr_changes(before: &[CidrState], after: &[CidrState]) -> Vec<String> {
    let is_in = |cidrs: &[CidrState], one: &CidrState| cidrs.iter().any(|cidr| same(cidr, one));
    let gone = before
        .iter()
        .filter(|old| !is_in(after, old))
        .filter_map(|old| match largest_around(old, after) {
            // Told where the larger one is.
            Some(larger) if !is_in(before, larger) => None,
            Some(larger) => Some(format!(
                "{} CIDR {} is not named by {} any more, and still part of {}: the office router needs no route to it \
                 besides the larger one's",
                old.kind, old.cidr, old.source, larger.cidr
            )),
            None => Some(gone(old, &inside(old, after))),
        });
    let others = after
        .iter()
        .filter_map(|new| match before.iter().find(|old| same(old, new)) {
            None => appeared(new, before, after),
            Some(old) if old.source != new.source => Some(format!(
                "{} CIDR {} is now named by {}, no longer by {}",
                new.kind, new.cidr, new.source, old.source
            )),
            Some(_) => None,
        });
    gone.chain(others).collect()
}

/// What to say of a network that is gone, but for the parts of it that are left.
fn gone(old: &CidrState, left: &[&CidrState]) -> String {
    let CidrState { cidr, kind, source } = old;
    if left.is_empty() {
        return format!(
            "{kind} CIDR {cidr} is gone ({source} named it): the office router needs no route to it any more"
        );
    }
    let networks = left.iter().filter_map(|part| network(part)).collect();
    let is_split = network(old).is_some_and(|old| Ipv4Net::aggregate(&networks) == [old]);
    let parts = enumerate(left);
    if is_split {
        format!(
            "{kind} CIDR {cidr} has become {parts} ({source} named it): the office router's route to it still leads to \
             all of them"
        )
    } else {
        format!(
            "{kind} CIDR {cidr} has shrunk to {parts} ({source} named it), all else of it is gone: the office router's \
             route should shrink likewise"
        )
    }
}

/// What to say of a network that was not there before; nothing if that is said of a larger one.
fn appeared(new: &CidrState, before: &[CidrState], after: &[CidrState]) -> Option<String> {
    let CidrState { cidr, kind, source } = new;
    if let Some(larger) = largest_around(new, after) {
        return Some(format!(
            "{kind} CIDR {cidr} is new ({source} names it) and part of {}, whose route on the office router leads to it",
            larger.cidr
        ));
    }
    // What a larger one has shrunk to.
    if largest_around(new, before).is_some() {
        return None;
    }
    let parts = inside(new, before);
    Some(if parts.is_empty() {
        format!(
            "{kind} CIDR {cidr} is new ({source} names it): the office router needs a route to it"
        )
    } else {
        format!(
            "{kind} CIDR {cidr} is new ({source} names it) and contains {}: the office router's route should become one \
             to {cidr}",
            enumerate(&parts)
        )
    })
}

fn same(a: &CidrState, b: &CidrState) -> bool {
    a.cidr == b.cidr && a.kind == b.kind
}

/// The network, unless an earlier version has written something else.
fn network(state: &CidrState) -> Option<Ipv4Net> {
    state.cidr.parse().ok()
}

/// Whether `inner` is a smaller network within `outer`, and of its kind.
fn is_part(inner: &CidrState, outer: &CidrState) -> bool {
    let networks = network(inner).zip(network(outer));
    inner.kind == outer.kind
        && networks.is_some_and(|(inner, outer)| inner != outer && outer.contains(&inner))
}

/// The largest networks that are parts of this one.
fn inside<'a>(outer: &CidrState, cidrs: &'a [CidrState]) -> Vec<&'a CidrState> {
    let parts: Vec<_> = cidrs.iter().filter(|cidr| is_part(cidr, outer)).collect();
    let is_largest = |cidr: &&&CidrState| !parts.iter().any(|other| is_part(cidr, other));
    parts.iter().filter(is_largest).copied().collect()
}

/// The largest network that this one is a part of.
fn largest_around<'a>(inner: &CidrState, cidrs: &'a [CidrState]) -> Option<&'a CidrState> {
    let around = cidrs.iter().filter(|cidr| is_part(inner, cidr));
    around.min_by_key(|cidr| network(cidr).map(|network| network.prefix_len()))
}

/// The first few, and how many more there are: a cluster may have a network for each node.
fn enumerate(cidrs: &[&CidrState]) -> String {
    let named: Vec<&str> = cidrs
        .iter()
        .take(NAMED)
        .map(|cidr| cidr.cidr.as_str())
        .collect();
    let more = cidrs.len() - named.len();
    let named = named.join(", ");
    if more == 0 {
        named
    } else {
        format!("{named} and {more} more")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(cidr: &str, source: &str) -> CidrState {
        CidrState {
            cidr: cidr.to_owned(),
            kind: "service".to_owned(),
            source: source.to_owned(),
        }
    }

    #[test]
    fn networks_that_come_go_or_change_their_source_are_told() {
        let before = [
            cidr("10.96.0.0/12", "kubeadm-config"),
            cidr("10.1.0.0/16", "ServiceCIDR a"),
        ];
        let after = [
            cidr("10.96.0.0/12", "ServiceCIDR kubernetes"),
            cidr("10.2.0.0/16", "ServiceCIDR b"),
        ];
        assert_eq!(
            cidr_changes(&before, &after),
            [
                "service CIDR 10.1.0.0/16 is gone (ServiceCIDR a named it): the office router needs no \
                 route to it any more",
                "service CIDR 10.96.0.0/12 is now named by ServiceCIDR kubernetes, no longer by \
                 kubeadm-config",
                "service CIDR 10.2.0.0/16 is new (ServiceCIDR b names it): the office router needs a \
                 route to it",
            ]
        );
        assert!(cidr_changes(&before, &before).is_empty());
    }

    fn pods(cidrs: &[&str], source: &str) -> Vec<CidrState> {
        cidrs
            .iter()
            .map(|text| CidrState {
                kind: "pod".to_owned(),
                ..cidr(text, source)
            })
            .collect()
    }

    #[test]
    fn a_network_that_grows_takes_nothing_from_the_router() {
        let nodes = pods(&["10.244.0.0/24", "10.244.1.0/24"], "Node spec.podCIDRs");
        let whole = pods(&["10.244.0.0/16"], "kubeadm-config");
        assert_eq!(
            cidr_changes(&nodes, &whole),
            [
                "pod CIDR 10.244.0.0/16 is new (kubeadm-config names it) and contains 10.244.0.0/24, 10.244.1.0/24: the \
                 office router's route should become one to 10.244.0.0/16"
            ]
        );
        // The parts may stay where they were as well.
        let both = [whole.clone(), nodes.clone()].concat();
        assert_eq!(cidr_changes(&nodes, &both), cidr_changes(&nodes, &whole));
        assert_eq!(
            cidr_changes(&both, &whole),
            ["10.244.0.0/24", "10.244.1.0/24"].map(|part| format!(
                "pod CIDR {part} is not named by Node spec.podCIDRs any more, and still part of 10.244.0.0/16: the office \
                 router needs no route to it besides the larger one's"
            ))
        );
    }

    #[test]
    fn a_network_that_shrinks_says_what_is_left() {
        let whole = pods(&["10.244.0.0/16"], "kubeadm-config");
        let nodes = pods(&["10.244.0.0/24", "10.244.1.0/24"], "Node spec.podCIDRs");
        let shrunk = [
            "pod CIDR 10.244.0.0/16 has shrunk to 10.244.0.0/24, 10.244.1.0/24 (kubeadm-config named it), all else of it \
             is gone: the office router's route should shrink likewise",
        ];
        assert_eq!(cidr_changes(&whole, &nodes), shrunk);
        assert_eq!(
            cidr_changes(&[whole.clone(), nodes.clone()].concat(), &nodes),
            shrunk
        );
        let halves = pods(&["10.244.0.0/17", "10.244.128.0/17"], "kubeadm-config");
        assert_eq!(
            cidr_changes(&whole, &halves),
            [
                "pod CIDR 10.244.0.0/16 has become 10.244.0.0/17, 10.244.128.0/17 (kubeadm-config named it): the office \
                 router's route to it still leads to all of them"
            ]
        );
    }

    #[test]
    fn a_new_part_of_a_network_needs_no_route_of_its_own() {
        let whole = pods(&["10.244.0.0/16"], "kubeadm-config");
        let more = [whole.clone(), pods(&["10.244.7.0/24"], "Node worker-7")].concat();
        assert_eq!(
            cidr_changes(&whole, &more),
            [
                "pod CIDR 10.244.7.0/24 is new (Node worker-7 names it) and part of 10.244.0.0/16, whose route on the office \
                 router leads to it"
            ]
        );
        // Only networks of the same kind are compared.
        let services = [cidr("10.244.0.0/16", "kubeadm-config")];
        let part = pods(&["10.244.7.0/24"], "Node worker-7");
        let told = cidr_changes(&services, &part);
        assert!(
            told[0].contains("service CIDR 10.244.0.0/16 is gone"),
            "{told:?}"
        );
        assert!(told[1].contains("needs a route to it"), "{told:?}");
    }

    #[test]
    fn many_parts_are_counted_and_what_is_no_network_is_compared_as_text() {
        let nodes: Vec<String> = (0..9).map(|node| format!("10.244.{node}.0/24")).collect();
        let nodes: Vec<&str> = nodes.iter().map(String::as_str).collect();
        let whole = pods(&["10.244.0.0/16"], "kubeadm-config");
        let told = cidr_changes(&pods(&nodes, "nodes"), &whole);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("10.244.3.0/24 and 5 more:"), "{told:?}");
        let told = cidr_changes(&pods(&["all"], "somebody"), &whole);
        assert!(told[0].contains("pod CIDR all is gone"), "{told:?}");
    }

    #[test]
    fn the_last_events_are_kept_over_a_restart() {
        let mut log = EventLog::default();
        for number in 0..15 {
            log.note(format!("event {number}"));
        }
        let mut log = EventLog::new(log.events());
        for number in 15..30 {
            log.note(format!("event {number}"));
        }
        let events = log.events();
        assert_eq!(events.len(), 20);
        assert_eq!(events[0].message, "event 10");
        assert_eq!(events[19].message, "event 29");
        // 2026-01-31T12:34:56Z
        assert_eq!(events[19].time.len(), 20, "{}", events[19].time);
    }
}
