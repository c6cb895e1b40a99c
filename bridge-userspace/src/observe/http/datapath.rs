//! The datapath's metrics, read from the pinned tables and from the kernel at each scrape.

use std::fmt;

use bridge_common::abi::Counter;
use bridge_common::counters::Count;
use bridge_common::drops::DropReason;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::family::Family;
use crate::observe::readiness::Attachment;
use crate::observe::snapshot::{Fill, Snapshot};

const READY: Family = Family::new(
    "ready",
    "Whether a packet of the office would be forwarded now, names would be resolved and changes are followed: 1 or 0.",
);
const PROBLEMS: Family = Family::new("problems", "Problems that `office-bridge status` shows.");
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
    pub snapshot: Snapshot,
    pub fill: Fill,
}

impl Collector for Reading {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let encoder = &mut encoder;
        let Self { snapshot, fill } = self;
        READY.gauge(encoder, usize::from(snapshot.is_ready()))?;
        PROBLEMS.gauge(encoder, snapshot.problems.len())?;
        let by_direction = |counter: &dyn Fn(Count) -> Counter, counts: [Count; 2]| {
            let directions = [Count::ToBackend, Count::ToClient];
            [0, 1].map(|index| {
                (
                    [("direction", directions[index].name())],
                    counter(counts[index]),
                )
            })
        };
        let forwarded = by_direction(
            &|what| fill.total(what),
            [Count::ToBackend, Count::ToClient],
        );
        FORWARDED_PACKETS.counters(encoder, forwarded.map(|(label, sum)| (label, sum.packets)))?;
        FORWARDED.counters(encoder, forwarded.map(|(label, sum)| (label, sum.bytes)))?;
        let xdp = by_direction(
            &|what| fill.counter(what),
            [Count::XdpToBackend, Count::XdpToClient],
        );
        XDP_FORWARDED_PACKETS.counters(encoder, xdp.map(|(label, sum)| (label, sum.packets)))?;
        XDP_FORWARDED.counters(encoder, xdp.map(|(label, sum)| (label, sum.bytes)))?;
        let drops = DropReason::ALL.iter().map(|&reason| {
            let packets = fill.counter(Count::Drop(reason)).packets;
            ([("reason", reason.name())], packets)
        });
        DROPPED_PACKETS.counters(encoder, drops)?;
        for (family, what) in [
            (NAT_PORT_FAILURES, Count::Drop(DropReason::NoNatPort)),
            (FLOWS_OPENED, Count::FlowOpened),
            (ANSWERED, Count::Answered),
            (ANSWERS_SUPPRESSED, Count::AnswerSuppressed),
            (PINGS_ANSWERED, Count::PingAnswered),
        ] {
            family.counter(encoder, fill.counter(what).packets)?;
        }
        ENTRIES.gauges(
            encoder,
            fill.flows
                .map(|(protocol, flows)| ([("proto", protocol)], f64::from(flows))),
        )?;
        MAX_ENTRIES.gauge(encoder, fill.flow_capacity as usize)?;
        SERVICES.gauge(encoder, fill.services)?;
        let attachments = &snapshot.attachments;
        let modes: Vec<_> = attachments.iter().map(Attachment::mode_name).collect();
        INTERFACE_MODE.gauges(
            encoder,
            attachments.iter().zip(&modes).map(|(attachment, mode)| {
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
    use bridge_common::abi::{FastPath, Settings};
    use bridge_common::packet::parse::{ICMP, TCP, UDP};

    use super::*;
    use crate::datapath::Mode;
    use crate::model::program::{AttachPoint, Program};
    use crate::observe::http::metrics::{lines, text};
    use crate::observe::readiness::NotReady;
    use crate::observe::report::Report;
    use crate::observe::snapshot::by_protocol;

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
                other: None,
            }
        };
        let count = |count: Count| Counter {
            packets: 100 + u64::from(count.index()),
            bytes: 1_000 + u64::from(count.index()),
        };
        let report = Report::example(7);
        Reading {
            snapshot: Snapshot {
                pid: Some(7),
                report: Some(report),
                attachments: vec![
                    attachment("eth0", Program::UplinkIngress, Some(Mode::Tcx)),
                    attachment("cni0", Program::ClusterIngress, Some(Mode::Tcx)),
                    attachment("cni0", Program::ClusterEgress, None),
                    attachment("eth0", Program::XdpFast, Some(Mode::Native)),
                ],
                settings: Settings::default(),
                fast_path: FastPath::default(),
                problems: Vec::new(),
                not_ready: vec![NotReady::NoUplink],
            },
            fill: Fill {
                flows: by_protocol([TCP, UDP, TCP, ICMP, 132]),
                flow_capacity: 262_144,
                services: 12,
                ..Fill::of_counters(count)
            },
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
            "office_bridge_ready 0",
            "office_bridge_problems 0",
            r#"office_bridge_interface_mode{iface="eth0",side="uplink",hook="tc-ingress",mode="tcx"} 1.0"#,
            r#"office_bridge_interface_mode{iface="cni0",side="cluster",hook="tc-ingress",mode="tcx"} 1.0"#,
            r#"office_bridge_interface_mode{iface="cni0",side="cluster",hook="tc-egress",mode="detached"} 1.0"#,
            r#"office_bridge_interface_mode{iface="eth0",side="uplink",hook="xdp",mode="native"} 1.0"#,
        ] {
            assert!(lines(&text).contains(&line), "no `{line}` in:\n{text}");
        }
    }
}
