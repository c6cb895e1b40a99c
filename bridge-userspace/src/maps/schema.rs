//! What the tables look like, to be compared with what is pinned.
//!
//! aya takes a pinned map as it is, whatever its type and sizes (`MapData::create_pinned_by_name`); a
//! program that meets another layout would corrupt it silently. So they are compared here first.

use aya::maps::{MapInfo, MapType};
use bridge_common::abi::{
    Affinity, AffinityKey, AnswerTokens, Backend, BackendKey, ClusterCidr, Counter, FastPath, Flow,
    FlowKey, Fragment, FragmentKey, NatPort, NextHop, OfficeCidr, Reply, ReplyKey, Route, Service,
    ServiceKey, Settings, Vtep, capacity, name,
};
use bridge_common::counters::Count;

use super::Pins;

/// Bytes of an LPM trie's key: the prefix length and an IPv4 address.
const PREFIX: usize = 8;

/// A pinned table that is not what this version works with.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// It can't be read.
    #[error("pinned table {path} can't be read: {source}; `office-bridge uninstall` removes it")]
    Unreadable {
        /// Where it is pinned.
        path: String,
        /// What the kernel said.
        source: aya::maps::MapError,
    },
    /// It has another type or size.
    #[error(
        "pinned table {path} has {what} {found}, this version with this configuration needs {wanted}; \
         {advice}"
    )]
    Differs {
        /// Where it is pinned.
        path: String,
        /// What differs.
        what: &'static str,
        /// What is there.
        found: String,
        /// What is wanted.
        wanted: String,
        /// What to do.
        advice: String,
    },
}

pub(crate) struct Table {
    pub(crate) name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
    pub(crate) entries: u32,
}

fn table<K, V>(name: &'static str, kind: MapType, entries: u32) -> Table {
    Table {
        name,
        kind,
        key: size_of::<K>(),
        value: size_of::<V>(),
        entries,
    }
}

/// Every pinned table, with room for `flow_capacity` flows.
pub(crate) fn tables(flow_capacity: u32) -> Vec<Table> {
    let entries = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    vec![
        table::<[u8; PREFIX], OfficeCidr>(
            name::OFFICE_CIDRS,
            MapType::LpmTrie,
            entries(capacity::OFFICE_CIDRS),
        ),
        table::<[u8; PREFIX], ClusterCidr>(
            name::CLUSTER_CIDRS,
            MapType::LpmTrie,
            entries(capacity::CLUSTER_CIDRS),
        ),
        table::<[u8; PREFIX], Route>(name::ROUTES, MapType::LpmTrie, entries(capacity::ROUTES)),
        table::<u32, NextHop>(
            name::NEXT_HOPS,
            MapType::Array,
            entries(capacity::NEXT_HOPS),
        ),
        table::<u32, Vtep>(name::VTEP_FDB, MapType::Array, entries(capacity::VTEP_FDB)),
        table::<u32, FastPath>(name::FAST_PATH, MapType::Array, 1),
        table::<ServiceKey, Service>(name::SERVICES, MapType::Hash, entries(capacity::SERVICES)),
        table::<BackendKey, Backend>(name::BACKENDS, MapType::Hash, entries(capacity::BACKENDS)),
        table::<AffinityKey, Affinity>(
            name::AFFINITY,
            MapType::LruHash,
            entries(capacity::AFFINITY),
        ),
        table::<FlowKey, Flow>(name::FLOWS, MapType::Hash, flow_capacity),
        table::<ReplyKey, Reply>(name::REPLIES, MapType::Hash, flow_capacity),
        table::<FragmentKey, Fragment>(
            name::FRAGMENTS,
            MapType::LruHash,
            entries(capacity::FRAGMENTS),
        ),
        table::<u32, NatPort>(
            name::NAT_PORTS,
            MapType::Array,
            entries(capacity::NAT_PORTS),
        ),
        table::<u32, Settings>(name::SETTINGS, MapType::Array, 1),
        table::<u32, Counter>(
            name::COUNTERS,
            MapType::PerCpuArray,
            entries(Count::TABLE_SIZE),
        ),
        table::<u32, AnswerTokens>(name::ANSWER_TOKENS, MapType::PerCpuArray, 1),
        Table {
            name: name::EVENTS,
            kind: MapType::RingBuf,
            key: 0,
            value: 0,
            entries: entries(capacity::EVENTS),
        },
        table::<u32, u32>(name::XDP_NEXT, MapType::ProgramArray, 1),
        table::<u32, u32>(name::XDP_NEXT_FRAGS, MapType::ProgramArray, 1),
    ]
}

/// Compares every pinned table with what this version wants. Tables that are not there are fine.
pub(crate) fn check(pins: &Pins, flow_capacity: u32) -> Result<(), LayoutError> {
    for table in tables(flow_capacity) {
        let path = pins.table(table.name);
        if !path.exists() {
            continue;
        }
        let shown = path.display().to_string();
        let info = MapInfo::from_pin(&path).map_err(|source| LayoutError::Unreadable {
            path: shown.clone(),
            source,
        })?;
        let kind = info.map_type().map_err(|source| LayoutError::Unreadable {
            path: shown.clone(),
            source,
        })?;
        let remove = "`office-bridge uninstall` removes it and all flows".to_owned();
        let differs = |what, found: String, wanted: String, advice: &str| {
            Err(LayoutError::Differs {
                path: shown.clone(),
                what,
                found,
                wanted,
                advice: advice.to_owned(),
            })
        };
        if kind != table.kind {
            return differs(
                "type",
                format!("{kind:?}"),
                format!("{:?}", table.kind),
                &remove,
            );
        }
        for (what, found, wanted) in [
            ("key size", info.key_size(), table.key),
            ("value size", info.value_size(), table.value),
        ] {
            if found as usize != wanted {
                return differs(what, found.to_string(), wanted.to_string(), &remove);
            }
        }
        let found = info.max_entries();
        if found != table.entries {
            let advice =
                format!("start with `--flow-capacity {found}` to keep the flows, or {remove}");
            let is_flows = matches!(table.name, name::FLOWS | name::REPLIES);
            return differs(
                "capacity",
                found.to_string(),
                table.entries.to_string(),
                if is_flows { &advice } else { &remove },
            );
        }
    }
    Ok(())
}
