//! The engine's two traits over byte vectors and ordinary maps, for tests, fuzzing and comparison with
//! the program in the kernel.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::rc::Rc;
use std::vec::Vec;

use crate::abi::{
    Affinity, AffinityKey, Backend, BackendKey, CachedHop, Client, ClientPort, DestinationKind,
    Event, FastPath, Flow, FlowKey, Fragment, FragmentKey, FragmentParts, HELD_BYTES, HeldFound,
    HeldFragment, HeldIndex, HeldPorts, HeldSlot, Ipv4, NatPort, NextHop, PortPool, PortSearch,
    Reply, ReplyKey, Route, Seconds, Service, ServiceKey, Settings, SourceNetwork, Vtep, capacity,
};
use crate::counters::Count;
use crate::packet::checksum::{Difference, Sum};
use crate::packet::frame::Frame;
use crate::packet::{ChecksumKind, Holdable, OutOfBounds, Packet, QUOTE_MAX, Resizable};
use crate::tables::{Insertion, Slot, Tables};

/// A packet in a vector, from its IPv4 header on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimPacket {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Payload bytes of each segment; 0 if this is no GSO packet.
    pub segment_size: u32,
    /// Whether the transport checksum holds the sum of the pseudo-header only.
    pub checksum_is_partial: bool,
    /// The neighbour that it is to be given to, once that is known.
    pub neighbour: Option<Ipv4>,
    /// What is to come in again, in this order.
    pub requeued: Vec<Vec<u8>>,
}

impl SimPacket {
    /// A packet with a complete checksum that needs no segmentation.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            segment_size: 0,
            checksum_is_partial: false,
            neighbour: None,
            requeued: Vec::new(),
        }
    }
}

/// Where `len` bytes at `offset` are among `bytes`.
fn range(bytes: &[u8], offset: u32, len: usize) -> Result<Range<usize>, OutOfBounds> {
    let start = offset as usize;
    let end = start.checked_add(len).ok_or(OutOfBounds)?;
    (end <= bytes.len())
        .then_some(start..end)
        .ok_or(OutOfBounds)
}

fn load<const N: usize>(bytes: &[u8], offset: u32) -> Result<[u8; N], OutOfBounds> {
    let range = range(bytes, offset, N)?;
    bytes[range].try_into().map_err(|_| OutOfBounds)
}

fn store<const N: usize>(bytes: &mut [u8], offset: u32, new: &[u8; N]) -> Result<(), OutOfBounds> {
    let range = range(bytes, offset, N)?;
    bytes[range].copy_from_slice(new);
    Ok(())
}

impl Packet for SimPacket {
    fn len(&self) -> u32 {
        u32::try_from(self.bytes.len()).unwrap_or(u32::MAX)
    }

    fn segment_size(&self) -> u32 {
        self.segment_size
    }

    fn segments(&self) -> u32 {
        match self.segment_size {
            0 => 1,
            size => self.len().div_ceil(size),
        }
    }

    fn load<const N: usize>(&self, offset: u32) -> Result<[u8; N], OutOfBounds> {
        load(&self.bytes, offset)
    }

    fn store<const N: usize>(&mut self, offset: u32, bytes: &[u8; N]) -> Result<(), OutOfBounds> {
        store(&mut self.bytes, offset, bytes)
    }

    fn set_neighbour(&mut self, address: Ipv4) {
        self.neighbour = Some(address);
    }

    fn update_checksum(
        &mut self,
        offset: u32,
        addresses: Difference,
        payload: Difference,
        kind: ChecksumKind,
    ) -> Result<(), OutOfBounds> {
        let field = self.load::<2>(offset)?;
        let updated = if self.checksum_is_partial {
            let seed = Difference::default().and(addresses);
            seed.apply([!field[0], !field[1]]).map(|byte| !byte)
        } else {
            match kind {
                ChecksumKind::Plain => addresses.and(payload).apply(field),
                ChecksumKind::Udp => addresses.and(payload).apply_udp(field),
            }
        };
        self.store(offset, &updated)
    }
}

impl Resizable for SimPacket {
    fn checksum_is_partial(&mut self, _offset: u32) -> bool {
        self.checksum_is_partial
    }

    fn sum(&self, offset: u32, len: u32) -> Result<Sum, OutOfBounds> {
        if len == 0 || len > QUOTE_MAX {
            return Err(OutOfBounds);
        }
        let range = range(&self.bytes, offset, len as usize)?;
        Ok(Sum::default().add(&self.bytes[range]))
    }

    fn truncate(&mut self, len: u32) -> Result<(), OutOfBounds> {
        range(&self.bytes, 0, len as usize)?;
        self.bytes.truncate(len as usize);
        self.segment_size = 0;
        Ok(())
    }

    fn prepend<const N: usize>(&mut self) -> Result<(), OutOfBounds> {
        self.bytes.splice(0..0, [0; N]);
        Ok(())
    }
}

/// What is held back has no link-layer header here.
impl Holdable for SimPacket {
    fn copy_frame(&self, to: &mut [u8; HELD_BYTES]) -> Result<u32, OutOfBounds> {
        let room = to.get_mut(..self.bytes.len()).ok_or(OutOfBounds)?;
        room.copy_from_slice(&self.bytes);
        Ok(self.len())
    }

    fn become_frame(&mut self, bytes: &[u8; HELD_BYTES], len: u32) -> Result<(), OutOfBounds> {
        let range = range(bytes, 0, len as usize)?;
        self.bytes = bytes[range].to_vec();
        Ok(())
    }

    fn requeue(&mut self) -> Result<(), OutOfBounds> {
        self.requeued.push(self.bytes.clone());
        Ok(())
    }
}

/// A frame in a vector, from its Ethernet header on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimFrame {
    /// The interface that it came in by.
    pub ingress: u32,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Bytes that may still be put in front.
    pub headroom: u32,
}

impl SimFrame {
    /// A frame with as much headroom as XDP drivers leave (`XDP_PACKET_HEADROOM`, linux/bpf.h).
    #[must_use]
    pub fn new(ingress: u32, bytes: Vec<u8>) -> Self {
        Self {
            ingress,
            bytes,
            headroom: 256,
        }
    }
}

impl Frame for SimFrame {
    fn ingress(&self) -> u32 {
        self.ingress
    }

    fn len(&self) -> u32 {
        u32::try_from(self.bytes.len()).unwrap_or(u32::MAX)
    }

    fn load<const N: usize>(&self, offset: u32) -> Result<[u8; N], OutOfBounds> {
        load(&self.bytes, offset)
    }

    fn store<const N: usize>(&mut self, offset: u32, bytes: &[u8; N]) -> Result<(), OutOfBounds> {
        store(&mut self.bytes, offset, bytes)
    }

    fn grow(&mut self, len: u32) -> Result<(), OutOfBounds> {
        self.headroom = self.headroom.checked_sub(len).ok_or(OutOfBounds)?;
        let room = core::iter::repeat_n(0, len as usize);
        self.bytes.splice(0..0, room);
        Ok(())
    }

    fn shrink(&mut self, len: u32) -> Result<(), OutOfBounds> {
        let range = range(&self.bytes, 0, len as usize)?;
        self.bytes.drain(range);
        Ok(())
    }
}

impl<V> Slot<V> for Rc<RefCell<V>> {
    fn with<R>(&self, access: impl FnOnce(&mut V) -> R) -> R {
        access(&mut self.borrow_mut())
    }
}

type Shared<K, V> = RefCell<HashMap<K, Rc<RefCell<V>>>>;

/// The tables in ordinary maps.
#[derive(Debug)]
pub struct SimTables {
    /// Seconds; moved by hand.
    pub clock: Cell<Seconds>,
    /// State of the xorshift generator behind [`Tables::random`].
    pub random_state: Cell<u32>,
    /// The settings.
    pub settings: Settings,
    /// Prefix, its length, and what it is to us.
    pub destinations: Vec<(Ipv4, u32, DestinationKind)>,
    /// Office prefixes and their lengths.
    pub office: Vec<(Ipv4, u32)>,
    /// Prefix, its length, and the route.
    pub routes: Vec<(Ipv4, u32, Route)>,
    /// What XDP needs to know of the node.
    pub fast_path: FastPath,
    /// Next hops, by their number.
    pub next_hops: Vec<NextHop>,
    /// `hop_cache`.
    pub hop_cache: RefCell<Vec<CachedHop>>,
    /// Remote VTEPs, by their number.
    pub vteps: Vec<Vtep>,
    /// Services.
    pub services: HashMap<ServiceKey, Service>,
    /// Backends.
    pub backends: HashMap<BackendKey, Backend>,
    /// Which backend a client came to last.
    pub affinity: RefCell<HashMap<AffinityKey, Affinity>>,
    /// `port_searches`.
    pub port_searches: RefCell<HashMap<PortPool, PortSearch>>,
    /// Facts about ports.
    pub nat_ports: Vec<NatPort>,
    /// Forward entries.
    pub flows: Shared<FlowKey, Flow>,
    /// Reply entries.
    pub replies: Shared<ReplyKey, Reply>,
    /// First fragments.
    pub fragments: RefCell<HashMap<FragmentKey, Fragment>>,
    /// What has gone on of datagrams.
    pub fragment_parts: Shared<FragmentKey, FragmentParts>,
    /// What is held back, by the number of its slot.
    pub held_fragments: Shared<u32, HeldFragment>,
    /// Which of them is in which slot.
    pub held_index: Rc<RefCell<HeldIndex>>,
    /// Slots that another CPU has locked.
    pub held_locks: RefCell<HashSet<u32>>,
    /// Flows that fit.
    pub capacity: usize,
    /// Packets by counter index.
    pub counters: RefCell<HashMap<u32, u64>>,
    /// `clients`.
    pub clients: Shared<Ipv4, Client>,
    /// `client_ports`.
    pub client_ports: Shared<ClientPort, HeldPorts>,
    /// Packets to services by network that is none of the office's.
    pub other_sources: RefCell<HashMap<SourceNetwork, u64>>,
    /// Replies of our own that are still allowed.
    pub answer_tokens: Cell<u32>,
    /// What userspace was told.
    pub events: RefCell<Vec<Event>>,
}

impl Default for SimTables {
    fn default() -> Self {
        Self {
            clock: Cell::new(1_000),
            random_state: Cell::new(0x9E37_79B9),
            settings: Settings::default(),
            destinations: Vec::new(),
            office: Vec::new(),
            routes: Vec::new(),
            fast_path: FastPath::default(),
            next_hops: Vec::new(),
            hop_cache: RefCell::new(std::vec![CachedHop::default(); capacity::HOP_CACHE]),
            vteps: Vec::new(),
            services: HashMap::new(),
            backends: HashMap::new(),
            affinity: RefCell::default(),
            port_searches: RefCell::default(),
            nat_ports: Vec::new(),
            flows: RefCell::default(),
            clients: RefCell::default(),
            client_ports: RefCell::default(),
            replies: RefCell::default(),
            fragments: RefCell::default(),
            fragment_parts: RefCell::default(),
            held_fragments: RefCell::default(),
            held_index: Rc::new(RefCell::new(HeldIndex {
                next: 0,
                oldest: 0,
                slots: [HeldSlot::default(); capacity::HELD_FRAGMENTS],
            })),
            held_locks: RefCell::default(),
            capacity: 65_536,
            counters: RefCell::default(),
            other_sources: RefCell::default(),
            answer_tokens: Cell::new(u32::MAX),
            events: RefCell::default(),
        }
    }
}

fn longest<'a, V>(
    prefixes: impl Iterator<Item = (Ipv4, u32, &'a V)>,
    address: Ipv4,
) -> Option<&'a V> {
    let address = u32::from_be_bytes(address);
    prefixes
        .filter(|&(prefix, len, _)| {
            let mask = u32::MAX.checked_shl(32 - len).unwrap_or(0);
            u32::from_be_bytes(prefix) & mask == address & mask
        })
        .max_by_key(|&(_, len, _)| len)
        .map(|(_, _, value)| value)
}

fn insert<K: Eq + core::hash::Hash, V>(
    map: &Shared<K, V>,
    capacity: usize,
    key: K,
    value: V,
) -> Insertion {
    let mut map = map.borrow_mut();
    if map.contains_key(&key) {
        Insertion::Exists
    } else if map.len() >= capacity {
        Insertion::Full
    } else {
        map.insert(key, Rc::new(RefCell::new(value)));
        Insertion::Done
    }
}

impl SimTables {
    /// Packets counted under `count`.
    #[must_use]
    pub fn counted(&self, count: Count) -> u64 {
        self.counters
            .borrow()
            .get(&count.index())
            .copied()
            .unwrap_or(0)
    }

    /// Makes every port outside `reserved` a candidate, as userspace fills `nat_ports`.
    pub fn set_nat_ports(&mut self, reserved: impl Fn(u16) -> bool) {
        self.nat_ports = NatPort::table(&reserved).collect();
        let free = (NatPort::FIRST_USER..=u16::MAX).filter(|&port| !reserved(port));
        self.settings.nat_port_count = free.count() as u32;
    }
}

impl Tables for SimTables {
    type FlowSlot = Rc<RefCell<Flow>>;
    type ReplySlot = Rc<RefCell<Reply>>;
    type ClientSlot = Rc<RefCell<Client>>;
    type ClientPortSlot = Rc<RefCell<HeldPorts>>;
    type PartsSlot = Rc<RefCell<FragmentParts>>;
    type HeldSlot = Rc<RefCell<HeldFragment>>;
    type HeldIndexSlot = Rc<RefCell<HeldIndex>>;
    type HeldFoundSlot = Rc<RefCell<HeldFound>>;

    fn now(&self) -> Seconds {
        self.clock.get()
    }

    fn random(&self) -> u32 {
        let mut state = self.random_state.get();
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        self.random_state.set(state);
        state
    }

    fn settings(&self) -> Option<&Settings> {
        Some(&self.settings)
    }

    fn destination(&self, address: Ipv4) -> Option<DestinationKind> {
        if let Some(known) = self.fast_path.destination(address) {
            return known;
        }
        longest(
            self.destinations
                .iter()
                .map(|(prefix, len, kind)| (*prefix, *len, kind)),
            address,
        )
        .copied()
    }

    fn is_office(&self, address: Ipv4) -> bool {
        longest(
            self.office.iter().map(|(prefix, len)| (*prefix, *len, &())),
            address,
        )
        .is_some()
    }

    fn route(&self, address: Ipv4) -> Option<Route> {
        longest(
            self.routes
                .iter()
                .map(|(prefix, len, route)| (*prefix, *len, route)),
            address,
        )
        .copied()
    }

    fn fast_path(&self) -> Option<&FastPath> {
        Some(&self.fast_path)
    }

    fn next_hop(&self, number: u16) -> Option<&NextHop> {
        self.next_hops.get(usize::from(number))
    }

    fn cached_hop(&self, index: u32) -> Option<CachedHop> {
        self.hop_cache.borrow().get(index as usize).copied()
    }

    fn set_cached_hop(&self, index: u32, hop: CachedHop) {
        self.hop_cache.borrow_mut()[index as usize] = hop;
    }

    fn vtep(&self, number: u32) -> Option<&Vtep> {
        self.vteps.get(number as usize)
    }

    fn service(&self, key: &ServiceKey) -> Option<Service> {
        self.services.get(key).copied()
    }

    fn backend(&self, key: &BackendKey) -> Option<Backend> {
        self.backends.get(key).copied()
    }

    fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
        self.affinity.borrow().get(key).copied()
    }

    fn set_affinity(&self, key: &AffinityKey, affinity: &Affinity) {
        self.affinity.borrow_mut().insert(*key, *affinity);
    }

    fn insert_affinity(&self, key: &AffinityKey, affinity: &Affinity) -> Insertion {
        let mut map = self.affinity.borrow_mut();
        if map.contains_key(key) {
            return Insertion::Exists;
        }
        map.insert(*key, *affinity);
        Insertion::Done
    }

    fn nat_port(&self, port: u16) -> Option<NatPort> {
        self.nat_ports.get(usize::from(port)).copied()
    }

    fn port_search(&self, pool: &PortPool) -> Option<PortSearch> {
        self.port_searches.borrow().get(pool).copied()
    }

    fn set_port_search(&self, pool: &PortPool, search: &PortSearch) {
        self.port_searches.borrow_mut().insert(*pool, *search);
    }

    fn flow(&self, key: &FlowKey) -> Option<Self::FlowSlot> {
        self.flows.borrow().get(key).cloned()
    }

    fn reply(&self, key: &ReplyKey) -> Option<Self::ReplySlot> {
        self.replies.borrow().get(key).cloned()
    }

    fn insert_flow(&self, key: &FlowKey, flow: &Flow) -> Insertion {
        insert(&self.flows, self.capacity, *key, *flow)
    }

    fn insert_reply(&self, key: &ReplyKey, reply: &Reply) -> Insertion {
        insert(&self.replies, self.capacity, *key, *reply)
    }

    fn remove_flow(&self, key: &FlowKey) {
        self.flows.borrow_mut().remove(key);
    }

    fn remove_reply(&self, key: &ReplyKey) {
        self.replies.borrow_mut().remove(key);
    }

    fn client(&self, address: Ipv4) -> Option<Self::ClientSlot> {
        self.clients.borrow().get(&address).cloned()
    }

    fn insert_client(&self, address: Ipv4, client: &Client) -> Insertion {
        insert(&self.clients, capacity::CLIENTS, address, *client)
    }

    fn client_port(&self, key: &ClientPort) -> Option<Self::ClientPortSlot> {
        self.client_ports.borrow().get(key).cloned()
    }

    fn insert_client_port(&self, key: &ClientPort, held: HeldPorts) {
        insert(&self.client_ports, capacity::CLIENT_PORTS, *key, held);
    }

    fn fragment(&self, key: &FragmentKey) -> Option<Fragment> {
        self.fragments.borrow().get(key).copied()
    }

    fn insert_fragment(&self, key: &FragmentKey, fragment: &Fragment) {
        self.fragments.borrow_mut().insert(*key, *fragment);
    }

    fn remove_fragment(&self, key: &FragmentKey) {
        self.fragments.borrow_mut().remove(key);
    }

    fn fragment_parts(&self, key: &FragmentKey) -> Option<Self::PartsSlot> {
        self.fragment_parts.borrow().get(key).cloned()
    }

    fn insert_fragment_parts(&self, key: &FragmentKey, parts: &FragmentParts) -> Insertion {
        insert(&self.fragment_parts, usize::MAX, *key, *parts)
    }

    fn set_fragment_parts(&self, key: &FragmentKey, parts: &FragmentParts) {
        let parts = Rc::new(RefCell::new(*parts));
        self.fragment_parts.borrow_mut().insert(*key, parts);
    }

    fn remove_fragment_parts(&self, key: &FragmentKey) {
        self.fragment_parts.borrow_mut().remove(key);
    }

    fn held_index(&self) -> Option<Self::HeldIndexSlot> {
        Some(self.held_index.clone())
    }

    fn held_found(&self) -> Option<Self::HeldFoundSlot> {
        Some(Rc::new(RefCell::new(HeldFound {
            count: 0,
            slots: [0; HeldFound::MOST],
        })))
    }

    fn list_held(&self, found: &Self::HeldFoundSlot, slot: u32) {
        found.with(|found| found.add(found.count, slot));
    }
    fn held_fragment(&self, number: u32) -> Option<Self::HeldSlot> {
        let mut held = self.held_fragments.borrow_mut();
        let empty = || {
            Rc::new(RefCell::new(HeldFragment {
                len: 0,
                bytes: [0; HELD_BYTES],
            }))
        };
        Some(held.entry(number).or_insert_with(empty).clone())
    }

    fn lock_held(&self, number: u32) -> bool {
        self.held_locks.borrow_mut().insert(number)
    }

    fn unlock_held(&self, number: u32) {
        self.held_locks.borrow_mut().remove(&number);
    }

    fn count(&self, count: Count, packets: u32, _bytes: u32) {
        *self.counters.borrow_mut().entry(count.index()).or_default() += u64::from(packets);
    }

    fn count_other_source(&self, source: Ipv4) {
        let mut networks = self.other_sources.borrow_mut();
        *networks.entry(SourceNetwork::of(source)).or_default() += 1;
    }

    fn take_answer_token(&self) -> bool {
        let left = self.answer_tokens.get();
        self.answer_tokens.set(left.saturating_sub(1));
        left > 0
    }

    fn event(&self, event: &Event) {
        self.events.borrow_mut().push(*event);
    }
}
