//! Segments that are translated and not believed.

use crate::fixture::{
    NAT, PC, POD, TUNNEL, UPLINK, advance, fixture, forward, in_sequence, only_flow,
};
use crate::packets::{Segment, Wire, assert_sound, at};
use bridge_common::conntrack::tcp_state::{Seen, State};
use bridge_common::packet::parse::tcp_flag::{ACK, FIN, RST, SYN};
use bridge_common::packet::rewrite::Endpoint;
use bridge_common::path::tc::Side;
use bridge_common::sim::SimTables;
use proptest::prelude::*;

const CLIENT: Endpoint = at(PC, 20_000);
const WEB: Endpoint = at(POD, 80);
const TRANSLATED: Endpoint = at(NAT, 20_000);

fn from_client(tables: &SimTables, bytes: Vec<u8>) {
    assert_sound(&forward(tables, Side::Uplink, bytes, TUNNEL));
}

fn from_backend(tables: &SimTables, bytes: Vec<u8>) {
    assert_sound(&forward(tables, Side::Cluster, bytes, UPLINK));
}

fn client(flags: u8) -> Wire {
    Wire::tcp(CLIENT, WEB, flags).payload([])
}

fn backend(flags: u8) -> Wire {
    Wire::tcp(WEB, TRANSLATED, flags).payload([])
}

fn offered() -> SimTables {
    let tables = fixture();
    from_client(&tables, in_sequence(&tables, client(SYN)));
    from_backend(&tables, in_sequence(&tables, backend(SYN | ACK)));
    tables
}

fn established() -> SimTables {
    let tables = offered();
    from_client(&tables, in_sequence(&tables, client(ACK)));
    assert_eq!(state(&tables), State::Established);
    tables
}

fn state(tables: &SimTables) -> State {
    let (_, flow, reply) = only_flow(tables);
    State::of(Seen(flow.tcp_seen), Seen(reply.tcp_seen()))
}

fn with_wrong_checksum(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[20 + 16] ^= 0x55;
    bytes
}

/// In sequence but for `offset` bytes.
fn displaced(tables: &SimTables, wire: Wire, offset: u32) -> Vec<u8> {
    let bytes = in_sequence(tables, wire.clone());
    let mut wire = wire;
    let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    if let Segment::Tcp {
        sequence,
        acknowledgement,
        ..
    } = &mut wire.segment
    {
        *sequence = number(24).wrapping_add(offset);
        *acknowledgement = number(28).wrapping_add(0x4000_0000);
    }
    wire.bytes()
}

proptest! {
    #[test]
    fn who_guesses_ends_nothing(offset in 1..u32::MAX, flags in prop::sample::select(vec![RST, RST | ACK, FIN | ACK]), from_office in any::<bool>()) {
        let tables = established();
        let before = only_flow(&tables);
        if from_office {
            from_client(&tables, displaced(&tables, client(flags), offset));
        } else {
            from_backend(&tables, displaced(&tables, backend(flags), offset));
        }
        let after = only_flow(&tables);
        prop_assert_eq!(after.1.tcp_seen & !Seen::ASKS, before.1.tcp_seen & !Seen::ASKS);
        prop_assert_eq!(after.2.state, before.2.state);
        prop_assert_eq!((after.1.tcp_next, after.2.tcp_next), (before.1.tcp_next, before.2.tcp_next));
    }
}

#[test]
fn a_reset_that_is_not_believed_keeps_nothing_alive() {
    let tables = established();
    advance(&tables, 5);
    let before = only_flow(&tables);
    from_client(&tables, displaced(&tables, client(RST), 99));
    from_backend(&tables, displaced(&tables, backend(RST), 99));
    let after = only_flow(&tables);
    assert_eq!(after.1.last_seen, before.1.last_seen);
    assert_eq!(after.2.last_seen, before.2.last_seen);
}

#[test]
fn a_wrong_checksum_establishes_and_ends_nothing() {
    let tables = offered();
    let bytes = in_sequence(&tables, client(ACK));
    forward(&tables, Side::Uplink, with_wrong_checksum(bytes), TUNNEL);
    assert_eq!(state(&tables), State::Opening);
    for flags in [RST, FIN | ACK] {
        let tables = established();
        let bytes = in_sequence(&tables, client(flags));
        forward(&tables, Side::Uplink, with_wrong_checksum(bytes), TUNNEL);
        let bytes = in_sequence(&tables, backend(flags));
        forward(&tables, Side::Cluster, with_wrong_checksum(bytes), UPLINK);
        assert_eq!(state(&tables), State::Established);
        from_client(&tables, in_sequence(&tables, client(flags)));
        from_backend(&tables, in_sequence(&tables, backend(flags)));
        assert_ne!(state(&tables), State::Established);
    }
}

#[test]
fn data_of_a_client_establishes_once_its_backend_answers() {
    let tables = offered();
    from_client(&tables, in_sequence(&tables, client(ACK).payload("GET /")));
    assert_eq!(state(&tables), State::Opening);
    from_backend(&tables, in_sequence(&tables, backend(ACK).payload("200")));
    from_client(&tables, in_sequence(&tables, client(ACK)));
    assert_eq!(state(&tables), State::Established);
}

#[test]
fn a_backend_that_offers_again_has_not_been_answered() {
    let tables = established();
    let (_, _, reply) = only_flow(&tables);
    let mut again = backend(SYN | ACK);
    if let Segment::Tcp { sequence, .. } = &mut again.segment {
        *sequence = reply.tcp_next.wrapping_sub(1);
    }
    from_backend(&tables, again.bytes());
    assert_eq!(state(&tables), State::Opening);
    from_client(&tables, in_sequence(&tables, client(ACK)));
    assert_eq!(state(&tables), State::Established);
}
