//! The kernel tables: names, sizes, keys and values.
//!
//! `bpftool map dump` is a user interface, so field names explain themselves, addresses are
//! `[u8; 4]` in network order (they print as `[192,168,0,10]`), ports are numbers in host order and
//! every struct is padded by hand. Times are seconds of `CLOCK_MONOTONIC`.
//!
//! A change of any key or value must raise [`LAYOUT_VERSION`]: tables are pinned below a directory
//! that carries it, and a running older bridge keeps its own.

pub mod capacity;
mod fast_path;
mod flows;
pub mod name;
mod nat;
mod networks;
mod node;
mod routes;
mod services;
mod settings;
mod types;

pub use fast_path::{Destination, FastPath, Tunnel, XdpPort};
pub use flows::{Flow, FlowKey, Layer, Reply, ReplyKey};
pub use nat::{Fragment, FragmentKey, NatPort};
pub use networks::{ClusterCidr, DestinationKind, OfficeCidr};
pub use node::{AnswerTokens, Clock, Counter, Event, EventKind};
pub use routes::{NextHop, Route, Vtep};
pub use services::{Affinity, AffinityKey, Backend, BackendKey, Service, ServiceKey};
pub use settings::{Settings, Timeouts};
pub use types::{Ipv4, Mac, Seconds, since};

/// Version of everything in this module; part of the pin directory (`…/v4`).
pub const LAYOUT_VERSION: u32 = 4;

const _: () = {
    assert!(size_of::<ServiceKey>() == 8);
    assert!(size_of::<Service>() == 20);
    assert!(size_of::<AffinityKey>() == 12);
    assert!(size_of::<Affinity>() == 12);
    assert!(size_of::<BackendKey>() == 8);
    assert!(size_of::<Backend>() == 8);
    assert!(size_of::<Route>() == 20);
    assert!(size_of::<NextHop>() == 24);
    assert!(size_of::<Vtep>() == 32);
    assert!(size_of::<XdpPort>() == 12);
    assert!(size_of::<Tunnel>() == 16);
    assert!(size_of::<Destination>() == 12);
    assert!(size_of::<FastPath>() == 184);
    assert!(size_of::<FlowKey>() == 16);
    assert!(size_of::<Flow>() == 32);
    assert!(size_of::<ReplyKey>() == 16);
    assert!(size_of::<Reply>() == 24);
    assert!(size_of::<FragmentKey>() == 12);
    assert!(size_of::<Fragment>() == 8);
    assert!(size_of::<NatPort>() == 4);
    assert!(size_of::<Counter>() == 16);
    assert!(size_of::<AnswerTokens>() == 8);
    assert!(size_of::<Settings>() == 64);
    assert!(size_of::<Event>() == 20);
};

#[cfg(feature = "userspace")]
mod pod {
    use super::{
        Affinity, AffinityKey, AnswerTokens, Backend, BackendKey, ClusterCidr, Counter, Event,
        FastPath, Flow, FlowKey, Fragment, FragmentKey, NatPort, NextHop, OfficeCidr, Reply,
        ReplyKey, Route, Service, ServiceKey, Settings, Vtep,
    };

    macro_rules! pod {
        ($($layout:ty),+ $(,)?) => {$(
            // SAFETY: `repr(C)`, padded by hand (asserted above), and of integers alone.
            unsafe impl aya::Pod for $layout {}
        )+};
    }

    pod!(
        Affinity,
        AffinityKey,
        AnswerTokens,
        Backend,
        BackendKey,
        ClusterCidr,
        Counter,
        Event,
        FastPath,
        Flow,
        FlowKey,
        Fragment,
        FragmentKey,
        NatPort,
        NextHop,
        OfficeCidr,
        Reply,
        ReplyKey,
        Route,
        Service,
        ServiceKey,
        Settings,
        Vtep,
    );
}
