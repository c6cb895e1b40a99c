//! Fragments: only the first has ports, so they are remembered for the others (RFC 4787 REQ-14).
//!
//! A datagram's entry in `fragment_parts` is where the first and the others meet: whoever comes first puts it there, with
//! `BPF_NOEXIST`, and the other finds it. A later fragment is stored before it does so, so that the first, where it finds
//! that others wait, finds them too ([`crate::path::held`]).

use crate::abi::{Fragment, FragmentKey, FragmentParts, Part, PartsState, Seconds, since};
use crate::conntrack::fragment_parts::{self, Added};
use crate::drops::DropReason;
use crate::packet::Packet;
use crate::packet::parse::{Datagram, TCP, Transport};
use crate::tables::{Insertion, Slot, Tables};
use crate::verdict::PackedVerdict;

/// How long a first fragment is remembered. The kernel's own reassembly waits 30 s
/// (`net.ipv4.ipfrag_time`), but identifications repeat long before at today's packet rates.
pub const LIFETIME: Seconds = 10;

/// The largest IPv4 packet in bytes, and so the end of any datagram.
const MAX_LEN: u32 = 65_535;
/// Bytes of a TCP header without options.
const TCP_HEADER: u32 = 20;

/// What makes the fragments of one datagram one.
#[must_use]
#[inline(always)]
pub const fn key(datagram: &Datagram) -> FragmentKey {
    FragmentKey {
        source: datagram.source(),
        destination: datagram.destination(),
        identification: u16::from_be_bytes(datagram.ip.id),
        protocol: datagram.protocol(),
        pad: 0,
    }
}

/// Remembers what a first fragment says; any other packet has nothing to be remembered. For packets that the kernel has
/// put together and taken apart again: those come in order.
#[inline(always)]
pub fn remember<T: Tables>(tables: &T, datagram: &Datagram, transport: &Transport) {
    if datagram.is_first_fragment() {
        tables.insert_fragment(
            &key(datagram),
            &Fragment {
                source_port: transport.source_port,
                destination_port: transport.destination_port,
                seen: tables.now(),
            },
        );
    }
}

/// What the first fragment of this later one said.
#[inline(always)]
pub fn recall<T: Tables>(tables: &T, datagram: &Datagram) -> Option<Transport> {
    let first = tables.fragment(&key(datagram))?;
    (since(tables.now(), first.seen) < LIFETIME).then_some(Transport {
        source_port: first.source_port,
        destination_port: first.destination_port,
        ..Transport::default()
    })
}

/// The ports of a first fragment that ends within the TCP header. It is dropped for that, where it is ours.
#[inline(always)]
pub fn ports_of_tiny<P: Packet>(packet: &P, datagram: &Datagram) -> Option<Transport> {
    if datagram.protocol() != TCP || !datagram.is_first_fragment() {
        return None;
    }
    let [s0, s1, d0, d1] = packet.load(datagram.header_len).ok()?;
    Some(Transport {
        source_port: u16::from_be_bytes([s0, s1]),
        destination_port: u16::from_be_bytes([d0, d1]),
        ..Transport::default()
    })
}

/// Why a fragment must not go on, whatever else comes of its datagram: it reaches beyond the end of any, has an end
/// where no part can follow, or leaves a part of the TCP header to another one or would replace it (RFC 1858 section 3,
/// RFC 3128). Those of UDP and ICMP are no longer than the shortest part.
#[inline(always)]
pub fn malformed<P: Packet>(packet: &P, datagram: &Datagram) -> Option<DropReason> {
    let len = datagram.total_len - datagram.header_len;
    let start = u32::from(datagram.fragment_offset()) * 8;
    if start + datagram.total_len > MAX_LEN {
        return Some(DropReason::FragmentOverlap);
    }
    let has_bad_end = len == 0 || (datagram.has_more_fragments() && !len.is_multiple_of(8));
    let cuts_header = datagram.protocol() == TCP
        && if start == 0 {
            !has_tcp_header(packet, datagram.header_len, len)
        } else {
            start < TCP_HEADER
        };
    (has_bad_end || cuts_header).then_some(DropReason::FragmentTiny)
}

#[inline(always)]
fn has_tcp_header<P: Packet>(packet: &P, offset: u32, len: u32) -> bool {
    len >= TCP_HEADER
        && packet
            .load::<1>(offset + 12)
            .is_ok_and(|[words]| u32::from(words >> 4) * 4 <= len)
}

/// Whether a fragment may go on: [`PackedVerdict::CONTINUE`], [`PackedVerdict::RELEASE_FRAGMENTS`] for a first that others
/// wait for, or a drop. Remembers `ports`, the source port in the upper half, of a first one. To be asked when nothing else
/// can come in its way, and before anything is written.
///
/// `settled` is the [`PartsState`] of a datagram whose first goes on. Where it is not [`PartsState::Open`] it is for others
/// to judge: mostly the kernel goes on with it, and it may come by here again.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn admit<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    ports: u32,
    settled: u8,
) -> PackedVerdict {
    let Some(datagram) = Datagram::parse(packet) else {
        return PackedVerdict::CONTINUE;
    };
    let is_ours = settled == PartsState::Open as u8;
    if is_ours && let Some(reason) = malformed(packet, &datagram) {
        return PackedVerdict::drop(reason);
    }
    let start = datagram.fragment_offset();
    let len = datagram.total_len - datagram.header_len;
    let part = Part {
        start,
        end: start + len.div_ceil(8) as u16,
    };
    if datagram.is_later_fragment() {
        let is_last = !datagram.has_more_fragments();
        if is_ours {
            return admit_later(tables, &key(&datagram), part, is_last);
        }
        return PackedVerdict::CONTINUE;
    }
    admit_first(tables, &key(&datagram), part, ports, settled)
}

#[inline(always)]
fn admit_later<T: Tables>(
    tables: &T,
    key: &FragmentKey,
    part: Part,
    is_last: bool,
) -> PackedVerdict {
    let Some(slot) = tables.fragment_parts(key) else {
        return PackedVerdict::CONTINUE;
    };
    let added = slot.with(|parts| {
        if is_noted(parts.state) {
            fragment_parts::add(parts, part, is_last)
        } else {
            Added::Noted
        }
    });
    match added {
        Added::Overlaps => return PackedVerdict::drop(DropReason::FragmentOverlap),
        // The identification may be another datagram's now.
        Added::Completes => forget(tables, key),
        Added::Noted => {}
    }
    PackedVerdict::CONTINUE
}

#[inline(always)]
const fn is_noted(state: u8) -> bool {
    state == PartsState::Open as u8 || state == PartsState::Announced as u8
}

#[inline(always)]
fn forget<T: Tables>(tables: &T, key: &FragmentKey) {
    tables.remove_fragment_parts(key);
    tables.remove_fragment(key);
}

#[inline(always)]
fn admit_first<T: Tables>(
    tables: &T,
    key: &FragmentKey,
    part: Part,
    ports: u32,
    settled: u8,
) -> PackedVerdict {
    let is_ours = settled == PartsState::Open as u8;
    let now = tables.now();
    if is_ours && state_of(tables, key, now) == PartsState::Open as u8 {
        return PackedVerdict::drop(DropReason::FragmentOverlap);
    }
    // Before the others can learn that it has come.
    tables.insert_fragment(
        key,
        &Fragment {
            source_port: (ports >> 16) as u16,
            destination_port: ports as u16,
            seen: now,
        },
    );
    let announced = if is_ours {
        PartsState::Announced as u8
    } else {
        settled
    };
    let mut record = FragmentParts {
        seen: now,
        first_end: part.end,
        state: settled,
        ..FragmentParts::default()
    };
    record.parts[0] = part;
    let waits = if let Some(slot) = tables.fragment_parts(key) {
        slot.with(|parts| {
            let waits = parts.state == PartsState::Waiting as u8;
            if parts.state == PartsState::Announced as u8 {
                parts.state = settled;
            } else {
                *parts = record;
                if waits {
                    parts.state = announced;
                }
            }
            waits
        })
    } else if tables.insert_fragment_parts(key, &record) == Insertion::Exists {
        // Another CPU holds a later fragment back since.
        record.state = announced;
        tables.set_fragment_parts(key, &record);
        true
    } else {
        false
    };
    if waits {
        PackedVerdict::RELEASE_FRAGMENTS
    } else {
        PackedVerdict::CONTINUE
    }
}

/// The [`PartsState`] of a datagram as a number; 0 for one that is not known or was forgotten. Waiting has no end: what
/// waits has.
#[inline(always)]
pub fn state_of<T: Tables>(tables: &T, key: &FragmentKey, now: Seconds) -> u8 {
    let Some(slot) = tables.fragment_parts(key) else {
        return 0;
    };
    slot.with(|parts| {
        if since(now, parts.seen) < LIFETIME || parts.state == PartsState::Waiting as u8 {
            parts.state
        } else {
            0
        }
    })
}

/// Notes that a later fragment of this datagram is held back. `false` where its first has come meanwhile: nothing will
/// release it then but its own CPU.
#[inline(always)]
pub fn wait_for_first<T: Tables>(tables: &T, datagram: &Datagram) -> bool {
    let key = &key(datagram);
    let now = tables.now();
    let waiting = FragmentParts {
        seen: now,
        state: PartsState::Waiting as u8,
        ..FragmentParts::default()
    };
    if tables.insert_fragment_parts(key, &waiting) != Insertion::Exists {
        return true;
    }
    match state_of(tables, key, now) {
        0 => {
            tables.set_fragment_parts(key, &waiting);
            true
        }
        state if state == PartsState::Waiting as u8 => true,
        // Its ports may be gone all the same, and would be after another round.
        _ => recall(tables, datagram).is_none(),
    }
}
