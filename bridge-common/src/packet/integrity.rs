//! Whether a TCP segment arrived as it was sent. Only what may end or establish a connection is looked at: it has no
//! payload as a rule.

use network_types::tcp::TcpHdr;

use crate::packet::Packet;
use crate::packet::checksum::pseudo_header;
use crate::packet::parse::{Datagram, TCP, checksum_offset};

/// Bytes of the longest TCP header (RFC 9293 section 3.1).
const LONGEST_HEADER: u32 = 60;

/// Whether the checksum of a TCP segment without payload is right, or left to a network card (`CHECKSUM_PARTIAL`): it is the
/// sum of the pseudo-header then. Of a segment with payload, or of a fragment, nothing is known: `true`.
#[inline(always)]
pub fn has_sound_tcp_checksum<P: Packet>(packet: &P) -> bool {
    is_sound(packet).unwrap_or(true)
}

#[inline(always)]
fn is_sound<P: Packet>(packet: &P) -> Option<bool> {
    let datagram = Datagram::parse(packet).filter(|datagram| !datagram.is_fragment())?;
    let start = datagram.header_len;
    let len = datagram.total_len.checked_sub(start)?;
    if datagram.protocol() != TCP || !(TcpHdr::LEN as u32..=LONGEST_HEADER).contains(&len) {
        return None;
    }
    let [offset] = packet.load::<1>(start + 12).ok()?;
    if u32::from(offset >> 4) * 4 != len {
        return None;
    }
    let pseudo = pseudo_header(datagram.source(), datagram.destination(), TCP, len as u16);
    let mut sum = pseudo;
    let mut at = 0;
    while at < LONGEST_HEADER {
        if at >= len {
            break;
        }
        sum = sum.add(&packet.load::<4>(start + at).ok()?);
        at += 4;
    }
    let field = packet.load::<2>(start + checksum_offset(TCP)).ok()?;
    Some(sum.fold() == 0xFFFF || u16::from_ne_bytes(field) == pseudo.fold())
}
