//! The rooms of bridge-userspace: the folders at the top of its `src`, each of which uses those below it only.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::dependencies::Dependency;

/// The rooms, from the top to the bottom.
pub const ROOMS: [&str; 14] = [
    "agent",
    "commands",
    "observe",
    "reconcile",
    "checks",
    "plan",
    "conntrack",
    "config",
    "datapath",
    "dns",
    "cluster",
    "kernel",
    "maps",
    "model",
];
/// The files above the rooms: they use all of them, and no room uses them.
const ABOVE: [&str; 2] = ["lib", "main"];
/// Limit of the entries at the top of `src`.
const MOST_ENTRIES: usize = 16;

/// Describes what of `src` is in no room, and what a room uses that is above it.
pub fn find(src: &Path, dependencies: &[Dependency]) -> Result<Vec<String>> {
    let entries: BTreeSet<String> = fs::read_dir(src)
        .and_then(|entries| {
            entries
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect()
        })
        .with_context(|| format!("list {}", src.display()))?;
    let mut breaches: Vec<String> = entries
        .iter()
        .filter(|entry| level(entry).is_none())
        .map(|entry| {
            let path = src.join(entry);
            format!(
                "{} is none of the rooms ({}): put it into one of them",
                path.display(),
                ROOMS.join(", ")
            )
        })
        .collect();
    if entries.len() > MOST_ENTRIES {
        breaches.push(format!(
            "{} has {} entries, and may have {MOST_ENTRIES}",
            src.display(),
            entries.len()
        ));
    }
    let mut upwards: Vec<String> = dependencies
        .iter()
        .filter_map(|found| upward(src, found))
        .collect();
    upwards.dedup();
    breaches.extend(upwards);
    Ok(breaches)
}

/// The place of an entry in the order, its index in [`ROOMS`] plus one; zero for what is above them.
fn level(entry: &str) -> Option<usize> {
    let name = entry.strip_suffix(".rs").unwrap_or(entry);
    if ABOVE.contains(&name) {
        return Some(0);
    }
    let place = ROOMS.iter().position(|room| *room == name)?;
    Some(place + 1)
}

/// What is wrong with a dependency, if it leads from a room to one above it.
fn upward(src: &Path, dependency: &Dependency) -> Option<String> {
    let room = |file: &Path| {
        let entry = file.strip_prefix(src).ok()?.iter().next()?;
        let entry = entry.to_str()?.to_owned();
        Some((level(&entry)?, entry))
    };
    let (from, user) = room(&dependency.user)?;
    let (to, provider) = room(&dependency.provider)?;
    (to < from).then(|| {
        format!("{dependency}: the room `{user}` is below `{provider}` and must not use it")
    })
}
