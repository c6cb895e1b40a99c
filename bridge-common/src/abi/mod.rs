//! The kernel tables: names, sizes, keys and values.
//!
//! `bpftool map dump` is a user interface, so field names explain themselves, addresses are
//! `[u8; 4]` in network order (they print as `[192,168,0,10]`), ports are numbers in host order and
//! every struct is padded by hand. Times are seconds of `CLOCK_MONOTONIC`.
//!
//! [`for_each_table`](crate::for_each_table) lists the tables; names, capacities, the maps of `bridge-ebpf`, the loader's
//! check of what is pinned and the manual's reference are made from that list.
//!
//! A change of any key or value must raise [`LAYOUT_VERSION`]: tables are pinned below a directory
//! that carries it, and a running older bridge keeps its own.

pub mod capacity;
mod clients;
mod fast_path;
mod flows;
mod fragments;
mod list;
pub mod name;
mod nat;
mod networks;
mod node;
mod routes;
mod services;
mod settings;
mod tables;
mod types;

pub use clients::{Client, ClientKey, ClientLimits, ClientPort, HeldPorts};
pub use fast_path::{Destination, FastPath, Tunnel, XdpPort};
pub use flows::{Flow, FlowKey, Layer, Reply, ReplyKey};
pub use fragments::{
    Fragment, FragmentKey, FragmentParts, HELD_BYTES, HeldFound, HeldFragment, HeldIndex, HeldLock,
    HeldNumber, HeldSlot, Part, PartsState,
};
pub use nat::{NatPort, PortPool, PortSearch};
pub use networks::{ClusterCidr, DestinationKind, OfficeCidr};
pub use node::{
    AnswerTokens, Clock, Counter, Event, EventKind, LinkAddress, OtherSource, Scratch,
    SourceNetwork, UpperLink,
};
pub use routes::{CachedHop, NextHop, Route, Vtep};
pub use services::{Affinity, AffinityKey, Backend, BackendKey, Service, ServiceKey};
pub use settings::{Settings, Timeouts};
pub use tables::{TABLES, Table, TableKind};
pub use types::{Ipv4, Mac, Seconds, since};

/// Version of everything in this module; part of the pin directory (`…/v5`).
pub const LAYOUT_VERSION: u32 = 5;
