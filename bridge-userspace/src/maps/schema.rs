//! What the tables look like, to be compared with what is pinned.
//!
//! aya takes a pinned map as it is, whatever its type and sizes (`MapData::create_pinned_by_name`); a
//! program that meets another layout would corrupt it silently. So they are compared here first.

use aya::maps::{MapInfo, MapType};
use bridge_common::abi::{TABLES, Table, TableKind};

use super::pins::Pins;

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

/// Every table that is pinned.
pub(crate) fn pinned() -> impl Iterator<Item = &'static Table> {
    TABLES.iter().filter(|table| table.is_pinned)
}

/// The type that the kernel says of a table of this kind.
const fn map_type(kind: TableKind) -> MapType {
    match kind {
        TableKind::HashMap => MapType::Hash,
        TableKind::Array => MapType::Array,
        TableKind::ProgramArray => MapType::ProgramArray,
        TableKind::PerCpuArray => MapType::PerCpuArray,
        TableKind::LruHashMap => MapType::LruHash,
        TableKind::LpmTrie => MapType::LpmTrie,
        TableKind::RingBuf => MapType::RingBuf,
    }
}

/// Compares every pinned table with what this version wants. Tables that are not there are fine.
pub(crate) fn check(pins: &Pins, flow_capacity: u32) -> Result<(), LayoutError> {
    for table in pinned() {
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
        let wanted = map_type(table.kind);
        if kind != wanted {
            return differs("type", format!("{kind:?}"), format!("{wanted:?}"), &remove);
        }
        for (what, found, wanted) in [
            ("key size", info.key_size(), table.key_size),
            ("value size", info.value_size(), table.value_size),
        ] {
            if found != wanted {
                return differs(what, found.to_string(), wanted.to_string(), &remove);
            }
        }
        let (found, wanted) = (info.max_entries(), table.entries(flow_capacity));
        if found != wanted {
            let advice =
                format!("start with `--flow-capacity {found}` to keep the flows, or {remove}");
            return differs(
                "capacity",
                found.to_string(),
                wanted.to_string(),
                if table.is_per_flow { &advice } else { &remove },
            );
        }
    }
    Ok(())
}
