//! `fragments`, `fragment_parts`, `held_fragments`, `held_index` and `held_locks`: datagrams in fragments.

use super::capacity;
use super::types::{Ipv4, Seconds};

/// Key of `fragments` and `fragment_parts`: what makes the fragments of one datagram one (RFC 791).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    /// Source address as it arrived.
    pub source: Ipv4,
    /// Destination address as it arrived.
    pub destination: Ipv4,
    /// IPv4 identification.
    pub identification: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// Always 0.
    pub pad: u8,
}

/// Value of `fragments`: what only the first fragment says.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fragment {
    /// Source port, or ICMP identifier.
    pub source_port: u16,
    /// Destination port; 0 with ICMP.
    pub destination_port: u16,
    /// When the first fragment came by.
    pub seen: Seconds,
}

/// A piece of a datagram's payload, in units of 8 bytes, which are those of the fragment offset (RFC 791). Empty where the
/// two are the same.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// The first unit.
    pub start: u16,
    /// The unit after the last.
    pub end: u16,
}

impl Part {
    /// Whether there is nothing in it.
    #[must_use]
    #[inline(always)]
    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }
}

/// Value of `fragment_parts`: what has gone on of a datagram.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FragmentParts {
    /// When the datagram was first heard of in this state.
    pub seen: Seconds,
    /// Where the first fragment ends, in units of 8 bytes.
    pub first_end: u16,
    /// Where the datagram ends, in units of 8 bytes; 0 until its last fragment has gone on.
    pub end: u16,
    /// A [`PartsState`] as a number.
    pub state: u8,
    /// Always 0.
    pub pad: u8,
    /// Always 0; a field of its own, so that no access to it is wider than it is aligned.
    pub pad2: u16,
    /// What has gone on. No two overlap or touch. Enough for 16 fragments in any order: half of them have gaps between them
    /// at most.
    pub parts: [Part; 8],
}

/// How far a datagram is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartsState {
    /// Fragments are held back until the first comes.
    Waiting = 1,
    /// The first has come, and is about to come in again, in front of those that have waited.
    Announced = 2,
    /// The first has gone on; what goes on after it is noted.
    Open = 3,
    /// The first is none of ours and was passed. What follows is not noted.
    Passed = 4,
    /// The first was left to the stack path. What follows is not noted.
    Routed = 5,
    /// The first was answered by the bridge itself, as each of the others is. What follows is not noted.
    Answered = 6,
}

/// Bytes of the largest frame that can be held back, from its Ethernet header on.
pub const HELD_BYTES: usize = 1_916;

/// Value of `held_fragments` at index n: the frame in slot n.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldFragment {
    /// Its bytes.
    pub len: u32,
    /// The frame, from its Ethernet header on.
    pub bytes: [u8; HELD_BYTES],
}

/// What is in a slot of `held_fragments`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeldSlot {
    /// The datagram.
    pub key: FragmentKey,
    /// When the fragment came; 0 where the slot is free.
    pub seen: Seconds,
}

/// The one value of `held_index`: which fragment is in which slot. Slots are filled one after the other, in a ring.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldIndex {
    /// The slot that is filled next, modulo their number.
    pub next: u32,
    /// No slot before this one, modulo their number, is in use.
    pub oldest: u32,
    /// The slots.
    pub slots: [HeldSlot; capacity::HELD_FRAGMENTS],
}

/// Value of `held_found`: the slots that a CPU is about to release.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldFound {
    /// How many there are.
    pub count: u32,
    /// Their numbers. More than the fragments of the largest datagram in frames of 1,500 bytes.
    pub slots: [u32; Self::MOST],
}

impl HeldFound {
    /// The most that is released at once: a power of two.
    pub const MOST: usize = 64;

    /// Adds a slot as the `nth`, which is also how many there were. What is in no place stays held, and has an end.
    #[inline(always)]
    pub const fn add(&mut self, nth: u32, slot: u32) {
        self.slots[nth as usize % Self::MOST] = slot;
        self.count = nth.wrapping_add(1);
    }
}

/// Key of `held_locks`: a slot of `held_fragments` that a CPU is about to read or write.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HeldNumber {
    /// Its number.
    pub slot: u32,
}

/// Value of `held_locks`: nothing; the key is what counts.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeldLock {
    /// Always 0.
    pub pad: u32,
}

/// What is held back takes at most a MiB: frames, index, and locks with their entries' heads (`struct htab_elem` and
/// `struct bucket`, kernel/bpf/hashtab.c).
const _: () = assert!(
    capacity::HELD_FRAGMENTS * (size_of::<HeldFragment>() + 48 + 16 + 16) + size_of::<HeldIndex>()
        <= 1 << 20
);
/// The number of a slot is made by a mask.
const _: () = assert!(capacity::HELD_FRAGMENTS.is_power_of_two());
