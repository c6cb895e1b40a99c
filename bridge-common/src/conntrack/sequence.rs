//! Which TCP segments are believed. Whoever does not see a connection can't guess where it stands: a segment that ends or
//! establishes one must say so by its numbers.
//!
//! Every segment is translated whether or not it is believed: the ends judge better (RFC 9293 section 3.10.7.4), and
//! challenge a reset that they doubt (RFC 5961 section 3). One that is not believed changes nothing here.

use crate::conntrack::tcp_state::Seen;
use crate::packet::parse::{Datagram, Transport, tcp_flag};

/// How far from the expected a segment may begin, in bytes: what may have been lost on the way here, or is sent again.
const GAP: u32 = 1 << 18;

/// The same where more depends on it: for a reset, and for what the last step of a handshake acknowledges.
const NARROW_GAP: u32 = 1 << 16;

/// More than the payload of any segment, in bytes, also of those that the kernel has put together (BIG TCP).
const MAX_SEGMENT: u32 = 1 << 20;

/// How far an acknowledgement may be behind what the other side has sent, in bytes: what may be under way.
const LAG: u32 = 1 << 22;

/// What is known of one direction of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Direction {
    /// What it has shown, of [`Seen`].
    pub seen: Seen,
    /// The sequence number after the last one that was sent (SND.NXT, RFC 9293 section 3.3.1).
    pub next: u32,
}

/// The numbers of a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// TCP flags.
    pub flags: u8,
    /// The sequence number of its first byte, or of its SYN.
    pub sequence: u32,
    /// What it acknowledges, if it has the flag.
    pub acknowledgement: u32,
    /// Bytes of payload.
    pub payload: u32,
}

impl Segment {
    const fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }

    /// The numbers of a packet.
    #[must_use]
    #[inline(always)]
    pub fn of(datagram: &Datagram, transport: &Transport) -> Self {
        let headers = datagram.header_len + transport.header_len;
        Self {
            flags: transport.tcp_flags,
            sequence: transport.sequence,
            acknowledgement: transport.acknowledgement,
            payload: datagram.total_len.saturating_sub(headers),
        }
    }

    /// The sequence number after it; SYN and FIN have one each.
    #[must_use]
    #[inline(always)]
    pub const fn end(&self) -> u32 {
        self.sequence
            .wrapping_add(self.payload)
            .wrapping_add(self.has(tcp_flag::SYN) as u32)
            .wrapping_add(self.has(tcp_flag::FIN) as u32)
    }

    /// Whether it acknowledges what `other` has sent, but for the last `lag` bytes at most.
    const fn acknowledges(&self, other: Direction, lag: u32) -> bool {
        self.has(tcp_flag::ACK) && other.next.wrapping_sub(self.acknowledgement) < lag
    }

    /// Whether it begins where it may be expected, give or take `gap` bytes.
    const fn is_near(&self, own: Direction, gap: u32) -> bool {
        let ahead = self.sequence.wrapping_sub(own.next);
        ahead < gap || ahead.wrapping_neg() < gap
    }
}

/// Whether nothing comes of a segment but that the direction goes on: the case of almost all.
#[must_use]
#[inline(always)]
pub const fn is_plain(own: Direction, segment: &Segment) -> bool {
    const SPECIAL: u8 = tcp_flag::SYN | tcp_flag::FIN | tcp_flag::RST;
    let unexpected = if segment.payload == 0 {
        Seen::RST
    } else {
        Seen::RST | Seen::FIN
    };
    segment.flags & SPECIAL == 0
        && own.seen.0 & (Seen::ACK | unexpected) == Seen::ACK
        && segment.sequence == own.next
}

/// Whether it ends or establishes something, if it is believed.
#[must_use]
#[inline(always)]
pub const fn is_decisive(own: Direction, segment: &Segment) -> bool {
    segment.flags & (tcp_flag::FIN | tcp_flag::RST) != 0
        || (segment.flags & tcp_flag::SYN == 0 && own.seen.0 & Seen::ACK == 0)
}

/// Whether it is the SYN-ACK once more: what should have acknowledged the first has not arrived, or was none.
#[must_use]
#[inline(always)]
pub const fn repeats_handshake(own: Direction, segment: &Segment) -> bool {
    const SYN_ACK: u8 = tcp_flag::SYN | tcp_flag::ACK;
    segment.flags & (SYN_ACK | tcp_flag::RST) == SYN_ACK
        && own.seen.0 & (Seen::SYN | Seen::ACK) == Seen::SYN
        && segment.end() == own.next
}

/// What a direction has shown with this segment; `None` if that is nothing new, or not believed.
#[must_use]
#[inline(always)]
pub const fn follow(own: Direction, other: Direction, segment: &Segment) -> Option<Direction> {
    let (after, is_believed) = if segment.has(tcp_flag::RST) {
        (own.ended(segment), is_reset(own, other, segment))
    } else if segment.has(tcp_flag::SYN) {
        (own.began(segment), is_beginning(own, other, segment))
    } else if own.has_begun() {
        (own.went_on(segment), is_continuation(own, other, segment))
    } else {
        // Of a connection that was under way before anybody here saw it.
        (own.went_on(segment), true)
    };
    if is_believed { Some(after) } else { None }
}

const fn is_reset(own: Direction, other: Direction, segment: &Segment) -> bool {
    if !own.has_begun() {
        // Refused: what it answers is the SYN (RFC 9293 section 3.10.7.3).
        return segment.has(tcp_flag::ACK) && segment.acknowledgement == other.next;
    }
    segment.sequence == own.next
        || (segment.is_near(own, NARROW_GAP) && segment.acknowledges(other, LAG))
}

const fn is_beginning(own: Direction, other: Direction, segment: &Segment) -> bool {
    if segment.has(tcp_flag::ACK) {
        !own.has_begun() && segment.acknowledges(other, NARROW_GAP)
    } else {
        // Nobody has accepted the earlier one.
        own.seen.0 & Seen::ACK == 0
    }
}

const fn is_continuation(own: Direction, other: Direction, segment: &Segment) -> bool {
    let is_established = own.seen.0 & Seen::ACK != 0;
    if is_established && !segment.has(tcp_flag::FIN) && segment.sequence == own.next {
        return true;
    }
    let lag = if is_established { LAG } else { NARROW_GAP };
    segment.is_near(own, GAP) && segment.acknowledges(other, lag)
}

impl Direction {
    const fn has_begun(self) -> bool {
        self.seen.0 & (Seen::SYN | Seen::ACK) != 0
    }

    const fn began(self, segment: &Segment) -> Self {
        Self {
            seen: Seen(self.seen.0 | Seen::SYN),
            next: segment.end(),
        }
    }

    const fn ended(self, segment: &Segment) -> Self {
        Self {
            seen: Seen(self.seen.0 | Seen::RST),
            next: if self.has_begun() {
                self.next
            } else {
                segment.end()
            },
        }
    }

    /// This direction after a segment without SYN and RST. What follows a reset, or an end, says that it was none
    /// (RFC 6146 section 3.5.2.2, TRANS).
    const fn went_on(self, segment: &Segment) -> Self {
        let end = segment.end();
        let is_ahead = !self.has_begun() || end.wrapping_sub(self.next) < GAP + MAX_SEGMENT;
        let is_new = is_ahead && end != self.next;
        let mut seen = self.seen.0 & !Seen::RST;
        if is_new {
            seen &= !Seen::FIN;
        }
        // What comes with data is told by what comes after it: a checksum over data costs too much.
        if segment.has(tcp_flag::ACK) && (segment.payload == 0 || !self.is_opening()) {
            seen |= Seen::ACK;
        }
        if segment.has(tcp_flag::FIN) {
            seen |= Seen::FIN;
        }
        Self {
            seen: Seen(seen),
            next: if is_ahead { end } else { self.next },
        }
    }

    const fn is_opening(self) -> bool {
        self.seen.0 & (Seen::SYN | Seen::ACK) == Seen::SYN
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conntrack::tcp_state::State;
    use crate::packet::parse::tcp_flag::{ACK, FIN, RST, SYN};

    const CLIENT: u32 = 0xFFFF_FF00;
    const SERVER: u32 = 5_000;

    fn segment(flags: u8, sequence: u32, acknowledgement: u32, payload: u32) -> Segment {
        Segment {
            flags,
            sequence,
            acknowledgement,
            payload,
        }
    }

    /// Both directions, the client's first.
    #[derive(Clone, Copy)]
    struct Connection([Direction; 2]);

    impl Connection {
        fn established() -> Self {
            let mut this = Self([Direction::default(); 2]);
            assert!(this.take(0, segment(SYN, CLIENT, 0, 0)));
            assert!(this.take(1, segment(SYN | ACK, SERVER, CLIENT + 1, 0)));
            assert!(this.take(0, segment(ACK, CLIENT + 1, SERVER + 1, 0)));
            this
        }

        /// Whether the segment of that side was believed.
        fn take(&mut self, side: usize, segment: Segment) -> bool {
            let after = follow(self.0[side], self.0[1 - side], &segment);
            self.0[side] = after.unwrap_or(self.0[side]);
            after.is_some()
        }

        fn state(&self) -> State {
            State::of(self.0[0].seen, self.0[1].seen)
        }
    }

    #[test]
    fn a_handshake_establishes_with_the_clients_acknowledgement() {
        assert_eq!(Connection::established().state(), State::Established);
    }

    #[test]
    fn a_reset_is_believed_where_its_sender_is() {
        for side in [0, 1] {
            let mut connection = Connection::established();
            let next = connection.0[side].next;
            for offset in [1, u32::MAX, 1 << 15, 1 << 31] {
                let blind = segment(RST, next.wrapping_add(offset), 0, 0);
                assert!(!connection.take(side, blind));
                let guessed = segment(RST | ACK, blind.sequence, 0x8000_0000, 0);
                assert!(!connection.take(side, guessed));
            }
            assert_eq!(connection.state(), State::Established);
            assert!(connection.take(side, segment(RST, next, 0, 0)));
            assert_eq!(connection.state(), State::Reset);
        }
    }

    #[test]
    fn a_reset_after_lost_data_is_believed_by_what_it_acknowledges() {
        let mut connection = Connection::established();
        let reset = segment(RST | ACK, SERVER + 1 + 14_600, CLIENT + 1, 0);
        assert!(connection.take(1, reset));
    }

    #[test]
    fn traffic_after_a_reset_says_that_it_was_none() {
        let mut connection = Connection::established();
        assert!(connection.take(1, segment(RST, SERVER + 1, 0, 0)));
        assert!(connection.take(1, segment(ACK, SERVER + 1, CLIENT + 1, 100)));
        assert_eq!(connection.state(), State::Established);
    }

    #[test]
    fn only_the_clients_own_syn_is_refused() {
        let mut connection = Connection([Direction::default(); 2]);
        connection.take(0, segment(SYN, CLIENT, 0, 0));
        assert!(!connection.take(1, segment(RST, 0, 0, 0)));
        assert!(!connection.take(1, segment(RST | ACK, 0, CLIENT, 0)));
        assert!(connection.take(1, segment(RST | ACK, 0, CLIENT + 1, 0)));
        assert_eq!(connection.state(), State::Reset);
    }

    #[test]
    fn an_end_is_believed_within_what_may_be_under_way() {
        let mut connection = Connection::established();
        assert!(!connection.take(0, segment(FIN | ACK, CLIENT + 1, SERVER + 2, 0)));
        assert!(!connection.take(0, segment(FIN | ACK, CLIENT ^ 0x4000_0000, SERVER + 1, 0)));
        assert!(connection.take(0, segment(FIN | ACK, CLIENT + 1, SERVER + 1, 10)));
        assert_eq!(connection.0[0].next, CLIENT + 12);
        assert_eq!(connection.state(), State::Established);
        // Data before it was lost on the way here.
        assert!(connection.take(1, segment(FIN | ACK, SERVER + 30_001, CLIENT + 12, 0)));
        assert_eq!(connection.state(), State::Closing);
        // What is sent again changes nothing.
        connection.take(0, segment(FIN | ACK, CLIENT + 1, SERVER + 1, 10));
        connection.take(0, segment(ACK, CLIENT + 12, SERVER + 30_002, 0));
        assert_eq!(connection.state(), State::Closing);
    }

    #[test]
    fn data_behind_an_end_says_that_it_was_none() {
        let mut connection = Connection::established();
        assert!(connection.take(1, segment(FIN | ACK, SERVER + 1, CLIENT + 1, 0)));
        assert!(connection.take(1, segment(ACK, SERVER + 1, CLIENT + 1, 500)));
        assert_eq!(connection.0[1].seen.0 & Seen::FIN, 0);
        assert_eq!(connection.0[1].next, SERVER + 501);
    }

    #[test]
    fn nobody_establishes_what_was_not_offered() {
        let offered = |acknowledgement, payload| {
            let mut connection = Connection([Direction::default(); 2]);
            connection.take(0, segment(SYN, CLIENT, 0, 0));
            connection.take(1, segment(SYN | ACK, SERVER, CLIENT + 1, 0));
            connection.take(0, segment(ACK, CLIENT + 1, acknowledgement, payload));
            connection
        };
        assert_eq!(offered(SERVER + 1, 0).state(), State::Established);
        for wrong in [SERVER + 2, SERVER.wrapping_sub(NARROW_GAP), 0xDEAD_BEEF] {
            assert_eq!(offered(wrong, 0).state(), State::Opening);
        }
        let mut with_data = offered(SERVER + 1, 10);
        assert_eq!(with_data.state(), State::Opening);
        assert!(with_data.take(0, segment(ACK, CLIENT + 11, SERVER + 1, 0)));
        assert_eq!(with_data.state(), State::Established);
    }

    #[test]
    fn a_second_syn_ack_says_that_the_first_was_not_acknowledged() {
        let connection = Connection::established();
        let again = segment(SYN | ACK, SERVER, CLIENT + 1, 0);
        assert!(repeats_handshake(connection.0[1], &again));
        let other = segment(SYN | ACK, SERVER + 9, CLIENT + 1, 0);
        assert!(!repeats_handshake(connection.0[1], &other));
        let mut used = connection;
        used.take(1, segment(ACK, SERVER + 1, CLIENT + 1, 5));
        assert!(!repeats_handshake(used.0[1], &again));
    }

    #[test]
    fn a_client_may_try_again_from_another_number() {
        let mut connection = Connection([Direction::default(); 2]);
        connection.take(0, segment(SYN, CLIENT, 0, 0));
        connection.take(0, segment(SYN, 9_000, 0, 0));
        assert!(connection.take(1, segment(SYN | ACK, SERVER, 9_001, 0)));
        assert!(connection.take(0, segment(ACK, 9_001, SERVER + 1, 0)));
        assert_eq!(connection.state(), State::Established);
        connection.take(0, segment(SYN, 77, 0, 0));
        assert_eq!(connection.0[0].next, 9_001);
    }

    #[test]
    fn a_direction_is_found_again_after_lost_segments() {
        let mut connection = Connection::established();
        for (sequence, payload, next) in [
            (SERVER + 1, 1_000, SERVER + 1_001),
            // Sent again, in other pieces.
            (SERVER + 501, 1_000, SERVER + 1_501),
            (SERVER + 1, 100, SERVER + 1_501),
            (SERVER + 21_501, 1_460, SERVER + 22_961),
        ] {
            connection.take(1, segment(ACK, sequence, CLIENT + 1, payload));
            assert_eq!(connection.0[1].next, next);
        }
        let forged = segment(ACK, SERVER + 30_000, 12_345, 1_460);
        assert!(!connection.take(1, forged));
    }

    #[test]
    fn a_connection_that_was_under_way_is_followed_from_its_first_segment() {
        let mut connection = Connection([Direction::default(); 2]);
        assert!(connection.take(0, segment(ACK, 1_000, 2_000, 50)));
        assert!(connection.take(1, segment(ACK, 2_000, 1_050, 0)));
        assert_eq!(connection.state(), State::Established);
        assert!(!connection.take(1, segment(RST, 1, 0, 0)));
        assert!(connection.take(0, segment(RST, 1_050, 0, 0)));
    }

    #[test]
    fn almost_all_segments_are_plain() {
        let connection = Connection::established();
        let [client, _] = connection.0;
        assert!(is_plain(
            client,
            &segment(ACK, CLIENT + 1, SERVER + 1, 1_460)
        ));
        assert!(is_plain(client, &segment(ACK, CLIENT + 1, 0, 0)));
        for other in [
            segment(ACK, CLIENT + 2, SERVER + 1, 0),
            segment(FIN | ACK, CLIENT + 1, SERVER + 1, 0),
            segment(RST, CLIENT + 1, 0, 0),
            segment(SYN, CLIENT + 1, 0, 0),
        ] {
            assert!(!is_plain(client, &other));
        }
        let closed = Direction {
            seen: Seen(client.seen.0 | Seen::FIN),
            ..client
        };
        assert!(is_plain(closed, &segment(ACK, CLIENT + 1, SERVER + 1, 0)));
        assert!(!is_plain(closed, &segment(ACK, CLIENT + 1, SERVER + 1, 1)));
    }
}
