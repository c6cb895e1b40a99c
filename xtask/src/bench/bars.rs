//! What office-bridge has to reach, as ratios within one run.

use super::plan::NEW_SERVICE_FLOWS;
use super::plan::{Cell, Contestant, Direction, FLOWS, Key, Network, Packet, Scope, Target};
use super::results::Results;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// At least.
    AtLeast(f64),
    /// At most.
    AtMost(f64),
    /// Nothing: it is shown for comparison.
    Shown,
}

/// How a figure is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// As a multiple.
    Times,
    /// As per cent.
    Percent,
    /// As nanoseconds.
    Nanoseconds,
    /// As octets.
    Octets,
}

/// One bar.
#[derive(Clone, Debug)]
pub struct Bar {
    /// What it is about.
    pub what: String,
    /// How high or low it is.
    pub goal: Goal,
    /// What was reached, if it was measured.
    pub reached: Option<f64>,
    /// How both are written.
    pub style: Style,
}

impl Bar {
    /// Whether it is held; none if nothing was measured or asked for.
    pub fn is_held(&self) -> Option<bool> {
        match self.goal {
            Goal::AtLeast(least) => Some(self.reached? >= least),
            Goal::AtMost(most) => Some(self.reached? <= most),
            Goal::Shown => None,
        }
    }

    /// The figure as text.
    pub fn write(&self, value: f64) -> String {
        match self.style {
            Style::Times => format!("{value:.2} x"),
            Style::Percent => format!("{:.0} %", value * 100.0),
            Style::Nanoseconds => format!("{value:.0} ns"),
            Style::Octets => format!("{value:.0} octets"),
        }
    }
}

const TO_PODS: Cell = Cell::rate(Direction::Forward, Target::Pod, FLOWS);
const TO_SERVICES: Cell = Cell::rate(Direction::Forward, Target::Service, FLOWS);
const NEW_TO_SERVICES: Cell = Cell::NewFlows {
    target: Target::Service,
    flows: NEW_SERVICE_FLOWS,
};

struct Judge<'a> {
    results: &'a Results,
    bars: Vec<Bar>,
}

/// All bars, with what these results reach.
pub fn judge(results: &Results, scope: &Scope) -> Vec<Bar> {
    let mut judge = Judge {
        results,
        bars: Vec::new(),
    };
    judge.packet_rates();
    judge.flows(scope);
    judge.services(scope);
    judge.new_flows(scope);
    judge.bulk();
    judge.programs();
    judge.memory();
    judge.bars
}

impl Judge<'_> {
    fn ratio(&mut self, what: String, style: Style, goal: Goal, of: Key, to: Key) {
        let reached = self
            .results
            .median(of)
            .zip(self.results.median(to))
            .map(|(of, to)| of / to);
        self.bars.push(Bar {
            what,
            goal,
            reached,
            style,
        });
    }

    fn packet_rates(&mut self) {
        use Contestant::{Iptables, Redirect, Tc, Xdp};
        use Network::{HostGw, Vxlan};
        let xdp = Key::new(HostGw, Xdp, 0, TO_PODS);
        self.ratio(
            "XDP path, host-gw, 1,000 flows, of the bare XDP redirect".into(),
            Style::Percent,
            Goal::AtLeast(0.80),
            xdp,
            Key::new(HostGw, Redirect, 0, TO_PODS),
        );
        self.ratio(
            "XDP path, host-gw, 1,000 flows, against iptables MASQUERADE".into(),
            Style::Times,
            Goal::AtLeast(3.3),
            xdp,
            Key::new(HostGw, Iptables, 0, TO_PODS),
        );
        for (contestant, name, least) in [(Xdp, "XDP", 6.0), (Tc, "TC", 1.4)] {
            for (target, services, cell) in [("pods", 0, TO_PODS), ("services", 1, TO_SERVICES)] {
                self.ratio(
                    format!("{name} path, VXLAN, to {target}, against the iptables path"),
                    Style::Times,
                    Goal::AtLeast(least),
                    Key::new(Vxlan, contestant, services, cell),
                    Key::new(Vxlan, Iptables, services, cell),
                );
            }
        }
    }

    fn flows(&mut self, scope: &Scope) {
        for contestant in [Contestant::Xdp, Contestant::Tc] {
            for (flows, least) in [(60_000, 0.75), (1_000_000, 0.55)] {
                if !scope.flows.contains(&flows) {
                    continue;
                }
                for network in Network::ALL {
                    let cell = |flows| Cell::rate(Direction::Forward, Target::Pod, flows);
                    self.ratio(
                        format!("{contestant}, {network}: {flows} flows against 1 flow"),
                        Style::Percent,
                        Goal::AtLeast(least),
                        Key::new(network, contestant, 0, cell(flows)),
                        Key::new(network, contestant, 0, cell(1)),
                    );
                }
            }
        }
    }

    fn services(&mut self, scope: &Scope) {
        let (Some(&few), Some(&many)) = (scope.services.first(), scope.services.last()) else {
            return;
        };
        for contestant in [Contestant::Xdp, Contestant::Tc, Contestant::Iptables] {
            for (what, cell) in [("flows", TO_SERVICES), ("new flows", NEW_TO_SERVICES)] {
                let goal = if contestant == Contestant::Iptables {
                    Goal::Shown
                } else {
                    Goal::AtLeast(0.95)
                };
                self.ratio(
                    format!("{contestant}, VXLAN, {what}: {many} services against {few}"),
                    Style::Percent,
                    goal,
                    Key::new(Network::Vxlan, contestant, many, cell),
                    Key::new(Network::Vxlan, contestant, few, cell),
                );
            }
        }
    }

    fn new_flows(&mut self, scope: &Scope) {
        let cell = Cell::NewFlows {
            target: Target::Pod,
            flows: scope.new_flows,
        };
        for (contestant, goal) in [
            (Contestant::Xdp, Goal::AtLeast(3.0)),
            (Contestant::Tc, Goal::Shown),
        ] {
            for network in Network::ALL {
                self.ratio(
                    format!("{contestant}, {network}: new flows/s against iptables MASQUERADE"),
                    Style::Times,
                    goal,
                    Key::new(network, contestant, 0, cell),
                    Key::new(network, Contestant::Iptables, 0, cell),
                );
            }
        }
    }

    fn bulk(&mut self) {
        for (contestant, goal) in [
            (Contestant::Tc, Goal::AtLeast(0.97)),
            (Contestant::Xdp, Goal::Shown),
        ] {
            for network in Network::ALL {
                for (way, direction) in [("to", Direction::Forward), ("from", Direction::Reply)] {
                    let cell = Cell::Bulk(direction);
                    self.ratio(
                        format!(
                            "{contestant}, {network}: bulk TCP {way} a pod, of kernel forwarding"
                        ),
                        Style::Percent,
                        goal,
                        Key::new(network, contestant, 0, cell),
                        Key::new(network, Contestant::Kernel, 0, cell),
                    );
                }
            }
        }
    }

    fn programs(&mut self) {
        for (contestant, goal) in [
            (Contestant::Xdp, Goal::AtMost(25.0)),
            (Contestant::Tc, Goal::Shown),
        ] {
            for network in Network::ALL {
                let at = |packet| {
                    let cell = Cell::Program(packet);
                    self.results.median(Key::new(network, contestant, 1, cell))
                };
                let reached = at(Packet::NotOurs)
                    .zip(at(Packet::Baseline))
                    .map(|(cost, baseline)| cost - baseline);
                self.bars.push(Bar {
                    what: format!(
                        "{contestant}, {network}: a packet that is not ours, over a program that passes all"
                    ),
                    goal,
                    reached,
                    style: Style::Nanoseconds,
                });
            }
        }
    }

    fn memory(&mut self) {
        let at = |contestant| {
            let memory = |network| {
                self.results
                    .median(Key::new(network, contestant, 1, Cell::FlowMemory))
            };
            Network::ALL.into_iter().find_map(memory)
        };
        let ours = at(Contestant::Xdp).or_else(|| at(Contestant::Tc));
        let netfilter = at(Contestant::Iptables);
        let bar = |what: &str, goal, reached| Bar {
            what: what.into(),
            goal,
            reached,
            style: Style::Octets,
        };
        self.bars.push(bar(
            "memory of a flow, both directions",
            Goal::AtMost(220.0),
            ours,
        ));
        self.bars.push(bar(
            "nf_conntrack's, without its extensions for NAT",
            Goal::Shown,
            netfilter,
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(xdp: f64) -> Results {
        let mut results = Results::default();
        let place = |contestant| Key::new(Network::HostGw, contestant, 0, TO_PODS);
        results.add(place(Contestant::Redirect), 2e6);
        results.add(place(Contestant::Xdp), xdp);
        results
    }

    fn first(results: &Results) -> Bar {
        judge(results, &Scope::FULL).swap_remove(0)
    }

    #[test]
    fn a_bar_is_held_from_its_goal_on() {
        assert_eq!(first(&results(1.6e6)).is_held(), Some(true));
        assert_eq!(first(&results(1.5e6)).is_held(), Some(false));
    }

    #[test]
    fn what_was_not_measured_holds_nothing_and_misses_nothing() {
        let nothing = Results::default();
        let bars = judge(&nothing, &Scope::FULL);
        assert!(bars.iter().all(|bar| bar.is_held().is_none()));
    }
}
