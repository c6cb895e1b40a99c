//! How the engine reaches the tables.

use crate::abi::{
    Affinity, AffinityKey, Backend, BackendKey, DestinationKind, Event, FastPath, Flow, FlowKey,
    Fragment, FragmentKey, Ipv4, NatPort, NextHop, Reply, ReplyKey, Route, Seconds, Service,
    ServiceKey, Settings, Vtep,
};
use crate::counters::Count;

/// An entry that was found in a table and may be changed in place.
///
/// Entries are shared between CPUs without a lock: each direction of a flow writes only its own
/// entry, so a race costs at most one packet in a counter.
pub trait Slot<V> {
    /// Reads or changes the entry.
    fn with<R>(&self, access: impl FnOnce(&mut V) -> R) -> R;
}

/// What came of an insertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insertion {
    /// The entry is in.
    Done,
    /// There was one already, which stays.
    Exists,
    /// The table is full.
    Full,
}

/// The tables, the clock and the dice.
pub trait Tables {
    /// An entry of `flows`.
    type FlowSlot: Slot<Flow>;
    /// An entry of `replies`.
    type ReplySlot: Slot<Reply>;

    /// Seconds of `CLOCK_MONOTONIC`.
    fn now(&self) -> Seconds;
    /// A random number.
    fn random(&self) -> u32;
    /// The settings.
    fn settings(&self) -> Option<&Settings>;
    /// What an address is to us.
    fn destination(&self, address: Ipv4) -> Option<DestinationKind>;
    /// Whether an address belongs to the office.
    fn is_office(&self, address: Ipv4) -> bool;
    /// The kernel's route to an address.
    fn route(&self, address: Ipv4) -> Option<Route>;
    /// What XDP needs to know of the node.
    fn fast_path(&self) -> Option<&FastPath>;
    /// The next hop of this number.
    fn next_hop(&self, number: u16) -> Option<&NextHop>;
    /// The remote VTEP of this number.
    fn vtep(&self, number: u32) -> Option<&Vtep>;
    /// A service.
    fn service(&self, key: &ServiceKey) -> Option<Service>;
    /// A backend.
    fn backend(&self, key: &BackendKey) -> Option<Backend>;
    /// The backend that a client of a service with session affinity came to last.
    fn affinity(&self, key: &AffinityKey) -> Option<Affinity>;
    /// Notes it, in place of what was there.
    fn set_affinity(&self, key: &AffinityKey, affinity: &Affinity);
    /// Notes it where nothing is.
    fn insert_affinity(&self, key: &AffinityKey, affinity: &Affinity) -> Insertion;
    /// Facts about the port numbered `port`, or the candidate numbered so.
    fn nat_port(&self, port: u16) -> Option<NatPort>;
    /// A flow's forward entry.
    fn flow(&self, key: &FlowKey) -> Option<Self::FlowSlot>;
    /// A flow's reply entry.
    fn reply(&self, key: &ReplyKey) -> Option<Self::ReplySlot>;
    /// Adds a forward entry where there is none.
    fn insert_flow(&self, key: &FlowKey, flow: &Flow) -> Insertion;
    /// Adds a reply entry where there is none.
    fn insert_reply(&self, key: &ReplyKey, reply: &Reply) -> Insertion;
    /// Removes a forward entry.
    fn remove_flow(&self, key: &FlowKey);
    /// Removes a reply entry.
    fn remove_reply(&self, key: &ReplyKey);
    /// What the first fragment of a datagram said.
    fn fragment(&self, key: &FragmentKey) -> Option<Fragment>;
    /// Remembers what the first fragment says.
    fn insert_fragment(&self, key: &FragmentKey, fragment: &Fragment);
    /// Counts packets and bytes.
    fn count(&self, count: Count, packets: u32, bytes: u32);
    /// Takes a token from this CPU's bucket for answers.
    fn take_answer_token(&self) -> bool;
    /// Tells userspace.
    fn event(&self, event: &Event);
}
