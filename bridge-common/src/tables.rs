//! How the engine reaches the tables.

use crate::abi::{
    Affinity, AffinityKey, Backend, BackendKey, CachedHop, Client, ClientPort, DestinationKind,
    Event, FastPath, Flow, FlowKey, Fragment, FragmentKey, FragmentParts, HeldFound, HeldFragment,
    HeldIndex, HeldPorts, Ipv4, NatPort, NextHop, PortPool, PortSearch, Reply, ReplyKey, Route,
    Seconds, Service, ServiceKey, Settings, Vtep,
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

/// What the engine needs of its surroundings: the tables, a clock, random numbers. An entry that is not there is `None`.
pub trait Tables {
    /// An entry of `flows`.
    type FlowSlot: Slot<Flow>;
    /// An entry of `replies`.
    type ReplySlot: Slot<Reply>;
    /// An entry of `clients`.
    type ClientSlot: Slot<Client>;
    /// An entry of `client_ports`.
    type ClientPortSlot: Slot<HeldPorts>;
    /// An entry of `fragment_parts`.
    type PartsSlot: Slot<FragmentParts>;
    /// A slot of `held_fragments`.
    type HeldSlot: Slot<HeldFragment>;
    /// The one value of `held_index`.
    type HeldIndexSlot: Slot<HeldIndex>;
    /// This CPU's value of `held_found`.
    type HeldFoundSlot: Slot<HeldFound>;

    /// Seconds of `CLOCK_MONOTONIC`.
    fn now(&self) -> Seconds;
    /// A random number, over all 32 bits.
    fn random(&self) -> u32;
    /// The one entry of `settings`.
    fn settings(&self) -> Option<&Settings>;
    /// What an address is to us, by `cluster_cidrs` or its copy in `fast_path`.
    fn destination(&self, address: Ipv4) -> Option<DestinationKind>;
    /// Whether an address is in one of `office_cidrs`.
    fn is_office(&self, address: Ipv4) -> bool;
    /// The kernel's route to an address, as `routes` mirrors it.
    fn route(&self, address: Ipv4) -> Option<Route>;
    /// What XDP needs to know of the node.
    fn fast_path(&self) -> Option<&FastPath>;
    /// An entry of `next_hops`; 0 is no number of one.
    fn next_hop(&self, number: u16) -> Option<&NextHop>;
    /// An entry of `hop_cache`.
    fn cached_hop(&self, index: u32) -> Option<CachedHop>;
    /// Sets the same.
    fn set_cached_hop(&self, index: u32, hop: CachedHop);
    /// An entry of `vtep_fdb`; 0 is no number of one.
    fn vtep(&self, number: u32) -> Option<&Vtep>;
    /// An entry of `services`.
    fn service(&self, key: &ServiceKey) -> Option<Service>;
    /// An entry of `backends`.
    fn backend(&self, key: &BackendKey) -> Option<Backend>;
    /// The backend that a client of a service with session affinity came to last.
    fn affinity(&self, key: &AffinityKey) -> Option<Affinity>;
    /// Sets it, whether or not there was one.
    fn set_affinity(&self, key: &AffinityKey, affinity: &Affinity);
    /// Sets it where there is none.
    fn insert_affinity(&self, key: &AffinityKey, affinity: &Affinity) -> Insertion;
    /// An entry of `nat_ports`: whether `port` is reserved, and the candidate with that index.
    fn nat_port(&self, port: u16) -> Option<NatPort>;
    /// How the search for NAT ports goes in a pool; `None` where there are enough.
    fn port_search(&self, pool: &PortPool) -> Option<PortSearch>;
    /// Sets the same.
    fn set_port_search(&self, pool: &PortPool, search: &PortSearch);
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
    /// What a client has and takes.
    fn client(&self, address: Ipv4) -> Option<Self::ClientSlot>;
    /// Adds a client where there is none.
    fn insert_client(&self, address: Ipv4, client: &Client) -> Insertion;
    /// How many NAT ports a client has towards a backend's port.
    fn client_port(&self, key: &ClientPort) -> Option<Self::ClientPortSlot>;
    /// Sets the same where it is not known.
    fn insert_client_port(&self, key: &ClientPort, held: HeldPorts);
    /// What the first fragment of a datagram said.
    fn fragment(&self, key: &FragmentKey) -> Option<Fragment>;
    /// Remembers what the first fragment says.
    fn insert_fragment(&self, key: &FragmentKey, fragment: &Fragment);
    /// Forgets it.
    fn remove_fragment(&self, key: &FragmentKey);
    /// How far a datagram in fragments is.
    fn fragment_parts(&self, key: &FragmentKey) -> Option<Self::PartsSlot>;
    /// Sets that where nothing is known of it.
    fn insert_fragment_parts(&self, key: &FragmentKey, parts: &FragmentParts) -> Insertion;
    /// Sets it, whatever is known.
    fn set_fragment_parts(&self, key: &FragmentKey, parts: &FragmentParts);
    /// Forgets it.
    fn remove_fragment_parts(&self, key: &FragmentKey);
    /// Which fragments are held back.
    fn held_index(&self) -> Option<Self::HeldIndexSlot>;
    /// This CPU's list of slots.
    fn held_found(&self) -> Option<Self::HeldFoundSlot>;
    /// Adds a slot to that list.
    fn list_held(&self, found: &Self::HeldFoundSlot, slot: u32);
    /// The fragment in a slot. Only to be touched by who has locked it.
    fn held_fragment(&self, number: u32) -> Option<Self::HeldSlot>;
    /// Locks a slot; `false` where another CPU has it.
    fn lock_held(&self, number: u32) -> bool;
    /// Unlocks it.
    fn unlock_held(&self, number: u32);
    /// Counts packets and bytes.
    fn count(&self, count: Count, packets: u32, bytes: u32);
    /// Counts a packet of a network in `other_sources`, as long as there is room.
    fn count_other_source(&self, source: Ipv4);
    /// Takes a token from this CPU's bucket for local replies; `false` when it is empty.
    fn take_answer_token(&self) -> bool;
    /// Puts a record into `events`, if there is room.
    fn event(&self, event: &Event);
}
