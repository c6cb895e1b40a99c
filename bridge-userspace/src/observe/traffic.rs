//! Counters as people understand them.

use bridge_common::abi::Counter;
use bridge_common::counters::Count;

/// A counter as people understand it: what was forwarded in a direction includes what XDP has forwarded, which the
/// datapath counts apart.
#[must_use]
pub fn total(count: impl Fn(Count) -> Counter, what: Count) -> Counter {
    let sum = |a: Counter, b: Counter| Counter {
        packets: a.packets + b.packets,
        bytes: a.bytes + b.bytes,
    };
    match what {
        Count::ToBackend => sum(count(what), count(Count::XdpToBackend)),
        Count::ToClient => sum(count(what), count(Count::XdpToClient)),
        _ => count(what),
    }
}
