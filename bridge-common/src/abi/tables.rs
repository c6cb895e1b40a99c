//! What the list of tables says, as values: for the loader, which compares it with what is pinned, and for the manual.

use super::clients::{Client, ClientKey, ClientPort, HeldPorts};
use super::fast_path::FastPath;
use super::flows::{Flow, FlowKey, Reply, ReplyKey};
use super::fragments::{
    Fragment, FragmentKey, FragmentParts, HeldFound, HeldFragment, HeldIndex, HeldLock, HeldNumber,
};
use super::nat::{NatPort, PortPool, PortSearch};
use super::networks::{ClusterCidr, OfficeCidr};
use super::node::{
    AnswerTokens, Clock, Counter, Event, LinkAddress, OtherSource, Scratch, SourceNetwork,
    UpperLink,
};
use super::routes::{CachedHop, NextHop, Route, Vtep};
use super::services::{Affinity, AffinityKey, Backend, BackendKey, Service, ServiceKey};
use super::settings::Settings;
use super::types::{Ipv4, Seconds};

/// A table of the datapath.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// As `bpftool map` shows it, and as its pin is called.
    pub name: &'static str,
    /// Type of the map.
    pub kind: TableKind,
    /// The type of the key; empty where there is none.
    pub key: &'static str,
    /// Bytes of the key.
    pub key_size: u32,
    /// The type of the value, of a ring that of its records.
    pub value: &'static str,
    /// Bytes of the value as the kernel has it: 0 for a ring, whose records may differ in size.
    pub value_size: u32,
    /// Entries, of a ring bytes, unless configured otherwise.
    pub capacity: u32,
    /// Whether `--flow-capacity` sets the capacity.
    pub is_per_flow: bool,
    /// Whether it is pinned; the others are the program's own and start empty.
    pub is_pinned: bool,
    /// What it holds, in a line.
    pub meaning: &'static str,
}

impl Table {
    /// Entries where there is room for `flow_capacity` flows.
    #[must_use]
    pub const fn entries(&self, flow_capacity: u32) -> u32 {
        if self.is_per_flow {
            flow_capacity
        } else {
            self.capacity
        }
    }
}

/// Types of maps (`enum bpf_map_type`, linux/bpf.h), with the names that aya gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableKind {
    /// `BPF_MAP_TYPE_HASH`, preallocated.
    HashMap = 1,
    /// `BPF_MAP_TYPE_ARRAY`.
    Array = 2,
    /// `BPF_MAP_TYPE_PROG_ARRAY`.
    ProgramArray = 3,
    /// `BPF_MAP_TYPE_PERCPU_ARRAY`.
    PerCpuArray = 6,
    /// `BPF_MAP_TYPE_LRU_HASH`.
    LruHashMap = 9,
    /// `BPF_MAP_TYPE_LPM_TRIE`.
    LpmTrie = 11,
    /// `BPF_MAP_TYPE_RINGBUF`.
    RingBuf = 27,
}

impl TableKind {
    /// The name in the manual.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::HashMap => "hash",
            Self::Array => "array",
            Self::ProgramArray => "program array",
            Self::PerCpuArray => "per-CPU array",
            Self::LruHashMap => "LRU hash",
            Self::LpmTrie => "LPM trie",
            Self::RingBuf => "ring",
        }
    }
}

/// The name of a table's key or value type, and its bytes.
struct Part(&'static str, usize);

/// Index of an array.
const INDEX: Part = Part("index", size_of::<u32>());

macro_rules! part {
    ($type:ty) => {
        Part(stringify!($type), size_of::<$type>())
    };
}

macro_rules! key {
    (HashMap<$key:ty, $value:ty>) => {
        part!($key)
    };
    (LruHashMap<$key:ty, $value:ty>) => {
        part!($key)
    };
    // `struct bpf_lpm_trie_key` (linux/bpf.h): the length of the prefix, then the address.
    (LpmTrie<$address:ty, $value:ty>) => {
        Part("prefix", size_of::<u32>() + size_of::<$address>())
    };
    (RingBuf<$value:ty>) => {
        Part("", 0)
    };
    ($kind:ident<$($value:ty)?>) => {
        INDEX
    };
}

macro_rules! value {
    ($kind:ident<$key:ty, $value:ty>) => {
        part!($value)
    };
    ($kind:ident<$value:ty>) => {
        part!($value)
    };
    (ProgramArray<>) => {
        Part("program", size_of::<u32>())
    };
}

macro_rules! tables {
    ($($(#[doc = $doc:literal])+ $table:ident = $name:tt: $kind:ident<$($type:ty),*>,
        $key_size:literal => $value_size:literal, $entries:literal, $found:ident;)+) => {
        /// Every table of the datapath.
        pub const TABLES: &[Table] = &[$(Table {
            name: $name,
            kind: TableKind::$kind,
            key: key!($kind<$($type),*>).0,
            key_size: $key_size,
            value: value!($kind<$($type),*>).0,
            value_size: match TableKind::$kind {
                TableKind::RingBuf => 0,
                _ => $value_size,
            },
            capacity: $entries,
            is_per_flow: finds!($found).0,
            is_pinned: finds!($found).1,
            meaning: concat!($($doc),+).trim_ascii(),
        }),+];

        const _: () = {$(
            assert!(key!($kind<$($type),*>).1 == $key_size, $name);
            assert!(value!($kind<$($type),*>).1 == $value_size, $name);
        )+};

        #[cfg(feature = "userspace")]
        const _: () = {$(
            pod!($found $kind<$($type),*>);
        )+};
    };
}

/// Whether a table is per flow, and whether it is pinned.
macro_rules! finds {
    (per_flow) => {
        (true, true)
    };
    (pinned) => {
        (false, true)
    };
    (engine) => {
        (false, true)
    };
    (private) => {
        (false, false)
    };
}

/// Lets userspace read and write the keys and values of the tables that it finds.
#[cfg(feature = "userspace")]
macro_rules! pod {
    (private $($table:tt)+) => {};
    (engine $($table:tt)+) => {};
    ($found:ident LpmTrie<$address:ty, $value:ty>) => {
        pod!($value);
    };
    ($found:ident $kind:ident<$($type:ty),*>) => {
        $(pod!($type);)*
    };
    ($type:ty) => {
        // SAFETY: `repr(C)`, padded by hand (its size is asserted), and of integers alone.
        unsafe impl aya::Pod for $type {}
    };
}

crate::for_each_table!(tables);

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_table_has_its_own_name_and_a_meaning() {
        let names: BTreeSet<&str> = TABLES.iter().map(|table| table.name).collect();
        assert_eq!(names.len(), TABLES.len());
        for table in TABLES {
            assert!(table.meaning.ends_with('.'), "{table:?}");
            assert!(!table.meaning.starts_with(' '), "{table:?}");
        }
    }

    #[test]
    fn what_the_list_says_is_what_the_table_is() {
        let table = |name| *TABLES.iter().find(|table| table.name == name).unwrap();
        let flows = table("flows");
        assert_eq!((flows.key, flows.value), ("FlowKey", "Flow"));
        assert_eq!((flows.key_size, flows.value_size), (16, 32));
        assert_eq!(flows.entries(7), 7);
        let routes = table("routes");
        assert_eq!((routes.key, routes.key_size), ("prefix", 8));
        assert_eq!(routes.entries(7), 16_384);
        let events = table("events");
        assert_eq!((events.key, events.value), ("", "Event"));
        assert!(!table("scratch").is_pinned && events.is_pinned);
    }
}
