//! `cargo xtask lab`: the hosts and networks, to look around in.

use anyhow::Result;

use crate::host;

/// Opens the lab and keeps it until Ctrl-C.
pub fn run() -> Result<()> {
    host::ready()?;
    anyhow::bail!("wip")
}
