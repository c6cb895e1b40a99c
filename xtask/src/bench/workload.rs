//! The packets that are sent in a topology, and those that have to arrive.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, bail};
use lab::cluster::ClusterNode;
use lab::plan::{VXLAN_PORT, VXLAN_VNI};

use super::layout::{ENCAPSULATION, Expectation, FRAME, Pattern, kind};
use super::plan::{Direction, Network, Target};
use super::topology::{CLUSTER, OFFICE, Topology, UPLINK, WORKER};
use super::traffic::words;

#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// What the generator sends.
    pub pattern: Pattern,
    /// What the sink at the other end has to receive.
    pub expectation: Expectation,
}

/// What workloads depend on.
pub struct Setup<'a> {
    pub topology: &'a Topology,
    /// Node-30 and the worker, in this order.
    pub nodes: &'a [ClusterNode],
    pub services: u32,
    /// Whether the forwarder translates addresses.
    pub translates: bool,
}

impl Setup<'_> {
    /// The address that clients are translated to: the preferred source address of the route to the pods.
    pub fn nat(&self) -> Ipv4Addr {
        match self.topology.network {
            Network::HostGw => self.nodes[0].underlay,
            Network::Vxlan => self.nodes[0].network(),
        }
    }

    /// The workload of the flows `first..first + flows`.
    pub fn workload(
        &self,
        direction: Direction,
        target: Target,
        first: u32,
        flows: u32,
    ) -> Result<Workload> {
        let tunnelled = self.topology.network == Network::Vxlan;
        let kind = match (direction, target) {
            (Direction::Forward, Target::Pod) => kind::TO_POD,
            (Direction::Forward, Target::Service) => kind::TO_SERVICE,
            (Direction::Reply, Target::Pod) => kind::FROM_POD,
            (Direction::Reply, Target::Service) => kind::FROM_BACKEND,
        };
        let (namespace, from, to) = match direction {
            Direction::Forward => (&self.topology.office, OFFICE, UPLINK),
            Direction::Reply => (&self.topology.worker, WORKER, CLUSTER),
        };
        let encapsulated = tunnelled && direction == Direction::Reply;
        let [node, worker] = self.nodes else {
            bail!("the bench has one node and one worker");
        };
        let (ethernet, outer) = if encapsulated {
            (
                header(mac(&node.vtep_mac())?, mac(&worker.vtep_mac())?),
                encapsulation(worker.underlay, node.underlay),
            )
        } else {
            (header(to.mac, from.mac), [0; ENCAPSULATION / 2])
        };
        let pattern = Pattern {
            ifindex: Topology::index(namespace, from)?,
            kind,
            first,
            flows,
            services: self.services.max(1),
            encapsulated: encapsulated.into(),
            nat: if self.translates {
                self.nat().to_bits()
            } else {
                0
            },
            ethernet,
            outer,
        };
        Ok(Workload {
            pattern,
            expectation: self.expectation(direction, target),
        })
    }

    fn expectation(&self, direction: Direction, target: Target) -> Expectation {
        const ALL: u32 = u32::MAX;
        let office = (Ipv4Addr::new(192, 168, 0, 0).to_bits(), ALL << 10);
        let pods = (Ipv4Addr::new(10, 244, 1, 0).to_bits(), ALL << 8);
        let services = (Ipv4Addr::new(10, 100, 0, 0).to_bits(), ALL << 16);
        let (source, destination) = match (direction, target) {
            (Direction::Forward, _) if self.translates => ((self.nat().to_bits(), ALL), pods),
            (Direction::Forward, _) => (office, pods),
            (Direction::Reply, Target::Pod) => (pods, office),
            (Direction::Reply, Target::Service) => (services, office),
        };
        let tunnelled = direction == Direction::Forward && self.topology.network == Network::Vxlan;
        Expectation {
            source: source.0,
            source_mask: source.1,
            destination: destination.0,
            destination_mask: destination.1,
            tunnel_port: if tunnelled {
                VXLAN_PORT.to_be().into()
            } else {
                0
            },
            verify: 0,
        }
    }
}

/// An Ethernet header of an IPv4 packet.
pub fn header(destination: [u8; 6], source: [u8; 6]) -> [u16; 7] {
    words(&[&destination[..], &source, &[0x08, 0x00]].concat())
}

fn mac(text: &str) -> Result<[u8; 6]> {
    let octets: Result<Vec<u8>, _> = text
        .split(':')
        .map(|octet| u8::from_str_radix(octet, 16))
        .collect();
    octets
        .ok()
        .and_then(|octets| octets.try_into().ok())
        .with_context(|| format!("{text} is no link-layer address"))
}

/// The outer headers of a packet from worker to node, without a UDP checksum, as the kernel sends it (RFC 7348 section
/// 4.1.1).
fn encapsulation(source: Ipv4Addr, destination: Ipv4Addr) -> [u16; ENCAPSULATION / 2] {
    let [udp_length, ip_length] = [ENCAPSULATION - 34, ENCAPSULATION - 14].map(|headers| {
        u16::try_from(headers + FRAME)
            .expect("a short frame")
            .to_be_bytes()
    });
    let mut ip = vec![0x45, 0];
    ip.extend(ip_length);
    ip.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    ip.extend(source.octets());
    ip.extend(destination.octets());
    let sum: u32 = ip
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !u16::try_from(folded).expect("ten words carry once");
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    let mut octets = [&CLUSTER.mac[..], &WORKER.mac, &[0x08, 0x00]].concat();
    octets.extend(ip);
    octets.extend(40_000_u16.to_be_bytes());
    octets.extend(VXLAN_PORT.to_be_bytes());
    octets.extend(udp_length);
    octets.extend([0, 0]);
    octets.extend([0x08, 0, 0, 0]);
    octets.extend((VXLAN_VNI << 8).to_be_bytes());
    words(&octets)
}
