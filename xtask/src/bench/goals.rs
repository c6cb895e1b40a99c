//! The goals of office-bridge, as ratios of figures of one run.

use super::plan::NEW_SERVICE_FLOWS;
use super::plan::{Cell, Contestant, Direction, FLOWS, Key, Network, Packet, Scope, Target};
use super::results::Results;

/// The range that a figure has to be in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    AtLeast(f64),
    AtMost(f64),
    /// No range: the figure is shown for comparison.
    Shown,
}

/// The unit that a figure is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A multiple: `1.25 ×`.
    Times,
    Percent,
    Nanoseconds,
    Octets,
}

#[derive(Clone, Debug)]
pub struct Goal {
    /// The figures that are compared.
    pub what: String,
    pub bound: Bound,
    /// The measured figure, if there is one.
    pub reached: Option<f64>,
    /// The unit of bound and figure.
    pub style: Style,
}

impl Goal {
    /// `None` if nothing was measured, or without a bound.
    pub fn is_met(&self) -> Option<bool> {
        match self.bound {
            Bound::AtLeast(least) => Some(self.reached? >= least),
            Bound::AtMost(most) => Some(self.reached? <= most),
            Bound::Shown => None,
        }
    }

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
    goals: Vec<Goal>,
}

/// All goals, compared with these results.
pub fn judge(results: &Results, scope: &Scope) -> Vec<Goal> {
    let mut judge = Judge {
        results,
        goals: Vec::new(),
    };
    judge.packet_rates();
    judge.flows(scope);
    judge.services(scope);
    judge.new_flows(scope);
    judge.bulk();
    judge.programs();
    judge.memory();
    judge.goals
}

impl Judge<'_> {
    fn ratio(&mut self, what: String, style: Style, bound: Bound, of: Key, to: Key) {
        let reached = self
            .results
            .median(of)
            .zip(self.results.median(to))
            .map(|(of, to)| of / to);
        self.goals.push(Goal {
            what,
            bound,
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
            Bound::AtLeast(0.80),
            xdp,
            Key::new(HostGw, Redirect, 0, TO_PODS),
        );
        self.ratio(
            "XDP path, host-gw, 1,000 flows, against iptables MASQUERADE".into(),
            Style::Times,
            Bound::AtLeast(3.3),
            xdp,
            Key::new(HostGw, Iptables, 0, TO_PODS),
        );
        for (contestant, name, least) in [(Xdp, "XDP", 6.0), (Tc, "TC", 1.4)] {
            for (target, services, cell) in [("pods", 0, TO_PODS), ("services", 1, TO_SERVICES)] {
                self.ratio(
                    format!("{name} path, VXLAN, to {target}, against the iptables path"),
                    Style::Times,
                    Bound::AtLeast(least),
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
                        Bound::AtLeast(least),
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
                let bound = if contestant == Contestant::Iptables {
                    Bound::Shown
                } else {
                    Bound::AtLeast(0.95)
                };
                self.ratio(
                    format!("{contestant}, VXLAN, {what}: {many} services against {few}"),
                    Style::Percent,
                    bound,
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
        for (contestant, bound) in [
            (Contestant::Xdp, Bound::AtLeast(3.0)),
            (Contestant::Tc, Bound::Shown),
        ] {
            for network in Network::ALL {
                self.ratio(
                    format!("{contestant}, {network}: new flows/s against iptables MASQUERADE"),
                    Style::Times,
                    bound,
                    Key::new(network, contestant, 0, cell),
                    Key::new(network, Contestant::Iptables, 0, cell),
                );
            }
        }
    }

    fn bulk(&mut self) {
        for (contestant, bound) in [
            (Contestant::Tc, Bound::AtLeast(0.97)),
            (Contestant::Xdp, Bound::Shown),
        ] {
            for network in Network::ALL {
                for (way, direction) in [("to", Direction::Forward), ("from", Direction::Reply)] {
                    let cell = Cell::Bulk(direction);
                    self.ratio(
                        format!(
                            "{contestant}, {network}: bulk TCP {way} a pod, of kernel forwarding"
                        ),
                        Style::Percent,
                        bound,
                        Key::new(network, contestant, 0, cell),
                        Key::new(network, Contestant::Kernel, 0, cell),
                    );
                }
            }
        }
    }

    fn programs(&mut self) {
        for (contestant, bound) in [
            (Contestant::Xdp, Bound::AtMost(25.0)),
            (Contestant::Tc, Bound::Shown),
        ] {
            for network in Network::ALL {
                let at = |packet| {
                    let cell = Cell::Program(packet);
                    self.results.median(Key::new(network, contestant, 1, cell))
                };
                let reached = at(Packet::NotOurs)
                    .zip(at(Packet::Baseline))
                    .map(|(cost, baseline)| cost - baseline);
                self.goals.push(Goal {
                    what: format!(
                        "{contestant}, {network}: a packet that is not ours, over a program that passes all"
                    ),
                    bound,
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
        let goal = |what: &str, bound, reached| Goal {
            what: what.into(),
            bound,
            reached,
            style: Style::Octets,
        };
        self.goals.push(goal(
            "memory of a flow, both directions",
            Bound::AtMost(220.0),
            ours,
        ));
        self.goals.push(goal(
            "nf_conntrack's, without its extensions for NAT",
            Bound::Shown,
            netfilter,
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_met_at_its_bound() {
        assert_eq!(first(&results(1.6e6)).is_met(), Some(true));
        assert_eq!(first(&results(1.5e6)).is_met(), Some(false));
    }

    #[test]
    fn what_was_not_measured_holds_nothing_and_misses_nothing() {
        let nothing = Results::default();
        let goals = judge(&nothing, &Scope::FULL);
        assert!(goals.iter().all(|goal| goal.is_met().is_none()));
    }

    fn results(xdp: f64) -> Results {
        let mut results = Results::default();
        let place = |contestant| Key::new(Network::HostGw, contestant, 0, TO_PODS);
        results.add(place(Contestant::Redirect), 2e6);
        results.add(place(Contestant::Xdp), xdp);
        results
    }

    fn first(results: &Results) -> Goal {
        judge(results, &Scope::FULL).swap_remove(0)
    }
}
