//! The names of the hosts that are no nodes and no pods.

use crate::hosts::host::Host;

pub const SWITCH: &str = "switch";
pub const OFFICE_PC: &str = "office-pc";
pub const OFFICE_PC2: &str = "office-pc2";
pub const ROUTER: &str = "office-router";
pub const CONTROL_PLANE: &str = "control-plane";

/// The host of this name.
///
/// # Panics
///
/// If there is none.
pub fn find<'a>(hosts: &'a [Host], name: &str) -> &'a Host {
    hosts
        .iter()
        .find(|host| host.name() == name)
        .unwrap_or_else(|| panic!("the lab has no host {name}"))
}
