//! Sets of transport ports, such as the ones that NAT must leave to the node itself.

use std::fmt;
use std::ops::RangeInclusive;

const WORDS: usize = 65_536 / 64;

/// A set of 16-bit ports (host order), as a bitset of 65,536 bits.
///
/// The same shape suits a kernel table: word `port / 64`, bit `port % 64`.
#[derive(Clone, PartialEq, Eq)]
pub struct PortSet {
    words: Box<[u64; WORDS]>,
}

impl PortSet {
    /// A set without any port.
    #[must_use]
    pub fn new() -> Self {
        Self {
            words: Box::new([0; WORDS]),
        }
    }

    /// Adds one port.
    pub fn insert(&mut self, port: u16) {
        self.words[usize::from(port / 64)] |= 1 << (port % 64);
    }

    /// Adds every port of a range; an inverted range adds none.
    pub fn insert_range(&mut self, range: RangeInclusive<u16>) {
        for port in range {
            self.insert(port);
        }
    }

    /// Adds every port of another set.
    pub fn union_with(&mut self, other: &Self) {
        for (word, other) in self.words.iter_mut().zip(other.words.iter()) {
            *word |= other;
        }
    }

    /// Whether the port is in the set.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.words[usize::from(port / 64)] & (1 << (port % 64)) != 0
    }

    /// How many ports are in the set.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }

    /// Whether no port is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// The ports in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        (0..=u16::MAX).filter(|port| self.contains(*port))
    }

    /// The bits: port `p` is bit `p % 64` of word `p / 64`.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        self.words.as_slice()
    }

    /// The maximal runs of consecutive ports, in ascending order.
    #[must_use]
    pub fn ranges(&self) -> Vec<RangeInclusive<u16>> {
        let mut ranges: Vec<RangeInclusive<u16>> = Vec::new();
        for port in self.iter() {
            match ranges.last_mut() {
                Some(last) if u32::from(*last.end()) + 1 == u32::from(port) => {
                    *last = *last.start()..=port;
                }
                _ => ranges.push(port..=port),
            }
        }
        ranges
    }
}

impl Default for PortSet {
    fn default() -> Self {
        Self::new()
    }
}

impl FromIterator<u16> for PortSet {
    fn from_iter<I: IntoIterator<Item = u16>>(ports: I) -> Self {
        let mut set = Self::new();
        for port in ports {
            set.insert(port);
        }
        set
    }
}

impl fmt::Display for PortSet {
    /// The kernel's own notation for port lists: `53,4789,30000-32767`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.ranges().into_iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            if range.start() == range.end() {
                write!(f, "{}", range.start())?;
            } else {
                write!(f, "{}-{}", range.start(), range.end())?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PortSet({self})")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_and_the_last_port_are_members_like_any_other() {
        let set: PortSet = [0, 65_535].into_iter().collect();
        assert!(set.contains(0) && set.contains(65_535));
        assert!(!set.contains(1) && !set.contains(65_534));
        assert_eq!(set.to_string(), "0,65535");
    }

    #[test]
    fn a_range_up_to_the_last_port_ends() {
        let mut set = PortSet::new();
        set.insert_range(65_530..=65_535);
        assert_eq!(set.ranges(), vec![65_530..=65_535]);
    }

    proptest! {
        #[test]
        fn a_port_set_is_a_set(ports in proptest::collection::btree_set(any::<u16>(), 0..200)) {
            let set: PortSet = ports.iter().copied().collect();
            prop_assert_eq!(set.iter().collect::<BTreeSet<_>>(), ports.clone());
            prop_assert_eq!(set.len() as usize, ports.len());
            prop_assert_eq!(set.is_empty(), ports.is_empty());
        }
    }
}
