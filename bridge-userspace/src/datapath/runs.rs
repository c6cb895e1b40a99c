//! Whether a program that stands before ours takes all packets, found out by counting. What it does with them can't be asked,
//! but how often the kernel has run each of the two can.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use aya::programs::loaded_programs;
use aya::sys::{Stats, enable_stats};
use tracing::debug;

use crate::kernel::netlink::xdp_link;

/// How many packets have to be missed before that is believed: the counters are read one after the other.
const CERTAIN: u64 = 8;

/// A pair of programs at one hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pair {
    /// The interface.
    pub ifindex: u32,
    /// The program that stands before ours.
    pub other: u32,
    /// Ours.
    pub own: u32,
}

/// Counters of a [`Pair`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counted {
    /// Packets that the interface has received.
    received: u64,
    /// Runs of the other program, on whatever interface.
    other: u64,
    /// Runs of ours, on whatever interface.
    own: u64,
}

impl Counted {
    /// Whether the other program takes all packets; `None` while too few have come.
    fn takes_all_since(self, before: Self) -> Option<bool> {
        let is_certain = |now: u64, before: u64| now.saturating_sub(before) >= CERTAIN;
        if self.own > before.own {
            Some(false)
        } else if is_certain(self.received, before.received) && is_certain(self.other, before.other)
        {
            Some(true)
        } else {
            None
        }
    }
}

/// Counts runs while there is somebody to count.
#[derive(Debug, Default)]
pub struct Runs {
    /// The kernel counts as long as this is open, for a price per run.
    stats: Option<OwnedFd>,
    /// Where counting began, and what came of the last count.
    pairs: BTreeMap<Pair, (Counted, bool)>,
}

impl Runs {
    /// Counts for these pairs and no others, and says of each whether the other program takes all packets, as far as that
    /// is known.
    pub async fn count(&mut self, pairs: impl IntoIterator<Item = Pair>) -> BTreeMap<Pair, bool> {
        let mut before = std::mem::take(&mut self.pairs);
        for pair in pairs {
            let Some(now) = self.read(pair).await else {
                continue;
            };
            let (start, takes_all) = before.remove(&pair).unwrap_or((now, false));
            let next = match now.takes_all_since(start) {
                Some(takes_all) => (now, takes_all),
                None => (start, takes_all),
            };
            self.pairs.insert(pair, next);
        }
        if self.pairs.is_empty() {
            self.stats = None;
        }
        let known = self.pairs.iter();
        known
            .map(|(&pair, &(_, takes_all))| (pair, takes_all))
            .collect()
    }

    async fn read(&mut self, pair: Pair) -> Option<Counted> {
        if self.stats.is_none() {
            // Takes CAP_SYS_ADMIN, and kernel 5.8.
            match enable_stats(Stats::RunTime) {
                Ok(stats) => self.stats = Some(stats),
                Err(error) => debug!("runs of programs can't be counted: {error}"),
            }
            self.stats.as_ref()?;
        }
        let received = xdp_link(pair.ifindex).await.ok()?.received;
        let runs: BTreeMap<u32, u64> = loaded_programs()
            .filter_map(Result::ok)
            .map(|program| (program.id(), program.run_count()))
            .collect();
        Some(Counted {
            received,
            other: *runs.get(&pair.other)?,
            own: *runs.get(&pair.own)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(received: u64, other: u64, own: u64) -> Counted {
        Counted {
            received,
            other,
            own,
        }
    }

    #[test]
    fn a_program_that_gets_packets_and_leaves_none_takes_all() {
        let before = counted(100, 10, 5);
        let after = counted(100 + CERTAIN, 10 + CERTAIN, 5);
        assert_eq!(after.takes_all_since(before), Some(true));
    }

    #[test]
    fn a_single_packet_that_gets_to_ours_is_proof_of_the_contrary() {
        let before = counted(100, 10, 5);
        assert_eq!(counted(101, 11, 6).takes_all_since(before), Some(false));
        assert_eq!(counted(900, 800, 6).takes_all_since(before), Some(false));
    }

    #[test]
    fn too_few_packets_are_no_proof() {
        let before = counted(100, 10, 5);
        let silent = counted(100, 10, 5);
        assert_eq!(silent.takes_all_since(before), None);
        // It runs on other interfaces too.
        let elsewhere = counted(100, 10 + CERTAIN, 5);
        assert_eq!(elsewhere.takes_all_since(before), None);
        // XDP has taken them before either.
        let by_xdp = counted(100 + CERTAIN, 10, 5);
        assert_eq!(by_xdp.takes_all_since(before), None);
    }
}
