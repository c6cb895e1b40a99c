//! Connections as people know them: a flow of the stack path and the mark of the service that it goes to are one.
//!
//! At the uplink such a connection still goes to the VIP and is marked as the kernel's; where it leaves, after
//! kube-proxy's translation, it goes to a pod and has a flow. Nothing but the client's end and the time of the last
//! packet ties the two together.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use bridge_common::abi::{ClusterCidr, DestinationKind, Flow, FlowKey, Ipv4, Layer, name};
use ipnet::Ipv4Net;

use crate::maps::{TableError, Tables, access, prefix_of};

/// Seconds by which the two programs that see a packet one after the other may date it differently.
const SAME_PACKET: u32 = 1;

/// One connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Key of its flow.
    pub key: FlowKey,
    /// Its flow.
    pub flow: Flow,
    /// The service that the client addressed, where the flow itself names the pod.
    pub service: Option<(Ipv4, u16)>,
}

impl Connection {
    /// What the client addressed.
    #[must_use]
    pub fn destination(&self) -> (Ipv4, u16) {
        self.service
            .unwrap_or((self.key.destination, self.key.destination_port))
    }
}

/// The connections in the tables, in the order of their keys.
///
/// # Errors
/// When the tables can't be read.
pub fn connections(tables: &Tables) -> Result<Vec<Connection>, TableError> {
    let services = service_networks(tables)?;
    Ok(join(tables.flows()?, |address| {
        let address = Ipv4Addr::from(address);
        services.iter().any(|network| network.contains(&address))
    }))
}

fn service_networks(tables: &Tables) -> Result<Vec<Ipv4Net>, TableError> {
    let networks = tables.prefixes::<ClusterCidr>(name::CLUSTER_CIDRS)?;
    let mut services = Vec::new();
    for entry in &networks {
        let (prefix, cidr) = entry.map_err(access(name::CLUSTER_CIDRS))?;
        if cidr.kind() == Some(DestinationKind::Service) {
            services.push(prefix_of(&prefix));
        }
    }
    Ok(services)
}

/// Gives each mark of a service to the flow of the same client, port and protocol that was last used when it was. Where
/// several were, as when one UDP socket talks to two services, the one with the nearest count of packets gets it.
fn join(mut flows: Vec<(FlowKey, Flow)>, is_service: impl Fn(Ipv4) -> bool) -> Vec<Connection> {
    flows.sort_unstable_by_key(|(key, _)| *key);
    let is_mark = |(key, flow): &(FlowKey, Flow)| {
        flow.layer == Layer::Kernel as u8 && is_service(key.destination)
    };
    let (marks, flows): (Vec<_>, Vec<_>) = flows.into_iter().partition(is_mark);
    let mut connections: Vec<Connection> = flows
        .into_iter()
        .map(|(key, flow)| Connection {
            key,
            flow,
            service: None,
        })
        .collect();
    let mut by_client: BTreeMap<(Ipv4, u16, u8), Vec<usize>> = BTreeMap::new();
    for (index, connection) in connections.iter().enumerate() {
        if connection.flow.layer == Layer::Stack as u8 {
            by_client
                .entry(client(&connection.key))
                .or_default()
                .push(index);
        }
    }
    for (key, mark) in marks {
        let candidates = by_client.get_mut(&client(&key));
        let nearest = candidates.and_then(|candidates| {
            let position = (0..candidates.len())
                .filter(|&position| {
                    let flow = &connections[candidates[position]].flow;
                    flow.last_seen.abs_diff(mark.last_seen) <= SAME_PACKET
                })
                .min_by_key(|&position| {
                    let flow = &connections[candidates[position]].flow;
                    flow.packets.abs_diff(mark.packets)
                })?;
            Some(candidates.remove(position))
        });
        match nearest {
            Some(index) => {
                connections[index].service = Some((key.destination, key.destination_port));
            }
            None => connections.push(Connection {
                key,
                flow: mark,
                service: None,
            }),
        }
    }
    connections.sort_unstable_by_key(|connection| connection.key);
    connections
}

const fn client(key: &FlowKey) -> (Ipv4, u16, u8) {
    (key.client, key.client_port, key.protocol)
}

#[cfg(test)]
mod tests {
    use bridge_common::packet::parse::{TCP, UDP};

    use super::*;

    const VIP: Ipv4 = [10, 96, 0, 10];
    const OTHER_VIP: Ipv4 = [10, 96, 0, 11];
    const POD: Ipv4 = [10, 244, 1, 5];
    const OTHER_POD: Ipv4 = [10, 244, 2, 5];

    fn entry(
        layer: Layer,
        destination: Ipv4,
        client_port: u16,
        packets: u32,
        last_seen: u32,
    ) -> (FlowKey, Flow) {
        let key = FlowKey {
            client: [192, 168, 0, 10],
            destination,
            client_port,
            destination_port: 80,
            protocol: TCP,
            pad: 0,
            pad2: 0,
        };
        let flow = Flow {
            packets,
            last_seen,
            layer: layer as u8,
            ..Flow::default()
        };
        (key, flow)
    }

    fn joined(flows: &[(FlowKey, Flow)]) -> Vec<(Ipv4, Option<Ipv4>, u8)> {
        join(flows.to_vec(), |address| address[1] == 96)
            .into_iter()
            .map(|connection| {
                (
                    connection.key.destination,
                    connection.service.map(|(address, _)| address),
                    connection.flow.layer,
                )
            })
            .collect()
    }

    #[test]
    fn a_flow_and_the_mark_of_its_service_are_one_connection() {
        let flows = [
            entry(Layer::Kernel, VIP, 1_000, 5, 70),
            entry(Layer::Stack, POD, 1_000, 5, 70),
        ];
        assert_eq!(joined(&flows), [(POD, Some(VIP), Layer::Stack as u8)]);
    }

    #[test]
    fn a_mark_without_a_flow_stays() {
        // Netfilter masquerades it.
        let flows = [
            entry(Layer::Kernel, VIP, 1_000, 5, 70),
            entry(Layer::Stack, POD, 1_001, 5, 70),
            entry(Layer::Tc, POD, 1_000, 5, 70),
        ];
        assert_eq!(
            joined(&flows),
            [
                (VIP, None, Layer::Kernel as u8),
                (POD, None, Layer::Tc as u8),
                (POD, None, Layer::Stack as u8),
            ]
        );
    }

    #[test]
    fn a_connection_that_a_pod_opened_is_no_mark_of_a_service() {
        let flows = [
            entry(Layer::Kernel, OTHER_POD, 1_000, 5, 70),
            entry(Layer::Stack, POD, 1_000, 5, 70),
        ];
        assert_eq!(
            joined(&flows),
            [
                (POD, None, Layer::Stack as u8),
                (OTHER_POD, None, Layer::Kernel as u8),
            ]
        );
    }

    #[test]
    fn another_protocol_is_another_connection() {
        let mut mark = entry(Layer::Kernel, VIP, 1_000, 5, 70);
        mark.0.protocol = UDP;
        let flows = [mark, entry(Layer::Stack, POD, 1_000, 5, 70)];
        assert_eq!(joined(&flows).len(), 2);
    }

    #[test]
    fn two_services_that_one_socket_talks_to_are_told_apart_by_their_packets() {
        let flows = [
            entry(Layer::Kernel, VIP, 1_000, 3, 70),
            entry(Layer::Kernel, OTHER_VIP, 1_000, 20, 70),
            entry(Layer::Stack, POD, 1_000, 21, 70),
            entry(Layer::Stack, OTHER_POD, 1_000, 3, 70),
        ];
        assert_eq!(
            joined(&flows),
            [
                (POD, Some(OTHER_VIP), Layer::Stack as u8),
                (OTHER_POD, Some(VIP), Layer::Stack as u8),
            ]
        );
    }

    #[test]
    fn a_mark_that_was_used_at_another_time_is_another_connection() {
        let flows = [
            entry(Layer::Kernel, VIP, 1_000, 5, 90),
            entry(Layer::Stack, POD, 1_000, 5, 70),
        ];
        assert_eq!(joined(&flows).len(), 2);
    }
}
