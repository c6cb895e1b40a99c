//! `office-bridge uninstall`.

use anyhow::Context as _;

use crate::checks::check_bpffs;
use crate::datapath::{self, Mode};
use crate::maps::InstanceLock;
use crate::maps::Pins;
use crate::model::Finding;
use crate::observe::state_file::StateFile;

/// Detaches from every interface and removes all tables, flows included.
///
/// # Errors
/// When a `run` is at work, or something can't be removed, or these are no pins.
pub async fn uninstall(pins: &Pins) -> anyhow::Result<()> {
    if pins.root().exists() {
        check_bpffs(pins.root())?;
    }
    let _lock = InstanceLock::acquire(pins.root()).map_err(Finding::from)?;
    let file = StateFile::new(pins.root());
    let state = file.read()?;
    let points = state.as_ref().map(|state| &state.attach_points[..]);
    let points = points.unwrap_or_default();
    let remove_failed = || {
        format!(
            "can't remove what is pinned below {}",
            pins.root().display()
        )
    };
    // XDP first: what it passes on in its last moments is for the TC programs.
    let links = pins.detach_links().with_context(remove_failed)?;
    if let Some(state) = state.as_ref().filter(|state| state.mode == Mode::Clsact) {
        datapath::detach_filters(pins, &state.programs, points).await;
    }
    let removed = links + pins.remove_all().with_context(remove_failed)?;
    file.remove()?;
    let mut interfaces: Vec<&str> = points
        .iter()
        .map(|point| point.interface.as_str())
        .collect();
    interfaces.sort_unstable();
    interfaces.dedup();
    if removed == 0 {
        println!("nothing is pinned below {}", pins.root().display());
    } else if interfaces.is_empty() {
        println!("removed {removed} pins below {}", pins.root().display());
    } else {
        println!(
            "detached from {}; removed {removed} pins below {}",
            interfaces.join(", "),
            pins.root().display()
        );
    }
    Ok(())
}
