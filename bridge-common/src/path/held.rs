//! Fragments that come before their first (RFC 4787 REQ-14): they are held back until it comes.
//!
//! Whole frames are held, in a ring of slots of which the oldest gives way to the newest: so a flood of fragments without
//! a first takes room from itself before it takes it from one whose first is about to come. When the first comes, it and
//! what waits for it come in again by the interface that it came in by, the first in front, and are handled as if they had
//! come in order. A slot is locked while it is read or written; nobody waits for a lock.

use core::mem::take;

use crate::abi::{DestinationKind, FragmentKey, HeldFound, HeldSlot, Seconds, capacity};
use crate::conntrack::fragments;
use crate::counters::Count;
use crate::drops::DropReason;
use crate::packet::Holdable;
use crate::packet::parse::Datagram;
use crate::tables::{Slot, Tables};
use crate::verdict::PackedVerdict;

/// How long a fragment is held back. Fragments overtake each other by milliseconds; identifications repeat after seconds.
pub const PATIENCE: Seconds = 2;
/// Slots tried for one fragment: another CPU has locked those before.
const TRIES: u32 = 4;
/// Slots looked at for what has waited in vain, with each fragment.
const SWEPT: u32 = 2;

const SLOTS: u32 = capacity::HELD_FRAGMENTS as u32;

/// Holds a later fragment back whose first has not come. What can't be held is dropped, or passed where it may be the
/// node's own.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn hold<P: Holdable, T: Tables>(packet: &P, tables: &T) -> PackedVerdict {
    let Some(datagram) = Datagram::parse(packet) else {
        return PackedVerdict::PASS;
    };
    let may_be_foreign = tables.destination(datagram.destination()) == Some(DestinationKind::Nat);
    // Of what may be foreign that is asked when it is known to be ours.
    if !may_be_foreign && let Some(reason) = fragments::malformed(packet, &datagram) {
        return PackedVerdict::drop(reason);
    }
    for _ in 0..SWEPT {
        sweep(tables);
    }
    let key = fragments::key(&datagram);
    if !store(packet, tables, &key) {
        return if may_be_foreign {
            PackedVerdict::PASS
        } else {
            PackedVerdict::drop(DropReason::FragmentUnknown)
        };
    }
    tables.count(Count::FragmentHeld, 1, datagram.total_len);
    if fragments::wait_for_first(tables, &datagram) {
        PackedVerdict::HELD
    } else {
        PackedVerdict::RELEASE_FRAGMENTS
    }
}

/// Puts a frame into the next slot. `false` where it is too large.
#[inline(always)]
fn store<P: Holdable, T: Tables>(packet: &P, tables: &T, key: &FragmentKey) -> bool {
    let Some(index) = tables.held_index() else {
        return false;
    };
    for _ in 0..TRIES {
        let number = index.with(|index| {
            let next = index.next;
            index.next = next.wrapping_add(1);
            next
        }) % SLOTS;
        if !tables.lock_held(number) {
            continue;
        }
        drop_held(tables, number, u32::MAX);
        let is_stored = tables.held_fragment(number).is_some_and(|held| {
            held.with(|held| match packet.copy_frame(&mut held.bytes) {
                Ok(len) => {
                    held.len = len;
                    true
                }
                Err(_) => false,
            })
        });
        if is_stored {
            let seen = tables.now().max(1);
            index.with(|index| index.slots[number as usize] = HeldSlot { key: *key, seen });
        }
        tables.unlock_held(number);
        return is_stored;
    }
    false
}

/// Empties a locked slot whose fragment came before `limit`, and counts that.
#[inline(always)]
fn drop_held<T: Tables>(tables: &T, number: u32, limit: Seconds) {
    let Some(index) = tables.held_index() else {
        return;
    };
    let seen = index.with(|index| {
        let seen = &mut index.slots[number as usize].seen;
        if *seen < limit { take(seen) } else { 0 }
    });
    if seen != 0 {
        let len = tables
            .held_fragment(number)
            .map_or(0, |held| held.with(|held| held.len));
        tables.count(Count::Drop(DropReason::FragmentUnknown), 1, len);
    }
}

/// Looks at the oldest slot in use, and empties it if what is in it has waited in vain.
#[inline(always)]
fn sweep<T: Tables>(tables: &T) {
    let Some(index) = tables.held_index() else {
        return;
    };
    let limit = tables.now().saturating_sub(PATIENCE);
    let (oldest, next) = index.with(|index| (index.oldest, index.next));
    if oldest == next {
        return;
    }
    // The ring was filled all the way round since.
    let oldest = if next.wrapping_sub(oldest) > SLOTS {
        next.wrapping_sub(SLOTS)
    } else {
        oldest
    };
    let number = oldest % SLOTS;
    if index.with(|index| index.slots[number as usize].seen) >= limit.max(1) {
        index.with(|index| index.oldest = oldest);
        return;
    }
    if tables.lock_held(number) {
        drop_held(tables, number, limit);
        tables.unlock_held(number);
    }
    index.with(|index| index.oldest = oldest.wrapping_add(1));
}

/// Lets a first fragment come in again, and behind it what has waited for it. The packet is then no more what it was.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn release<P: Holdable, T: Tables>(packet: &mut P, tables: &T) -> PackedVerdict {
    let Some(datagram) = Datagram::parse(packet) else {
        return PackedVerdict::HELD;
    };
    let key = fragments::key(&datagram);
    if datagram.is_first_fragment() {
        requeue(packet, tables);
    }
    let Some(found) = tables.held_found() else {
        return PackedVerdict::HELD;
    };
    find(tables, &key, &found);
    let limit = tables.now().saturating_sub(PATIENCE);
    for nth in 0..HeldFound::MOST {
        let (count, number) = found.with(|found| (found.count, found.slots[nth] % SLOTS));
        if nth as u32 >= count {
            break;
        }
        if tables.lock_held(number) {
            drop_held(tables, number, limit);
            if take_out(packet, tables, &key, number) {
                requeue(packet, tables);
            }
            tables.unlock_held(number);
        }
    }
    PackedVerdict::HELD
}

/// Lists the slots with fragments of a datagram.
#[inline(always)]
fn find<T: Tables>(tables: &T, key: &FragmentKey, found: &T::HeldFoundSlot) {
    let Some(index) = tables.held_index() else {
        return;
    };
    found.with(|found| found.count = 0);
    for number in 0..SLOTS {
        let belongs = index.with(|index| {
            let slot = &index.slots[number as usize];
            slot.seen != 0 && slot.key == *key
        });
        if belongs {
            tables.list_held(found, number);
        }
    }
}

/// Makes of the packet the fragment in a locked slot, if it is still one of this datagram.
#[inline(always)]
fn take_out<P: Holdable, T: Tables>(
    packet: &mut P,
    tables: &T,
    key: &FragmentKey,
    number: u32,
) -> bool {
    let (Some(index), Some(held)) = (tables.held_index(), tables.held_fragment(number)) else {
        return false;
    };
    let is_there = index.with(|index| {
        let slot = &mut index.slots[number as usize];
        slot.key == *key && take(&mut slot.seen) != 0
    });
    if !is_there {
        return false;
    }
    if held
        .with(|held| packet.become_frame(&held.bytes, held.len))
        .is_err()
    {
        tables.count(Count::Drop(DropReason::RewriteFailed), 1, 0);
        return false;
    }
    tables.count(Count::FragmentReleased, 1, packet.len());
    true
}

#[inline(always)]
fn requeue<P: Holdable, T: Tables>(packet: &mut P, tables: &T) {
    if packet.requeue().is_err() {
        tables.count(Count::Drop(DropReason::RewriteFailed), 1, packet.len());
    }
}
