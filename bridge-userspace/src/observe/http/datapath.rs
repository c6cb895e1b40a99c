//! The datapath's metrics, read from the pinned tables and from the kernel at each scrape.

use std::fmt;

use bridge_common::layout::Counter;
use bridge_common::parse::{ICMP, TCP, UDP};
use bridge_common::verdict::{Count, DropReason};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::family::Family;
use crate::maps::{TableError, Tables};
use crate::observe::readiness::Attachment;
use crate::observe::traffic::total;

const FORWARDED_PACKETS: Family = Family::new(
    "forwarded_packets",
    "Packets translated and sent on; segments of a GSO packet count one by one.",
);
const FORWARDED: Family = Family::new(
    "forwarded",
    "Bytes translated and sent on, from the IPv4 header on.",
)
.in_bytes();
const XDP_FORWARDED_PACKETS: Family = Family::new(
    "xdp_forwarded_packets",
    "Packets among the forwarded ones that XDP has sent on.",
);
const XDP_FORWARDED: Family = Family::new(
    "xdp_forwarded",
    "Bytes among the forwarded ones that XDP has sent on.",
)
.in_bytes();
const DROPPED_PACKETS: Family = Family::new(
    "dropped_packets",
    "Packets that went no further, whether or not their sender was told.",
);
const NAT_PORT_FAILURES: Family = Family::new(
    "nat_port_allocation_failures",
    "Flows refused because every NAT port tried was taken.",
);
const FLOWS_OPENED: Family = Family::new("flows_opened", "Flows opened.");
const ANSWERED: Family = Family::new(
    "answered_packets",
    "Packets answered by the bridge itself: ICMP errors, resets, echo replies.",
);
const ANSWERS_SUPPRESSED: Family = Family::new(
    "suppressed_answers",
    "Answers that the rate limit held back.",
);
const PINGS_ANSWERED: Family = Family::new(
    "answered_pings",
    "Pings to a service address, answered by the bridge.",
);
const ENTRIES: Family = Family::new("conntrack_entries", "Flows in the table.");
const MAX_ENTRIES: Family = Family::new("conntrack_max_entries", "Flows that fit.");
const SERVICES: Family = Family::new("services", "Service ports in the table.");
const INTERFACE_MODE: Family = Family::new(
    "interface_mode",
    "How our program at this hook of the interface is attached: 1 with the mode that the kernel shows, or with detached.",
);

/// What the datapath shows at one moment.
#[derive(Clone, Debug)]
pub struct Reading {
    to_backend: Counter,
    to_client: Counter,
    xdp_to_backend: Counter,
    xdp_to_client: Counter,
    flows_opened: u64,
    answered: u64,
    answers_suppressed: u64,
    pings_answered: u64,
    drops: Vec<(DropReason, u64)>,
    entries: [(&'static str, u32); 4],
    max_entries: u32,
    services: usize,
    attachments: Vec<Attachment>,
}

impl Reading {
    /// Reads the tables, which takes a moment when they are full.
    ///
    /// # Errors
    /// When one can't be read.
    pub fn take(tables: &Tables, attachments: Vec<Attachment>) -> Result<Self, TableError> {
        let flows = tables.flows()?;
        let protocols = flows.iter().map(|(key, _)| key.protocol);
        Ok(Self {
            entries: by_protocol(protocols),
            max_entries: tables.flow_capacity()?,
            services: tables.service_ports()?.len(),
            ..Self::of_counters(tables.counters()?, attachments)
        })
    }

    fn of_counters(count: impl Fn(Count) -> Counter, attachments: Vec<Attachment>) -> Self {
        Self {
            to_backend: total(&count, Count::ToBackend),
            to_client: total(&count, Count::ToClient),
            xdp_to_backend: count(Count::XdpToBackend),
            xdp_to_client: count(Count::XdpToClient),
            flows_opened: count(Count::FlowOpened).packets,
            answered: count(Count::Answered).packets,
            answers_suppressed: count(Count::AnswerSuppressed).packets,
            pings_answered: count(Count::PingAnswered).packets,
            drops: DropReason::ALL
                .iter()
                .map(|&reason| (reason, count(Count::Drop(reason)).packets))
                .collect(),
            entries: by_protocol([]),
            max_entries: 0,
            services: 0,
            attachments,
        }
    }
}

fn by_protocol(protocols: impl IntoIterator<Item = u8>) -> [(&'static str, u32); 4] {
    let mut entries = [("tcp", 0), ("udp", 0), ("icmp", 0), ("other", 0)];
    for protocol in protocols {
        let index = match protocol {
            TCP => 0,
            UDP => 1,
            ICMP => 2,
            _ => 3,
        };
        entries[index].1 += 1;
    }
    entries
}

impl Collector for Reading {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let encoder = &mut encoder;
        let by_direction = |to_backend, to_client| {
            [(Count::ToBackend, to_backend), (Count::ToClient, to_client)].map(
                |(direction, counter): (_, Counter)| ([("direction", direction.name())], counter),
            )
        };
        let forwarded = by_direction(self.to_backend, self.to_client);
        FORWARDED_PACKETS.counters(encoder, forwarded.map(|(label, sum)| (label, sum.packets)))?;
        FORWARDED.counters(encoder, forwarded.map(|(label, sum)| (label, sum.bytes)))?;
        let xdp = by_direction(self.xdp_to_backend, self.xdp_to_client);
        XDP_FORWARDED_PACKETS.counters(encoder, xdp.map(|(label, sum)| (label, sum.packets)))?;
        XDP_FORWARDED.counters(encoder, xdp.map(|(label, sum)| (label, sum.bytes)))?;
        DROPPED_PACKETS.counters(
            encoder,
            self.drops
                .iter()
                .map(|&(reason, packets)| ([("reason", reason.name())], packets)),
        )?;
        let no_port = self
            .drops
            .iter()
            .find(|(reason, _)| *reason == DropReason::NoNatPort);
        NAT_PORT_FAILURES.counter(encoder, no_port.map_or(0, |&(_, packets)| packets))?;
        FLOWS_OPENED.counter(encoder, self.flows_opened)?;
        ANSWERED.counter(encoder, self.answered)?;
        ANSWERS_SUPPRESSED.counter(encoder, self.answers_suppressed)?;
        PINGS_ANSWERED.counter(encoder, self.pings_answered)?;
        ENTRIES.gauges(
            encoder,
            self.entries
                .map(|(protocol, flows)| ([("proto", protocol)], f64::from(flows))),
        )?;
        MAX_ENTRIES.gauge(encoder, self.max_entries as usize)?;
        SERVICES.gauge(encoder, self.services)?;
        let modes: Vec<_> = self.attachments.iter().map(Attachment::mode_name).collect();
        INTERFACE_MODE.gauges(
            encoder,
            self.attachments
                .iter()
                .zip(&modes)
                .map(|(attachment, mode)| {
                    let point = &attachment.point;
                    let labels = [
                        ("iface", point.interface.as_str()),
                        ("side", attachment.side.name()),
                        ("hook", point.program.hook().name()),
                        ("mode", mode.as_str()),
                    ];
                    (labels, 1.0)
                }),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::Mode;
    use crate::model::program::{AttachPoint, Program};
    use crate::observe::http::metrics::{lines, text};

    fn reading() -> Reading {
        let attachment = |interface: &str, program, mode| {
            let point = AttachPoint {
                ifindex: 2,
                interface: interface.to_owned(),
                program,
            };
            Attachment {
                side: point.side("eth0"),
                point,
                mode,
            }
        };
        let count = |count: Count| Counter {
            packets: 100 + u64::from(count.index()),
            bytes: 1_000 + u64::from(count.index()),
        };
        Reading {
            entries: by_protocol([TCP, UDP, TCP, ICMP, 132]),
            max_entries: 262_144,
            services: 12,
            ..Reading::of_counters(
                count,
                vec![
                    attachment("eth0", Program::UplinkIngress, Some(Mode::Tcx)),
                    attachment("cni0", Program::ClusterIngress, Some(Mode::Tcx)),
                    attachment("cni0", Program::ClusterEgress, None),
                    attachment("eth0", Program::XdpFast, Some(Mode::Native)),
                ],
            )
        }
    }

    #[test]
    fn counters_of_the_table_are_told_by_direction_and_reason() {
        let text = text(reading());
        for line in [
            r#"office_bridge_forwarded_packets_total{direction="to-backend"} 206"#,
            r#"office_bridge_forwarded_packets_total{direction="to-client"} 208"#,
            r#"office_bridge_forwarded_bytes_total{direction="to-backend"} 2006"#,
            r#"office_bridge_forwarded_bytes_total{direction="to-client"} 2008"#,
            r#"office_bridge_xdp_forwarded_packets_total{direction="to-backend"} 106"#,
            r#"office_bridge_xdp_forwarded_packets_total{direction="to-client"} 107"#,
            r#"office_bridge_xdp_forwarded_bytes_total{direction="to-backend"} 1006"#,
            r#"office_bridge_xdp_forwarded_bytes_total{direction="to-client"} 1007"#,
            "office_bridge_flows_opened_total 102",
            "office_bridge_answered_packets_total 103",
            "office_bridge_suppressed_answers_total 104",
            "office_bridge_answered_pings_total 105",
            r#"office_bridge_dropped_packets_total{reason="ttl-exceeded"} 116"#,
        ] {
            assert!(lines(&text).contains(&line), "no `{line}` in:\n{text}");
        }
        let drops = lines(&text)
            .into_iter()
            .filter(|line| line.starts_with("office_bridge_dropped_packets_total{"));
        assert_eq!(drops.count(), DropReason::ALL.len(), "{text}");
        let no_port = 100 + Count::Drop(DropReason::NoNatPort).index();
        let line = format!("office_bridge_nat_port_allocation_failures_total {no_port}");
        assert!(lines(&text).contains(&line.as_str()), "{text}");
    }

    #[test]
    fn fill_and_attachments_are_told() {
        let text = text(reading());
        for line in [
            r#"office_bridge_conntrack_entries{proto="tcp"} 2.0"#,
            r#"office_bridge_conntrack_entries{proto="udp"} 1.0"#,
            r#"office_bridge_conntrack_entries{proto="icmp"} 1.0"#,
            r#"office_bridge_conntrack_entries{proto="other"} 1.0"#,
            "office_bridge_conntrack_max_entries 262144",
            "office_bridge_services 12",
            r#"office_bridge_interface_mode{iface="eth0",side="uplink",hook="tc-ingress",mode="tcx"} 1.0"#,
            r#"office_bridge_interface_mode{iface="cni0",side="cluster",hook="tc-ingress",mode="tcx"} 1.0"#,
            r#"office_bridge_interface_mode{iface="cni0",side="cluster",hook="tc-egress",mode="detached"} 1.0"#,
            r#"office_bridge_interface_mode{iface="eth0",side="uplink",hook="xdp",mode="native"} 1.0"#,
        ] {
            assert!(lines(&text).contains(&line), "no `{line}` in:\n{text}");
        }
    }
}
