//! TCP states: what each direction has shown, and what both together mean.
//!
//! The state machine is RFC 6146 section 3.5.2 and RFC 7857 section 2 without windows: a translator
//! that second-guesses sequence numbers breaks connections that both ends find fine.

use crate::packet::parse::tcp_flag;

/// What one direction has shown so far; the bits of `tcp_seen` in the tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen(pub u8);

impl Seen {
    /// A SYN.
    pub const SYN: u8 = 1;
    /// A segment that acknowledges and is no SYN: this side has seen the other's SYN.
    pub const ACK: u8 = 2;
    /// A FIN.
    pub const FIN: u8 = 4;
    /// A reset.
    pub const RST: u8 = 8;
    /// The last segment wants an answer: unlike the others, this bit goes with the next segment that wants none.
    pub const ASKS: u8 = 16;
    /// The other side was the first to close, so that it keeps the connection in TIME-WAIT, or has reset it. Kept of the
    /// backend only.
    pub const CLOSED_BY_OTHER: u8 = 32;

    /// This and what a segment with `flags` shows.
    #[must_use]
    #[inline]
    pub const fn and(self, flags: u8) -> Self {
        // Traffic after a reset says that the reset was none: stray or forged (RFC 6146 section 3.5.2.2, TRANS).
        let mut seen = if flags & tcp_flag::RST == 0 {
            self.0 & !Self::RST
        } else {
            self.0
        };
        if flags & tcp_flag::SYN != 0 {
            seen |= Self::SYN;
        } else if flags & tcp_flag::ACK != 0 && flags & tcp_flag::RST == 0 {
            seen |= Self::ACK;
        }
        if flags & tcp_flag::FIN != 0 {
            seen |= Self::FIN;
        }
        if flags & tcp_flag::RST != 0 {
            seen |= Self::RST;
        }
        Self(seen)
    }

    #[inline]
    const fn has(self, bits: u8) -> bool {
        self.0 & bits != 0
    }
}

/// The state of a connection, judged by both of its directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The handshake is not finished.
    Opening,
    /// Data may flow, in one direction at least.
    Established,
    /// Both sides have said that they are done.
    Closing,
    /// One side has reset it.
    Reset,
}

impl State {
    /// The state that `client` and `backend` have shown together.
    #[must_use]
    #[inline]
    pub const fn of(client: Seen, backend: Seen) -> Self {
        if client.has(Seen::RST) || backend.has(Seen::RST) {
            Self::Reset
        } else if client.has(Seen::FIN) && backend.has(Seen::FIN) {
            Self::Closing
        } else if client.has(Seen::ACK) && backend.has(Seen::SYN | Seen::ACK) {
            Self::Established
        } else {
            Self::Opening
        }
    }

    /// Whether a SYN on the same tuple starts another connection.
    #[must_use]
    #[inline]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Closing | Self::Reset)
    }

    /// The name that commands show.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Reset => "reset",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::parse::tcp_flag::{ACK, FIN, RST, SYN};

    fn seen(segments: &[u8]) -> Seen {
        segments
            .iter()
            .fold(Seen::default(), |seen, &flags| seen.and(flags))
    }

    #[test]
    fn a_handshake_establishes_only_when_the_client_has_acknowledged() {
        assert_eq!(State::of(seen(&[SYN]), seen(&[])), State::Opening);
        assert_eq!(State::of(seen(&[SYN]), seen(&[SYN | ACK])), State::Opening);
        assert_eq!(
            State::of(seen(&[SYN, ACK]), seen(&[SYN | ACK])),
            State::Established
        );
    }

    #[test]
    fn a_half_closed_connection_stays_established() {
        let client = seen(&[SYN, ACK, FIN | ACK]);
        assert_eq!(
            State::of(client, seen(&[SYN | ACK, ACK])),
            State::Established
        );
        assert_eq!(
            State::of(client, seen(&[SYN | ACK, FIN | ACK])),
            State::Closing
        );
    }

    #[test]
    fn a_reset_from_either_side_ends_it() {
        let open = seen(&[SYN, ACK]);
        assert_eq!(State::of(open, seen(&[SYN | ACK, RST])), State::Reset);
        assert_eq!(
            State::of(seen(&[SYN, ACK, RST]), seen(&[SYN | ACK])),
            State::Reset
        );
        assert!(State::Reset.is_over() && State::Closing.is_over());
        assert!(!State::Opening.is_over() && !State::Established.is_over());
    }

    #[test]
    fn a_reset_that_traffic_follows_was_none() {
        let client = seen(&[SYN, ACK, RST, ACK]);
        assert_eq!(
            State::of(client, seen(&[SYN | ACK, ACK])),
            State::Established
        );
    }

    #[test]
    fn a_simultaneous_open_establishes() {
        // RFC 5382 REQ-2a: both sides send a SYN before either acknowledges.
        assert_eq!(
            State::of(seen(&[SYN, SYN | ACK, ACK]), seen(&[SYN, ACK])),
            State::Established
        );
    }
}
