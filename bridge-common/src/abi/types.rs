//! What several tables have in common.

/// An IPv4 address in network order.
pub type Ipv4 = [u8; 4];

/// Seconds of `CLOCK_MONOTONIC`.
pub type Seconds = u32;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Seconds from `then` to `now`; an entry that another CPU touched a moment later is 0 s old.
#[must_use]
#[inline]
pub const fn since(now: Seconds, then: Seconds) -> Seconds {
    now.saturating_sub(then)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_read_before_the_entry_was_touched_is_no_age() {
        assert_eq!(since(10, 11), 0);
    }
}
