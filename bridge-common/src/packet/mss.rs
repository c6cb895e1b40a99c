//! Clamping the maximum segment size that a SYN announces (RFC 9293 section 3.7.1).
//!
//! Both ends learn the overlay's MTU from it and never send a segment that would not fit.

use crate::packet::checksum::Difference;
use crate::packet::parse::{TCP, checksum_offset};
use crate::packet::{ChecksumKind, OutOfBounds, Packet};

const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: u8 = 2;
const TCP_HEADER: u32 = 20;
const HEADERS: u32 = 20 + TCP_HEADER;

/// Options looked at. The MSS comes first from every stack in use; 40 bytes hold no more than this
/// many options worth having.
const MAX_OPTIONS: u32 = 12;

/// Lowers the MSS option of the SYN at `offset`, whose header is `header_len` bytes long, to what
/// fits into `mtu` bytes. A SYN without the option is left alone: its sender gets 536.
///
/// # Errors
/// When the packet can't be written.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn clamp<P: Packet>(
    packet: &mut P,
    offset: u32,
    header_len: u32,
    mtu: u32,
) -> Result<(), OutOfBounds> {
    let Some(at) = find(packet, offset + TCP_HEADER, offset + header_len)? else {
        return Ok(());
    };
    let largest = mtu.saturating_sub(HEADERS).clamp(1, 0xFFFF) as u16;
    lower(packet, offset, at, largest)
}

/// Where the value of the MSS option stands, between `at` and `end`.
#[inline(always)]
fn find<P: Packet>(packet: &P, mut at: u32, end: u32) -> Result<Option<u32>, OutOfBounds> {
    for _ in 0..MAX_OPTIONS {
        if at + 4 > end {
            break;
        }
        let [kind, len] = packet.load::<2>(at)?;
        match kind {
            END_OF_OPTIONS => break,
            NO_OPERATION => at += 1,
            MAXIMUM_SEGMENT_SIZE if len == 4 => return Ok(Some(at + 2)),
            _ if len < 2 => break,
            _ => at += u32::from(len),
        }
    }
    Ok(None)
}

#[inline(always)]
fn lower<P: Packet>(packet: &mut P, tcp: u32, at: u32, largest: u16) -> Result<(), OutOfBounds> {
    let announced = packet.load::<2>(at)?;
    if u16::from_be_bytes(announced) <= largest {
        return Ok(());
    }
    let clamped = largest.to_be_bytes();
    packet.store(at, &clamped)?;
    // An option after an odd number of NOPs straddles two words of the sum: swapped bytes sum up the same.
    let payload = if (at - tcp).is_multiple_of(2) {
        Difference::default().replace(announced, clamped)
    } else {
        Difference::default().replace([announced[1], announced[0]], [clamped[1], clamped[0]])
    };
    packet.update_checksum(
        tcp + checksum_offset(TCP),
        Difference::default(),
        payload,
        ChecksumKind::Plain,
    )
}
