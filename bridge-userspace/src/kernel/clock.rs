//! The datapath's clock.

use bridge_common::abi::Seconds;
use nix::time::{ClockId, clock_gettime};

/// Seconds of `CLOCK_MONOTONIC`, which all times in the tables are given in.
#[must_use]
pub fn now() -> Seconds {
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .ok()
        .and_then(|time| Seconds::try_from(time.tv_sec()).ok())
        .unwrap_or_default()
}
