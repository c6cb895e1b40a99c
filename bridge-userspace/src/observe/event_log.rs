//! What happened lately that people should know of: networks that came and went, an API server that was away.

use std::collections::VecDeque;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use tracing::warn;

use super::report::{CidrState, Event};

/// How many events are kept.
const KEPT: usize = 20;

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

fn cidr_changes(before: &[CidrState], after: &[CidrState]) -> Vec<String> {
    let same = |a: &CidrState, b: &CidrState| a.cidr == b.cidr && a.kind == b.kind;
    let gone = before
        .iter()
        .filter(|old| !after.iter().any(|new| same(old, new)))
        .map(|old| {
            format!(
                "{} CIDR {} is gone ({} named it): the office router needs no route to it any more",
                old.kind, old.cidr, old.source
            )
        });
    let others = after
        .iter()
        .filter_map(|new| match before.iter().find(|old| same(old, new)) {
            None => Some(format!(
                "{} CIDR {} is new ({} names it): the office router needs a route to it",
                new.kind, new.cidr, new.source
            )),
            Some(old) if old.source != new.source => Some(format!(
                "{} CIDR {} is now named by {}, no longer by {}",
                new.kind, new.cidr, new.source, old.source
            )),
            Some(_) => None,
        });
    gone.chain(others).collect()
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
