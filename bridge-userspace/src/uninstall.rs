//! `office-bridge uninstall`.

use anyhow::Context as _;

use crate::datapath::{self, Pins};
use crate::preflight::InstanceLock;
use crate::state::State;

/// Detaches from every interface and removes all tables, flows included.
///
/// # Errors
/// When a `run` is at work, or something can't be removed.
pub fn uninstall(pins: &Pins) -> anyhow::Result<()> {
    let _lock = InstanceLock::acquire(pins.root())?;
    let state = State::read(pins.root())?;
    let interfaces: Vec<&str> = state
        .iter()
        .flat_map(|state| &state.interfaces)
        .map(|interface| interface.name.as_str())
        .collect();
    datapath::detach_filters(interfaces.iter().copied());
    let removed = pins.remove_all().with_context(|| {
        format!(
            "can't remove what is pinned below {}",
            pins.root().display()
        )
    })?;
    State::remove(pins.root())?;
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
