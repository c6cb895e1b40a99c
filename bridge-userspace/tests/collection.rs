//! What garbage collection removes from the real tables. Needs root, and BPF; where either is missing the test fails.

mod pinned;

use bridge_common::abi::{OtherSource, Seconds, SourceNetwork, name};
use bridge_userspace::conntrack::gc::GarbageCollector;
use bridge_userspace::conntrack::policy::Policy;
use bridge_userspace::datapath::Datapath;
use bridge_userspace::kernel::clock;
use bridge_userspace::maps::Tables;

use self::pinned::Pinned;

#[test]
fn a_network_that_is_not_the_offices_is_named_for_an_hour() {
    const HOUR: Seconds = 3_600;
    let pinned = Pinned::new("strangers");
    let _datapath =
        Datapath::load(pinned.pins(), 64).expect("root and a bpf filesystem are needed");
    let tables = Tables::open(pinned.pins()).unwrap();
    let mut known = tables
        .hash::<SourceNetwork, OtherSource>(name::OTHER_SOURCES)
        .unwrap();
    let network = |number| SourceNetwork::of([172, 16, number, 1]);
    for (number, age) in [(1, HOUR - 60), (2, HOUR)] {
        let seen = OtherSource {
            packets: 1,
            last_seen: clock::now().wrapping_sub(age),
            pad: 0,
        };
        known.insert(network(number), seen, 0).unwrap();
    }
    let collector = GarbageCollector::new(Tables::open(pinned.pins()).unwrap()).unwrap();
    collector.collect(&Policy::default()).unwrap();
    let named: Vec<(SourceNetwork, OtherSource)> = tables.read_all(name::OTHER_SOURCES).unwrap();
    let named: Vec<SourceNetwork> = named.into_iter().map(|(network, _)| network).collect();
    assert_eq!(named, [network(1)]);
}
