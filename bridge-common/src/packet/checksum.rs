//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! Sums are taken over 16-bit words as they lie in memory, on both sides, so byte order never
//! matters and a [`Difference`] is the `__wsum` that the kernel's checksum helpers take.

/// A ones' complement sum, not yet folded to 16 bits.
///
/// Carries gather in the upper half and are folded in at the end: a packet's worth of words is far from
/// filling 64 bits, and code without branches is what the kernel's verifier follows with ease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// A sum that some other code has taken, as a `__wsum`.
    #[must_use]
    #[inline]
    pub const fn from_wsum(sum: u32) -> Self {
        Self(sum as u64)
    }

    #[inline]
    const fn plus(self, word: u32) -> Self {
        Self(self.0.wrapping_add(word as u64))
    }

    /// The sum as the kernel's `__wsum`.
    #[must_use]
    #[inline]
    pub const fn wsum(self) -> u32 {
        let sum = (self.0 & 0xFFFF_FFFF) + (self.0 >> 32);
        ((sum & 0xFFFF_FFFF) + (sum >> 32)) as u32
    }

    /// Adds the 16-bit words of `bytes`; an odd last byte counts as if a zero followed.
    #[must_use]
    #[inline]
    #[expect(
        clippy::should_implement_trait,
        reason = "bytes are added to a sum, not one sum to another"
    )]
    pub fn add(mut self, bytes: &[u8]) -> Self {
        let mut words = bytes.chunks_exact(2);
        for word in &mut words {
            self = self.plus(u32::from(u16::from_ne_bytes([word[0], word[1]])));
        }
        if let [last] = words.remainder() {
            self = self.plus(u32::from(u16::from_ne_bytes([*last, 0])));
        }
        self
    }

    /// Adds another sum taken from an even offset.
    #[must_use]
    #[inline]
    pub const fn add_sum(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }

    /// The sum in 16 bits, not inverted.
    #[must_use]
    #[inline]
    pub const fn fold(self) -> u16 {
        let sum = self.wsum();
        let sum = (sum & 0xFFFF) + (sum >> 16);
        ((sum & 0xFFFF) + (sum >> 16)) as u16
    }

    /// The checksum: the folded sum inverted, as the bytes of the field.
    #[must_use]
    #[inline]
    pub const fn checksum(self) -> [u8; 2] {
        (!self.fold()).to_ne_bytes()
    }
}

/// What a rewrite changes in a sum: the new words added, the old ones taken away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Difference(Sum);

impl Difference {
    /// Records that `old` at an even offset becomes `new`.
    #[must_use]
    #[inline]
    pub fn replace<const N: usize>(self, old: [u8; N], new: [u8; N]) -> Self {
        let mut sum = self.0;
        let mut at = 0;
        // Words of 32 bits sum up to the same (RFC 1071 section 2C).
        while at + 3 < N {
            let word = |bytes: &[u8; N]| {
                u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
            };
            sum = sum.plus(!word(&old)).plus(word(&new));
            at += 4;
        }
        while at + 1 < N {
            sum = sum.plus(u32::from(!u16::from_ne_bytes([old[at], old[at + 1]])));
            sum = sum.plus(u32::from(u16::from_ne_bytes([new[at], new[at + 1]])));
            at += 2;
        }
        Self(sum)
    }

    /// Both differences together.
    #[must_use]
    #[inline]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0.add_sum(other.0))
    }

    /// The difference as the kernel's `__wsum`.
    #[must_use]
    #[inline]
    pub const fn wsum(self) -> u32 {
        self.0.wsum()
    }

    /// `checksum` after the rewrite: RFC 1624 equation 3.
    #[must_use]
    #[inline]
    pub const fn apply(self, checksum: [u8; 2]) -> [u8; 2] {
        let old = !u16::from_ne_bytes(checksum);
        self.0.plus(old as u32).checksum()
    }

    /// Like [`Self::apply`] for UDP over IPv4 (RFC 768): 0 says that there is no checksum and stays
    /// so; a computed 0 is sent as 0xFFFF.
    #[must_use]
    #[inline]
    pub const fn apply_udp(self, checksum: [u8; 2]) -> [u8; 2] {
        if let [0, 0] = checksum {
            return checksum;
        }
        match self.apply(checksum) {
            [0, 0] => [0xFF, 0xFF],
            updated => updated,
        }
    }
}

/// The sum over the pseudo-header of TCP and UDP (RFC 9293 3.1, RFC 768).
#[must_use]
#[inline]
pub fn pseudo_header(source: [u8; 4], destination: [u8; 4], protocol: u8, length: u16) -> Sum {
    Sum::default()
        .add(&source)
        .add(&destination)
        .add(&[0, protocol])
        .add(&length.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    #[test]
    fn the_example_of_rfc_1071_sums_up() {
        let sum = Sum::default().add(&[0x00, 0x01, 0xF2, 0x03, 0xF4, 0xF5, 0xF6, 0xF7]);
        assert_eq!(sum.fold().to_ne_bytes(), [0xDD, 0xF2]);
    }

    #[test]
    fn a_missing_udp_checksum_stays_missing() {
        let change = Difference::default().replace([10, 0, 0, 1], [10, 0, 0, 2]);
        assert_eq!(change.apply_udp([0, 0]), [0, 0]);
    }

    #[test]
    fn a_udp_checksum_that_becomes_zero_is_sent_as_all_ones() {
        // A word that changes so that the sum of everything becomes 0xFFFF.
        let change = Difference::default().replace([0x00, 0x00], [0x12, 0x34]);
        assert_eq!(change.apply([0x12, 0x34]), [0, 0]);
        assert_eq!(change.apply_udp([0x12, 0x34]), [0xFF, 0xFF]);
    }

    proptest! {
        #[test]
        fn an_incremental_update_equals_a_full_checksum(
            mut bytes in proptest::collection::vec(any::<u8>(), 8..64),
            new in any::<[u8; 4]>(),
        ) {
            bytes[0] |= 1; // all zero words are no packet: the sum would have two forms of 0
            let at = 4;
            let old: [u8; 4] = bytes[at..at + 4].try_into().unwrap();
            let before = Sum::default().add(&bytes).checksum();
            let mut changed: Vec<u8> = bytes.clone();
            changed[at..at + 4].copy_from_slice(&new);
            let full = Sum::default().add(&changed).checksum();
            prop_assert_eq!(Difference::default().replace(old, new).apply(before), full);
        }
    }
}
