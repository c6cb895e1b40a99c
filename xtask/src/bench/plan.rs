//! What is measured: contestants, cells, and the sessions in which the cells are measured.

use std::fmt;

use lab::Overlay;

/// The network between node and worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Network {
    /// Routes.
    HostGw,
    /// A VXLAN device of the kernel, as flannel makes it.
    Vxlan,
}

impl Network {
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

/// What forwards packets in the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Contestant {
    /// Nothing: XDP drops the packets at the uplink. This is the generator's limit.
    Ceiling,
    /// An XDP redirect without translation. This is the limit of any forwarder.
    Redirect,
    /// The kernel, without translation.
    Kernel,
    /// The iptables rules that office-bridge replaces, and for services the rules of kube-proxy.
    Iptables,
    /// Masquerading with nftables.
    Nftables,
    /// office-bridge with `--datapath stack`.
    Stack,
    /// office-bridge with `--datapath tc`.
    Tc,
    /// office-bridge with `--datapath xdp`.
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

    /// The name for `--only` and in the JSON.
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

    /// The name in the tables of the report.
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

    /// Whether it translates source addresses.
    pub const fn translates(self) -> bool {
        !matches!(self, Self::Ceiling | Self::Redirect | Self::Kernel)
    }

    /// Whether it translates services to backends.
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

/// The destinations of the clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    Pod,
    Service,
}

/// The direction of the measured packets.
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
    /// From a client, of an open flow to a pod.
    ToPod,
    /// From a client, of an open flow to a service.
    ToService,
    /// From a pod, of an open flow.
    FromPod,
    /// From a client to an address outside of the cluster.
    NotOurs,
    /// Any packet, in a program that returns at once.
    Baseline,
}

/// A kind of figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cell {
    /// Packets delivered a second, of open flows.
    Rate {
        direction: Direction,
        target: Target,
        /// Number of flows.
        flows: u32,
    },
    /// Packets delivered a second, each the first of its flow.
    NewFlows {
        target: Target,
        /// Number of flows that are opened, beginning with an empty table.
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
    /// Octets of memory for one flow, both directions.
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

    /// Number of flows that its packets belong to.
    pub const fn flows(self) -> u32 {
        match self {
            Self::Rate { flows, .. } | Self::NewFlows { flows, .. } => flows,
            _ => 0,
        }
    }

    /// Whether it is measured with sockets at both ends, not with sinks.
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

/// What a figure is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub network: Network,
    pub contestant: Contestant,
    pub services: u32,
    pub cell: Cell,
}

impl Key {
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

/// One contestant that is set up once, and the cells that are measured then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    pub network: Network,
    pub contestant: Contestant,
    pub services: u32,
    /// In the order of measurement.
    pub cells: Vec<Cell>,
}

impl Session {
    /// Capacity of the table of flows: the default of office-bridge, or more if more flows are opened.
    pub fn flow_capacity(&self) -> u32 {
        const DEFAULT: u32 = 1 << 18;
        let opened: u32 = self.cells.iter().map(|cell| cell.flows()).sum();
        opened.next_power_of_two().max(DEFAULT)
    }
}

/// What a run measures.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Numbers of flows that packet rates are measured with.
    pub flows: &'static [u32],
    /// Numbers of services that packet rates are measured with.
    pub services: &'static [u32],
    /// Number of new flows to pods in one measurement.
    pub new_flows: u32,
}

/// The usual number of flows.
pub const FLOWS: u32 = 1_000;
/// From this number of flows on a cell needs larger tables.
const MANY_FLOWS: u32 = 1_000_000;
/// Number of new flows to services in one measurement: a service with one backend has not more NAT ports.
pub const NEW_SERVICE_FLOWS: u32 = 16_384;

impl Scope {
    /// Everything.
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

    /// The sessions of one round.
    pub fn sessions(&self, contestants: &[Contestant]) -> Vec<Session> {
        let mut sessions = Vec::new();
        for network in Network::ALL {
            for &contestant in contestants.iter().filter(|one| one.runs_on(network)) {
                let mut session = |services, cells: Vec<Cell>| {
                    if !cells.is_empty() {
                        sessions.push(Session {
                            network,
                            contestant,
                            services,
                            cells,
                        });
                    }
                };
                session(0, self.pod_cells(contestant));
                session(0, self.many_flows_cells(contestant));
                session(0, socket_cells(contestant));
                if contestant.has_services() {
                    // Services cost the same on both networks: one of them is enough.
                    let counts = if network == Network::Vxlan {
                        self.services
                    } else {
                        &self.services[..1]
                    };
                    for &services in counts {
                        session(services, service_cells(contestant, services));
                    }
                }
            }
        }
        sessions
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

    /// Cells that need larger tables than the default of office-bridge. They have a session of their own, as larger tables
    /// make every lookup slower. New flows come first, while the tables are empty.
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
        // Every 13th of five million flows has each port and each pod.
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
            let sessions = scope.sessions(&Contestant::ALL);
            let names: BTreeSet<_> = sessions.iter().map(Session::name).collect();
            assert_eq!(names.len(), sessions.len(), "{names:?}");
        }
    }

    #[test]
    fn no_figure_is_taken_twice_in_a_round() {
        let sessions = Scope::FULL.sessions(&Contestant::ALL);
        let cells = sessions.iter().flat_map(|session| {
            let place = (session.network, session.contestant, session.services);
            session.cells.iter().map(move |cell| (place, *cell))
        });
        let count = cells.clone().count();
        assert_eq!(cells.collect::<BTreeSet<_>>().len(), count);
    }
}
