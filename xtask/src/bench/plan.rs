//! What is measured: contestants, cells, and the visits that fill them.

use std::fmt;

use lab::Overlay;

/// How the node reaches pods on the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Network {
    /// By a route to the worker.
    HostGw,
    /// Through a kernel VXLAN device, as flannel makes it.
    Vxlan,
}

impl Network {
    /// Both.
    pub const ALL: [Self; 2] = [Self::HostGw, Self::Vxlan];

    /// The lab's name for it.
    pub const fn overlay(self) -> Overlay {
        match self {
            Self::HostGw => Overlay::HostGw,
            Self::Vxlan => Overlay::Vxlan,
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::HostGw => "host-gw",
            Self::Vxlan => "vxlan",
        })
    }
}

/// What forwards in the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Contestant {
    /// Nothing: packets are dropped by XDP at the uplink. What the generator can do.
    Ceiling,
    /// A redirect by XDP, nothing translated. What a forwarder can do.
    Redirect,
    /// The kernel's forwarding, nothing translated.
    Kernel,
    /// The recipe that office-bridge replaces; services by rules as kube-proxy writes them.
    Iptables,
    /// Masquerading by nftables.
    Nftables,
    /// office-bridge around netfilter.
    Stack,
    /// office-bridge at TC.
    Tc,
    /// office-bridge at XDP.
    Xdp,
}

impl Contestant {
    /// All of them, in the order of the tables.
    pub const ALL: [Self; 8] = [
        Self::Ceiling,
        Self::Redirect,
        Self::Kernel,
        Self::Iptables,
        Self::Nftables,
        Self::Stack,
        Self::Tc,
        Self::Xdp,
    ];

    /// As `--only` takes it, and as the JSON has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ceiling => "ceiling",
            Self::Redirect => "redirect",
            Self::Kernel => "kernel",
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
            Self::Stack => "stack",
            Self::Tc => "tc",
            Self::Xdp => "xdp",
        }
    }

    /// As the tables show it.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Ceiling => "generator alone (dropped at the uplink)",
            Self::Redirect => "bare XDP redirect, no NAT",
            Self::Kernel => "kernel forwarding, no NAT",
            Self::Iptables => "iptables MASQUERADE (+ kube-proxy's rules for services)",
            Self::Nftables => "nftables masquerade",
            Self::Stack => "office-bridge, stack path",
            Self::Tc => "office-bridge, TC path",
            Self::Xdp => "office-bridge, XDP path",
        }
    }

    /// The `--datapath` of a contestant that is office-bridge.
    pub const fn datapath(self) -> Option<&'static str> {
        match self {
            Self::Stack => Some("stack"),
            Self::Tc => Some("tc"),
            Self::Xdp => Some("xdp"),
            _ => None,
        }
    }

    /// Whether it translates sources.
    pub const fn translates(self) -> bool {
        !matches!(self, Self::Ceiling | Self::Redirect | Self::Kernel)
    }

    /// Whether it knows services.
    pub const fn has_services(self) -> bool {
        matches!(self, Self::Iptables | Self::Tc | Self::Xdp)
    }

    const fn runs_on(self, network: Network) -> bool {
        matches!(network, Network::HostGw) || !matches!(self, Self::Ceiling | Self::Redirect)
    }
}

impl fmt::Display for Contestant {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// What the clients address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// Pods.
    Pod,
    /// Services.
    Service,
}

/// Which way measured packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// From client to pod.
    Forward,
    /// From pod to client.
    Reply,
}

/// A packet whose cost in a program is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Packet {
    /// From a client, of a flow to a pod that is there.
    ToPod,
    /// From a client, of a flow to a service that is there.
    ToService,
    /// From a pod, of a flow that is there.
    FromPod,
    /// From a client to nowhere in the cluster.
    NotOurs,
    /// Any, in a program that passes it on at once.
    Baseline,
}

/// One figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cell {
    /// Packets delivered a second, of flows that are there.
    Rate {
        /// Which way.
        direction: Direction,
        /// Where to.
        target: Target,
        /// Of how many flows.
        flows: u32,
    },
    /// Packets delivered a second, each the first of its flow.
    NewFlows {
        /// Where to.
        target: Target,
        /// How many, from an empty table on.
        flows: u32,
    },
    /// Bits a second of one TCP connection.
    Bulk(Direction),
    /// Microseconds from a request to its response on an open TCP connection.
    Response,
    /// TCP connections opened and closed a second.
    Connects,
    /// Nanoseconds that a program takes for one packet.
    Program(Packet),
    /// Octets for one flow, both directions.
    FlowMemory,
}

impl Cell {
    /// Packets delivered a second.
    pub const fn rate(direction: Direction, target: Target, flows: u32) -> Self {
        Self::Rate {
            direction,
            target,
            flows,
        }
    }

    /// The unit of its figures.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Rate { .. } | Self::NewFlows { .. } => "packets/s",
            Self::Bulk(_) => "bit/s",
            Self::Response => "us",
            Self::Connects => "connections/s",
            Self::Program(_) => "ns",
            Self::FlowMemory => "octets",
        }
    }

    /// How many flows its packets are of.
    pub const fn flows(self) -> u32 {
        match self {
            Self::Rate { flows, .. } | Self::NewFlows { flows, .. } => flows,
            _ => 0,
        }
    }

    /// Whether it needs hosts with sockets at both ends, not sinks.
    pub const fn needs_sockets(self) -> bool {
        matches!(self, Self::Bulk(_) | Self::Response | Self::Connects)
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rate {
                direction,
                target,
                flows,
            } => write!(formatter, "rate/{direction:?}/{target:?}/{flows}"),
            Self::NewFlows { target, flows } => write!(formatter, "new-flows/{target:?}/{flows}"),
            Self::Bulk(direction) => write!(formatter, "bulk/{direction:?}"),
            Self::Response => formatter.write_str("response"),
            Self::Connects => formatter.write_str("connects"),
            Self::Program(packet) => write!(formatter, "program/{packet:?}"),
            Self::FlowMemory => formatter.write_str("flow-memory"),
        }
    }
}

/// A figure's place among all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// How pods are reached.
    pub network: Network,
    /// Who forwards.
    pub contestant: Contestant,
    /// How many services there are.
    pub services: u32,
    /// What was measured.
    pub cell: Cell,
}

impl Key {
    /// The place of a cell.
    pub const fn new(network: Network, contestant: Contestant, services: u32, cell: Cell) -> Self {
        Self {
            network,
            contestant,
            services,
            cell,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            network,
            contestant,
            services,
            cell,
        } = self;
        write!(
            formatter,
            "{network}/{contestant}/services={services}/{cell}"
        )
    }
}

/// One contestant set up once, and what is measured then, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visit {
    /// How pods are reached.
    pub network: Network,
    /// Who forwards.
    pub contestant: Contestant,
    /// How many services there are.
    pub services: u32,
    /// What to measure.
    pub cells: Vec<Cell>,
}

impl Visit {
    /// Room in a table of flows: office-bridge's default, or more where more than that are opened.
    pub fn flow_capacity(&self) -> u32 {
        const DEFAULT: u32 = 1 << 18;
        let opened: u32 = self.cells.iter().map(|cell| cell.flows()).sum();
        opened.next_power_of_two().max(DEFAULT)
    }
}

/// How much is measured.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Numbers of flows.
    pub flows: &'static [u32],
    /// Numbers of services.
    pub services: &'static [u32],
    /// New flows to pods in one go.
    pub new_flows: u32,
}

/// The usual number of flows.
pub const FLOWS: u32 = 1_000;
/// From here on flows are many.
const MANY_FLOWS: u32 = 1_000_000;
/// New flows to services in one go: one service with one backend has no more NAT ports than for these.
pub const NEW_SERVICE_FLOWS: u32 = 16_384;

impl Scope {
    /// All of it.
    pub const FULL: Self = Self {
        flows: &[1, FLOWS, 60_000, 1_000_000],
        services: &[1, 1_000, 10_000],
        new_flows: 1 << 18,
    };
    /// What fits three minutes.
    pub const QUICK: Self = Self {
        flows: &[1, FLOWS, 60_000],
        services: &[1, 1_000],
        new_flows: 1 << 16,
    };

    /// One round of visits, each with another name.
    pub fn visits(&self, contestants: &[Contestant]) -> Vec<Visit> {
        let mut visits = Vec::new();
        for network in Network::ALL {
            for &contestant in contestants.iter().filter(|one| one.runs_on(network)) {
                let mut visit = |services, cells: Vec<Cell>| {
                    if !cells.is_empty() {
                        visits.push(Visit {
                            network,
                            contestant,
                            services,
                            cells,
                        });
                    }
                };
                visit(0, self.pod_cells(contestant));
                visit(0, self.many_flows_cells(contestant));
                visit(0, socket_cells(contestant));
                if contestant.has_services() {
                    // The number of services does not depend on the network: one of them is enough.
                    let counts = if network == Network::Vxlan {
                        self.services
                    } else {
                        &self.services[..1]
                    };
                    for &services in counts {
                        visit(services, service_cells(contestant, services));
                    }
                }
            }
        }
        visits
    }

    fn pod_cells(&self, contestant: Contestant) -> Vec<Cell> {
        let rate = |direction, flows| Cell::rate(direction, Target::Pod, flows);
        if contestant == Contestant::Ceiling {
            return vec![rate(Direction::Forward, FLOWS)];
        }
        let flows = self.flows.iter().filter(|&&flows| flows < MANY_FLOWS);
        let mut cells: Vec<_> = flows
            .map(|&flows| rate(Direction::Forward, flows))
            .collect();
        cells.push(rate(Direction::Reply, FLOWS));
        cells
    }

    /// What needs larger tables than office-bridge has by default, in which everything else would cost more, too: in the
    /// first of them come new flows, while they are empty.
    fn many_flows_cells(&self, contestant: Contestant) -> Vec<Cell> {
        if contestant == Contestant::Ceiling {
            return Vec::new();
        }
        let new = Cell::NewFlows {
            target: Target::Pod,
            flows: self.new_flows,
        };
        let flows = self.flows.iter().filter(|&&flows| flows >= MANY_FLOWS);
        let known = flows.map(|&flows| Cell::rate(Direction::Forward, Target::Pod, flows));
        contestant
            .translates()
            .then_some(new)
            .into_iter()
            .chain(known)
            .collect()
    }
}

fn service_cells(contestant: Contestant, services: u32) -> Vec<Cell> {
    let target = Target::Service;
    let mut cells = vec![
        Cell::NewFlows {
            target,
            flows: NEW_SERVICE_FLOWS,
        },
        Cell::rate(Direction::Forward, target, FLOWS),
        Cell::rate(Direction::Reply, target, FLOWS),
    ];
    if contestant.datapath().is_some() && services == 1 {
        let packets = [
            Packet::Baseline,
            Packet::NotOurs,
            Packet::ToPod,
            Packet::ToService,
            Packet::FromPod,
        ];
        cells.extend(packets.map(Cell::Program));
    }
    if services == 1 {
        cells.push(Cell::FlowMemory);
    }
    cells
}

fn socket_cells(contestant: Contestant) -> Vec<Cell> {
    if matches!(contestant, Contestant::Ceiling | Contestant::Redirect) {
        return Vec::new();
    }
    vec![
        Cell::Response,
        Cell::Connects,
        Cell::Bulk(Direction::Forward),
        Cell::Bulk(Direction::Reply),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::bench::flows::tuple;
    use crate::bench::layout::{DISTINCT, kind};

    #[test]
    fn no_two_flows_to_pods_have_a_tuple_in_common_before_or_after_nat() {
        // Every 13th of five million: enough to meet each port and pod.
        let numbers = || (0..DISTINCT).step_by(13);
        let before: BTreeSet<_> = numbers()
            .map(|number| tuple(kind::TO_POD, number, 1, 1))
            .map(|tuple| (tuple.source, tuple.source_port, tuple.destination))
            .collect();
        let after: BTreeSet<_> = numbers()
            .map(|number| tuple(kind::FROM_POD, number, 1, 1))
            .map(|tuple| (tuple.source, tuple.destination_port))
            .collect();
        assert_eq!(
            (before.len(), after.len()),
            (numbers().count(), numbers().count())
        );
    }

    #[test]
    fn new_flows_to_services_have_each_a_nat_port_of_their_own() {
        for services in [1, 1_000, 10_000] {
            let after: BTreeSet<_> = (0..NEW_SERVICE_FLOWS)
                .map(|number| tuple(kind::FROM_BACKEND, number, services, 1))
                .map(|tuple| (tuple.source, tuple.source_port, tuple.destination_port))
                .collect();
            assert_eq!(
                after.len(),
                NEW_SERVICE_FLOWS as usize,
                "{services} services"
            );
        }
    }

    #[test]
    fn each_visit_of_a_round_has_a_name_of_its_own() {
        for scope in [Scope::FULL, Scope::QUICK] {
            let visits = scope.visits(&Contestant::ALL);
            let names: BTreeSet<_> = visits.iter().map(Visit::name).collect();
            assert_eq!(names.len(), visits.len(), "{names:?}");
        }
    }

    #[test]
    fn no_figure_is_taken_twice_in_a_round() {
        let visits = Scope::FULL.visits(&Contestant::ALL);
        let cells = visits.iter().flat_map(|visit| {
            let place = (visit.network, visit.contestant, visit.services);
            visit.cells.iter().map(move |cell| (place, *cell))
        });
        let count = cells.clone().count();
        assert_eq!(cells.collect::<BTreeSet<_>>().len(), count);
    }
}
