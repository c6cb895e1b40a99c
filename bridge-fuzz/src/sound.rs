//! What may have become of a packet.

use bridge_common::packet::QUOTE_MAX;
use bridge_common::packet::parse::{ICMP, TCP, UDP, tcp_flag};
use bridge_common::sim::SimPacket;
use bridge_common::verdict::Verdict;

use crate::packet::{View, checksum_at, fold, pseudo, sum};

/// Checks a packet and what became of it.
///
/// # Panics
/// When that must not be.
pub fn outcome(verdict: Verdict, before: &SimPacket, after: &SimPacket) {
    match verdict {
        Verdict::Pass | Verdict::ToStack => {
            assert_eq!(before.bytes, after.bytes, "what passes is untouched");
        }
        Verdict::Forward { .. } => translated(before, after, 1),
        Verdict::Continue => translated(before, after, 0),
        Verdict::Reflect => reply(before, after),
        // The frame is kept as it is.
        Verdict::Held | Verdict::Drop(_) => {}
        Verdict::LocalReply(_) | Verdict::Reject(..) | Verdict::SlowPath(_) => {
            panic!("{verdict:?} is for another stage")
        }
    }
}

/// Whether the checksum of the IPv4 header is right.
#[must_use]
pub fn has_sound_header(packet: &View) -> bool {
    fold(sum(&packet.bytes[..packet.header_len])) == 0xFFFF
}

/// Whether the transport checksum is right; `None` where that can't be said.
#[must_use]
pub fn has_sound_transport(packet: &View, is_partial: bool) -> Option<bool> {
    let (protocol, transport) = (packet.protocol(), packet.transport());
    let at = checksum_at(protocol)?;
    let field = transport.get(at..at + 2)?;
    if packet.fragment() != 0 {
        return None;
    }
    let pseudo = pseudo(
        protocol,
        packet.source(),
        packet.destination(),
        transport.len(),
    );
    if is_partial {
        return (protocol != ICMP).then(|| sum(field) == u32::from(fold(pseudo)));
    }
    if protocol == UDP && field == [0, 0] {
        return None;
    }
    Some(fold(pseudo + sum(transport)) == 0xFFFF)
}

/// Checks a packet that was translated and has lost `hops` of its TTL.
///
/// # Panics
/// When it has changed where it must not have, or is no longer sound.
pub fn translated(before: &SimPacket, after: &SimPacket, hops: u8) {
    assert_eq!(before.bytes.len(), after.bytes.len(), "the length stays");
    let old = View::of(&before.bytes).expect("only what is IPv4 is translated");
    let new = View::of(&after.bytes).expect("what was IPv4 is so still");
    assert_eq!(old.bytes[..8], new.bytes[..8], "lengths and fragments stay");
    assert_eq!(
        old.bytes[8].checked_sub(hops),
        Some(new.bytes[8]),
        "time to live"
    );
    assert_eq!(old.protocol(), new.protocol());
    assert_eq!(
        old.bytes[20..old.header_len],
        new.bytes[20..new.header_len],
        "IPv4 options stay"
    );
    assert_eq!(
        old.bytes[old.total_len..],
        new.bytes[new.total_len..],
        "padding stays"
    );
    keeps_soundness(&old, &new, before.checksum_is_partial);
    content(&old, &new);
}

fn keeps_soundness(old: &View, new: &View, is_partial: bool) {
    if has_sound_header(old) {
        assert!(has_sound_header(new), "IPv4 header checksum");
    }
    if has_sound_transport(old, is_partial) == Some(true) {
        assert_eq!(
            has_sound_transport(new, is_partial),
            Some(true),
            "transport checksum"
        );
    }
    if old.protocol() == UDP && old.transport().get(6..8) == Some(&[0, 0]) && old.fragment() == 0 {
        assert!(
            is_partial || new.transport()[6..8] == [0, 0],
            "no checksum stays none"
        );
    }
}

/// Checks that the translation has written to addresses, ports and checksums alone.
fn content(old: &View, new: &View) {
    let (before, after) = (old.transport(), new.transport());
    if old.is_later_fragment() {
        assert_eq!(before, after, "a later fragment has no header to write to");
        return;
    }
    let may_change: &[std::ops::Range<usize>] = match old.protocol() {
        // A SYN's MSS may be lowered, wherever it stands among the options.
        TCP if before
            .get(13)
            .is_some_and(|flags| flags & tcp_flag::SYN != 0) =>
        {
            &[0..4, 16..18, 20..60]
        }
        TCP => &[0..4, 16..18],
        UDP => &[0..4, 6..8],
        ICMP if old.is_icmp_error() => return quoted(before, after),
        ICMP => &[2..4, 4..6],
        _ => &[],
    };
    for (at, (old, new)) in before.iter().zip(after).enumerate() {
        let may = may_change.iter().any(|range| range.contains(&at));
        assert!(may || old == new, "byte {at} of the transport has changed");
    }
}

/// Checks the packet that a translated ICMP error quotes.
fn quoted(before: &[u8], after: &[u8]) {
    assert_eq!(before[..2], after[..2], "type and code stay");
    assert_eq!(before[4..8], after[4..8], "what an ICMP error says stays");
    let (Some(old), Some(new)) = (View::of(&before[8..]), View::of(&after[8..])) else {
        panic!("what is quoted can be read");
    };
    assert_eq!(old.bytes[..10], new.bytes[..10]);
    if has_sound_header(&old) {
        assert!(has_sound_header(&new), "checksum of the quoted header");
    }
    let is_whole = sum(&old.bytes[2..4]) as usize == old.bytes.len();
    if is_whole && has_sound_transport(&old, false) == Some(true) {
        assert_eq!(
            has_sound_transport(&new, false),
            Some(true),
            "quoted transport checksum"
        );
    }
}

/// Checks a packet that was turned into a reply to its sender.
///
/// # Panics
/// When there must be no such reply.
pub fn reply(before: &SimPacket, after: &SimPacket) {
    let old = View::of(&before.bytes).expect("only IPv4 is answered");
    let new = View::of(&after.bytes).expect("an answer is IPv4");
    assert_eq!(
        new.destination(),
        old.source(),
        "an answer goes to the sender"
    );
    let is_echo = new.protocol() == ICMP && new.is_later_fragment()
        || new.protocol() == ICMP && new.transport().first() == Some(&0);
    if is_echo {
        assert_eq!(new.source(), old.destination());
        assert_eq!(before.bytes.len(), after.bytes.len());
        assert_eq!(old.transport().get(4..), new.transport().get(4..));
        keeps_soundness(&old, &new, false);
        return;
    }
    assert_eq!(new.total_len, new.bytes.len(), "nothing follows an answer");
    assert_eq!(
        sum(&new.bytes[2..4]) as usize,
        new.total_len,
        "total length"
    );
    assert!(has_sound_header(&new), "IPv4 header checksum of an answer");
    assert!(
        !old.is_later_fragment(),
        "nobody is told of a later fragment"
    );
    if new.protocol() == TCP {
        let (from, to) = old.endpoints();
        assert_eq!(new.endpoints(), (to, from), "a reset goes back");
        assert_eq!(
            old.transport()[13] & tcp_flag::RST,
            0,
            "no reset for a reset"
        );
        assert_ne!(new.transport()[13] & tcp_flag::RST, 0);
        assert_eq!(
            has_sound_transport(&new, after.checksum_is_partial),
            Some(true),
            "checksum of a reset"
        );
        return;
    }
    assert!(new.is_icmp_error());
    // RFC 1122 section 3.2.2.
    assert!(!old.is_icmp_error(), "no ICMP error about an ICMP error");
    let quote = &new.transport()[8..];
    let len = old.total_len.min(QUOTE_MAX as usize);
    assert_eq!(quote, &old.bytes[..len], "an error quotes what was sent");
    if !after.checksum_is_partial {
        assert_eq!(
            has_sound_transport(&new, false),
            Some(true),
            "checksum of an error"
        );
    }
}
