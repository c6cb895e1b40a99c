//! Translating a packet and translating its reply back is the identity, and every checksum on the way
//! is the one that a full computation gives.

use crate::fixture::{DNS, LOCAL_POD, MYSQL, NODE, POD, ROUTED_POD, UPLINK, fixture, only_flow};
use crate::packets::{
    Segment, Wire, addresses, assert_sound, at, complete, endpoints, header_len, identifier,
    protocol,
};
use bridge_common::packet::parse::ICMP;
use bridge_common::packet::parse::tcp_flag;
use bridge_common::packet::rewrite::Endpoint;
use bridge_common::path::tc::{Side, run};
use bridge_common::sim::{SimPacket, SimTables};
use bridge_common::verdict::Verdict;
use proptest::collection::vec;
use proptest::prelude::*;

proptest! {
    #[test]
    fn a_packet_and_its_reply_come_out_as_they_would_without_a_bridge(wire in from_office()) {
        round_trip(&wire, Wire::packet, |_| ());
    }

    #[test]
    fn a_checksum_left_to_the_network_card_is_completed_right(wire in from_office()) {
        let mut wire = wire;
        match &mut wire.segment {
            Segment::Tcp { .. } => {}
            Segment::Udp { checksum } => *checksum = true,
            // No network card completes an ICMP checksum.
            Segment::Echo { .. } => return Ok(()),
        }
        round_trip(&wire, Wire::partial_packet, |packet| {
            let (l4, protocol) = (header_len(&packet.bytes), protocol(&packet.bytes));
            complete(packet, l4, protocol);
        });
    }
}

#[test]
fn a_udp_checksum_that_translates_to_zero_is_sent_as_all_ones() {
    // The payload is chosen so that the sum of the translated packet has no room for a checksum but 0.
    let (client, pod) = (at([192, 168, 0, 10], 5000), at(ROUTED_POD, 53));
    let translated = Wire::udp(at(NODE, 5000), pod).payload([0, 0]);
    let translated_sum = translated.bytes();
    let filler = [translated_sum[26], translated_sum[27]];
    let tables = fixture();
    let mut packet = Wire::udp(client, pod).payload(filler).packet();
    let verdict = run(&mut packet, &tables, Side::Uplink);
    assert!(matches!(verdict, Verdict::Forward { .. }), "{verdict:?}");
    assert_eq!(packet.bytes[26..28], [0xFF, 0xFF]);
    assert_sound(&packet.bytes);
}

/// Well-formed options whose MSS is below every clamp.
fn tcp_options() -> impl Strategy<Value = Vec<u8>> {
    let option = prop_oneof![
        Just(vec![1]),
        (1..=1400_u16).prop_map(|mss| [&[2, 4], &mss.to_be_bytes()[..]].concat()),
        Just(vec![4, 2]),
        any::<u8>().prop_map(|shift| vec![3, 3, shift]),
        any::<[u8; 8]>().prop_map(|stamps| [&[8, 10], &stamps[..]].concat()),
    ];
    vec(option, 0..4).prop_map(|options| {
        let mut bytes = options.concat();
        bytes.truncate(40);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    })
}

fn ip_options() -> impl Strategy<Value = Vec<u8>> {
    (0..=10_usize).prop_flat_map(|words| vec(any::<u8>(), words * 4))
}

fn segment() -> impl Strategy<Value = (Segment, Endpoint)> {
    let pod = || prop_oneof![Just(POD), Just(LOCAL_POD), Just(ROUTED_POD)];
    let tcp = (any::<u8>(), any::<u32>(), any::<u32>(), tcp_options()).prop_map(
        |(flags, sequence, acknowledgement, options)| Segment::Tcp {
            flags,
            sequence,
            acknowledgement,
            options,
        },
    );
    let udp = any::<bool>().prop_map(|checksum| Segment::Udp { checksum });
    let echo = any::<u16>().prop_map(|sequence| Segment::Echo {
        request: true,
        sequence,
    });
    let listening = move |service| {
        prop_oneof![
            Just(service),
            (pod(), any::<u16>()).prop_map(|(pod, port)| at(pod, port))
        ]
    };
    prop_oneof![
        (tcp, listening(MYSQL)),
        (udp, listening(DNS)),
        (echo, pod().prop_map(|pod| at(pod, 0))),
    ]
}

prop_compose! {
    /// Any packet from the office that a bridge translates.
    fn from_office()(
        ((segment, destination), port) in (segment(), any::<u16>())
            .prop_filter("no answer to a pod", |((segment, destination), port)| {
                !matches!(segment, Segment::Udp { .. }) || *port >= 1024 || destination.port < 32_768
            }),
        host in 1..1022_u16,
        tos in any::<u8>(),
        ttl in 3..=255_u8,
        identification in any::<u16>(),
        dont_fragment in any::<bool>(),
        ip_options in ip_options(),
        payload in vec(any::<u8>(), 0..1300),
    ) -> Wire {
        let [h0, h1] = host.to_be_bytes();
        Wire {
            tos,
            ttl,
            identification,
            dont_fragment,
            ip_options,
            source: at([192, 168, h0, h1], port),
            destination,
            segment,
            payload,
        }
    }
}

/// Opens the flow of a packet that might not open one itself.
fn open(tables: &SimTables, wire: &Wire) {
    if matches!(wire.segment, Segment::Tcp { .. }) {
        let mut syn = Wire::tcp(wire.source, wire.destination, tcp_flag::SYN).packet();
        let verdict = run(&mut syn, tables, Side::Uplink);
        assert!(matches!(verdict, Verdict::Forward { .. }), "{verdict:?}");
    }
}

/// What a translation should have made of `wire`, built afresh from the endpoints in `translated`.
fn expected(wire: &Wire, translated: &[u8]) -> Wire {
    let (source, destination) = if protocol(translated) == ICMP {
        let (source, destination) = addresses(translated);
        let id = identifier(translated);
        if matches!(wire.segment, Segment::Echo { request: true, .. }) {
            (at(source, id), at(destination, 0))
        } else {
            (at(source, 0), at(destination, id))
        }
    } else {
        endpoints(translated)
    };
    wire.between(source, destination).ttl(wire.ttl - 1)
}

fn round_trip(wire: &Wire, make: impl Fn(&Wire) -> SimPacket, finish: impl Fn(&mut SimPacket)) {
    let tables = fixture();
    open(&tables, wire);

    let mut packet = make(wire);
    let verdict = run(&mut packet, &tables, Side::Uplink);
    assert!(matches!(verdict, Verdict::Forward { .. }), "{verdict:?}");
    finish(&mut packet);
    assert_sound(&packet.bytes);
    let translated = expected(wire, &packet.bytes);
    assert_eq!(packet.bytes, translated.bytes(), "towards the backend");
    let (_, flow, _) = only_flow(&tables);
    assert_eq!(translated.source, at(flow.nat, flow.nat_port));
    assert_eq!(translated.destination, at(flow.backend, flow.backend_port));

    let mut packet = make(&translated.reply());
    let verdict = run(&mut packet, &tables, Side::Cluster);
    assert_eq!(verdict, Verdict::Forward { ifindex: UPLINK });
    finish(&mut packet);
    assert_sound(&packet.bytes);
    let back = wire.reply().ttl(wire.ttl - 2);
    assert_eq!(packet.bytes, back.bytes(), "towards the client");
}
