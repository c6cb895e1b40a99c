//! Packets to services from networks that are none of the office's.

use bridge_common::abi::{Settings, SourceNetwork};
use bridge_common::counters::Count;
use bridge_common::drops::DropReason;
use bridge_common::packet::parse::tcp_flag::{ACK, SYN};
use bridge_common::path::tc::Side;
use bridge_common::verdict::Verdict;

use crate::fixture::{
    DNS, MYSQL, NODE, OUTSIDER, POD, ROUTED_POD, VIP, WORKER, fixture, flows, pass, send,
};
use crate::packets::{Wire, addresses, assert_sound, at, icmp_error};

#[test]
fn a_stranger_is_refused_told_and_counted() {
    let mut tables = fixture();
    let wires = [
        Wire::tcp(at(OUTSIDER, 40_000), MYSQL, SYN),
        Wire::tcp(at(OUTSIDER, 40_000), MYSQL, ACK),
        Wire::udp(at(OUTSIDER, 40_000), DNS),
        Wire::ping(OUTSIDER, VIP, 1),
        Wire::udp(at(OUTSIDER, 40_000), at(VIP, 9)),
    ];
    for wire in &wires {
        let (verdict, bytes) = send(&tables, Side::Uplink, wire.bytes());
        assert_eq!(verdict, Verdict::Reflect);
        assert_sound(&bytes);
        assert_eq!(addresses(&bytes), (NODE, OUTSIDER));
        assert_eq!(bytes[20..22], [3, 13], "administratively prohibited");
    }
    let network = SourceNetwork::of(OUTSIDER);
    assert_eq!(tables.other_sources.borrow()[&network], 5);
    assert_eq!(tables.counted(Count::Drop(DropReason::NotOffice)), 5);
    assert!(flows(&tables).is_empty());
    // A route back need not be known.
    tables.routes.clear();
    let (_, bytes) = send(&tables, Side::Uplink, wires[0].bytes());
    assert_eq!(addresses(&bytes), (VIP, OUTSIDER));
}

#[test]
fn a_strangers_fragments_and_other_protocols_do_not_circle_either() {
    let tables = fixture();
    let big = Wire::udp(at(OUTSIDER, 40_000), DNS)
        .fragmentable(1)
        .payload([7; 3000]);
    for (at, fragment) in big.fragments(1480).into_iter().enumerate() {
        let (verdict, _) = send(&tables, Side::Uplink, fragment);
        let expected = if at == 0 {
            Verdict::Reflect
        } else {
            Verdict::Drop(DropReason::NotOffice)
        };
        assert_eq!(verdict, expected);
    }
}

#[test]
fn an_error_is_never_answered() {
    let tables = fixture();
    let about = Wire::udp(DNS, at(OUTSIDER, 9)).bytes();
    let error = icmp_error(OUTSIDER, VIP, [3, 3], [0; 4], &about);
    let (verdict, _) = send(&tables, Side::Uplink, error);
    assert_eq!(verdict, Verdict::Drop(DropReason::IcmpUnmatched));
}

#[test]
fn what_something_else_may_translate_passes() {
    let mut tables = fixture();
    let stranger = || Wire::tcp(at(OUTSIDER, 40_000), MYSQL, SYN).bytes();
    // To pods the kernel forwards it, and a pod or a worker may have its own reasons to send it here.
    let to_pod = Wire::tcp(at(OUTSIDER, 40_000), at(POD, 80), SYN).bytes();
    pass(&tables, Side::Uplink, to_pod);
    for source in [ROUTED_POD, WORKER] {
        pass(
            &tables,
            Side::Uplink,
            Wire::tcp(at(source, 40_000), MYSQL, SYN).bytes(),
        );
    }
    pass(&tables, Side::Cluster, stranger());
    tables.settings.flags = Settings::PASS_OTHERS;
    pass(&tables, Side::Uplink, stranger());
    tables.settings.flags = 0;
    tables.settings.stack_only = 1;
    pass(&tables, Side::Uplink, stranger());
    let unknown = Wire::tcp(at(OUTSIDER, 40_000), at(VIP, 9), SYN).bytes();
    assert_eq!(send(&tables, Side::Uplink, unknown).0, Verdict::Reflect);
    tables.settings.stack_only = 0;
    tables.settings.authoritative = 0;
    pass(&tables, Side::Uplink, stranger());
    assert!(tables.other_sources.borrow().len() == 1);
}
