//! A mirror of the kernel's links, addresses, routes, neighbours and VXLAN FDBs, kept up to date through rtnetlink.
//!
//! A [`Mirror`] gives a [`NetworkState`] and a new one whenever the kernel's changes. Routes are not
//! computed from the routing tables here: for every prefix of interest the kernel is asked what it
//! would do (`routes`), as policy rules and `src` decide that too.

mod connection;
mod driver;
mod dump;
mod error;
mod filters;
mod interfaces;
mod neighbours;
mod netdev;
mod offloads;
mod probe;
mod routes;
mod stacking;
mod state;
mod vxlan;
mod watch;
mod xdp;

pub use self::driver::driver;
pub use self::error::NetlinkError;
pub use self::filters::{Filter, Filters, HANDLE, PRIORITY, remove_unused_clsact};
pub use self::interfaces::{cluster_interfaces, pod_route_interfaces};
pub use self::netdev::{XdpFeatures, xdp_features};
pub use self::probe::Prober;
pub use self::stacking::taker_of_tags;
pub use self::state::{
    DEFAULT_ENTRY, Fdb, FdbEntry, InterfaceAddress, Link, LinkKind, Mac, Neighbour, NetworkState,
    Remote, Route,
};
pub use self::vxlan::Vxlan;
pub use self::watch::{Mirror, MirrorView};
pub use self::xdp::{XdpLink, xdp_link, xdp_refusal};

#[cfg(test)]
mod neighbour_tests;
#[cfg(test)]
mod tests;
