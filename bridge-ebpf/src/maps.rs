//! The tables, and the engine's way to them.

use core::ptr::NonNull;

use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, RingBuf};
use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_jiffies64, bpf_ktime_get_coarse_ns};
use aya_ebpf::macros::btf_map;
use bridge_common::abi::{
    Affinity, AffinityKey, AnswerTokens, Backend, BackendKey, CachedHop, Client, ClientKey,
    ClientPort, Clock, ClusterCidr, Counter, DestinationKind, Event, FastPath, Flow, FlowKey,
    Fragment, FragmentKey, FragmentParts, HeldFound, HeldFragment, HeldIndex, HeldLock, HeldNumber,
    HeldPorts, Ipv4, LinkAddress, NatPort, NextHop, OfficeCidr, OtherSource, PortPool, PortSearch,
    Reply, ReplyKey, Route, Scratch, Seconds, Service, ServiceKey, Settings, SourceNetwork,
    UpperLink, Vtep,
};
use bridge_common::counters::Count;
use bridge_common::packet::QUOTE_MAX;
use bridge_common::tables::{Insertion, Slot, Tables};

macro_rules! maps {
    ($($(#[$doc:meta])+ $map:ident = $name:tt: $kind:ident<$($type:ty),*>,
        $key_size:literal => $value_size:literal, $entries:literal, $found:ident;)+) => {$(
        $(#[$doc])+
        #[btf_map(name = $name)]
        pub static $map: $kind<$($type,)* $entries> = $kind::new();
    )+};
}

bridge_common::for_each_table!(maps);

const _: () = assert!(size_of::<Scratch>() == QUOTE_MAX as usize);

/// This CPU's buffer for bytes of a packet.
#[inline(always)]
pub fn scratch() -> Option<NonNull<Scratch>> {
    SCRATCH.get_ptr_mut(0).and_then(NonNull::new)
}

/// `BPF_NOEXIST` (linux/bpf.h).
const BPF_NOEXIST: u64 = 1;
/// `EEXIST` (asm-generic/errno-base.h).
const EEXIST: i32 = 17;

/// The tables of this object.
pub struct Maps;

/// A pointer that a map look-up returned.
pub struct MapEntry<V>(NonNull<V>);

impl<V> Slot<V> for MapEntry<V> {
    #[inline(always)]
    fn with<R>(&self, access: impl FnOnce(&mut V) -> R) -> R {
        let mut entry = self.0;
        // SAFETY: the entry lives as long as the program runs (RCU), and the verifier has seen the
        // null check. Another CPU may change it meanwhile; the engine is made for that.
        access(unsafe { entry.as_mut() })
    }
}

impl Maps {
    /// Whether this host takes frames for an Ethernet address beside the interface's own.
    #[inline(always)]
    pub fn takes(address: &LinkAddress) -> bool {
        LINK_ADDRESSES.get_ptr(address).is_some()
    }

    /// Whether this CPU may write a log line: one a second.
    #[inline(always)]
    pub fn may_log(&self) -> bool {
        let now = self.now();
        LAST_LOG
            .get_ptr_mut(0)
            .and_then(NonNull::new)
            .is_some_and(|last| {
                MapEntry(last).with(|last| {
                    let is_due = *last != now;
                    *last = now;
                    is_due
                })
            })
    }
}

const fn insertion(result: Result<(), i32>) -> Insertion {
    match result {
        Ok(()) => Insertion::Done,
        Err(error) if error == -EEXIST => Insertion::Exists,
        Err(_) => Insertion::Full,
    }
}

impl Tables for Maps {
    type FlowSlot = MapEntry<Flow>;
    type ReplySlot = MapEntry<Reply>;
    type ClientSlot = MapEntry<Client>;
    type ClientPortSlot = MapEntry<HeldPorts>;
    type PartsSlot = MapEntry<FragmentParts>;
    type HeldSlot = MapEntry<HeldFragment>;
    type HeldIndexSlot = MapEntry<HeldIndex>;
    type HeldFoundSlot = MapEntry<HeldFound>;

    #[inline(always)]
    fn now(&self) -> Seconds {
        // SAFETY: takes nothing. The verifier puts the read of a variable in its place.
        let jiffies = unsafe { bpf_jiffies64() };
        // SAFETY: takes nothing.
        let read = || (unsafe { bpf_ktime_get_coarse_ns() } / 1_000_000_000) as Seconds;
        let Some(clock) = CLOCK.get_ptr_mut(0).and_then(NonNull::new) else {
            return read();
        };
        MapEntry(clock).with(|clock| {
            if clock.jiffies != jiffies {
                *clock = Clock {
                    jiffies,
                    seconds: read(),
                    pad: 0,
                };
            }
            clock.seconds
        })
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: takes nothing.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn settings(&self) -> Option<&Settings> {
        SETTINGS.get(0)
    }

    #[inline(always)]
    fn destination(&self, address: Ipv4) -> Option<DestinationKind> {
        let known = self.fast_path().and_then(|fast| fast.destination(address));
        known.unwrap_or_else(|| {
            CLUSTER_CIDRS
                .get(&Key::new(32, address))
                .and_then(|cidr| cidr.kind())
        })
    }

    #[inline(always)]
    fn is_office(&self, address: Ipv4) -> bool {
        OFFICE_CIDRS.get(&Key::new(32, address)).is_some()
    }

    #[inline(always)]
    fn route(&self, address: Ipv4) -> Option<Route> {
        ROUTES.get(&Key::new(32, address)).copied()
    }

    #[inline(always)]
    fn fast_path(&self) -> Option<&FastPath> {
        FAST_PATH.get(0)
    }

    #[inline(always)]
    fn next_hop(&self, number: u16) -> Option<&NextHop> {
        NEXT_HOPS.get(u32::from(number))
    }

    #[inline(always)]
    fn cached_hop(&self, index: u32) -> Option<CachedHop> {
        HOP_CACHE.get(index).copied()
    }

    #[inline(always)]
    fn set_cached_hop(&self, index: u32, hop: CachedHop) {
        if let Some(cached) = HOP_CACHE.get_ptr_mut(index).and_then(NonNull::new) {
            MapEntry(cached).with(|cached| *cached = hop);
        }
    }

    #[inline(always)]
    fn vtep(&self, number: u32) -> Option<&Vtep> {
        VTEP_FDB.get(number)
    }

    #[inline(always)]
    fn service(&self, key: &ServiceKey) -> Option<Service> {
        // SAFETY: read at once; a service's value is replaced, never changed in place.
        unsafe { SERVICES.get(key) }.copied()
    }

    #[inline(always)]
    fn backend(&self, key: &BackendKey) -> Option<Backend> {
        // SAFETY: read at once; a backend list is never changed, only replaced by one of another id.
        unsafe { BACKENDS.get(key) }.copied()
    }

    #[inline(always)]
    fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
        // SAFETY: read at once; a value is replaced, never changed in place.
        unsafe { AFFINITY.get(key) }.copied()
    }

    #[inline(always)]
    fn set_affinity(&self, key: &AffinityKey, affinity: &Affinity) {
        let _ = AFFINITY.insert(key, affinity, 0);
    }

    #[inline(always)]
    fn insert_affinity(&self, key: &AffinityKey, affinity: &Affinity) -> Insertion {
        insertion(AFFINITY.insert(key, affinity, BPF_NOEXIST))
    }

    #[inline(always)]
    fn nat_port(&self, port: u16) -> Option<NatPort> {
        NAT_PORTS.get(u32::from(port)).copied()
    }

    #[inline(always)]
    fn port_search(&self, pool: &PortPool) -> Option<PortSearch> {
        // SAFETY: read at once; another CPU that changes it meanwhile makes a search begin elsewhere.
        unsafe { PORT_SEARCHES.get(pool) }.copied()
    }

    #[inline(always)]
    fn set_port_search(&self, pool: &PortPool, search: &PortSearch) {
        let _ = PORT_SEARCHES.insert(pool, search, 0);
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKey) -> Option<Self::FlowSlot> {
        FLOWS.get_ptr_mut(key).and_then(NonNull::new).map(MapEntry)
    }

    #[inline(always)]
    fn reply(&self, key: &ReplyKey) -> Option<Self::ReplySlot> {
        REPLIES
            .get_ptr_mut(key)
            .and_then(NonNull::new)
            .map(MapEntry)
    }

    #[inline(always)]
    fn insert_flow(&self, key: &FlowKey, flow: &Flow) -> Insertion {
        insertion(FLOWS.insert(key, flow, BPF_NOEXIST))
    }

    #[inline(always)]
    fn insert_reply(&self, key: &ReplyKey, reply: &Reply) -> Insertion {
        insertion(REPLIES.insert(key, reply, BPF_NOEXIST))
    }

    #[inline(always)]
    fn remove_flow(&self, key: &FlowKey) {
        let _ = FLOWS.remove(key);
    }

    #[inline(always)]
    fn remove_reply(&self, key: &ReplyKey) {
        let _ = REPLIES.remove(key);
    }

    #[inline(always)]
    fn client(&self, address: Ipv4) -> Option<MapEntry<Client>> {
        CLIENTS
            .get_ptr_mut(ClientKey { address })
            .and_then(NonNull::new)
            .map(MapEntry)
    }

    #[inline(always)]
    fn insert_client(&self, address: Ipv4, client: &Client) -> Insertion {
        insertion(CLIENTS.insert(ClientKey { address }, client, BPF_NOEXIST))
    }

    #[inline(always)]
    fn client_port(&self, key: &ClientPort) -> Option<MapEntry<HeldPorts>> {
        CLIENT_PORTS
            .get_ptr_mut(key)
            .and_then(NonNull::new)
            .map(MapEntry)
    }

    #[inline(always)]
    fn insert_client_port(&self, key: &ClientPort, held: HeldPorts) {
        // Where it fails another CPU was first.
        let _ = CLIENT_PORTS.insert(key, held, BPF_NOEXIST);
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<Fragment> {
        // SAFETY: read at once; all fragments of one datagram say the same.
        unsafe { FRAGMENTS.get(key) }.copied()
    }

    #[inline(always)]
    fn insert_fragment(&self, key: &FragmentKey, fragment: &Fragment) {
        let _ = FRAGMENTS.insert(key, fragment, 0);
    }

    #[inline(always)]
    fn remove_fragment(&self, key: &FragmentKey) {
        let _ = FRAGMENTS.remove(key);
    }

    #[inline(always)]
    fn fragment_parts(&self, key: &FragmentKey) -> Option<Self::PartsSlot> {
        FRAGMENT_PARTS
            .get_ptr_mut(key)
            .and_then(NonNull::new)
            .map(MapEntry)
    }

    #[inline(always)]
    fn insert_fragment_parts(&self, key: &FragmentKey, parts: &FragmentParts) -> Insertion {
        insertion(FRAGMENT_PARTS.insert(key, parts, BPF_NOEXIST))
    }

    #[inline(always)]
    fn set_fragment_parts(&self, key: &FragmentKey, parts: &FragmentParts) {
        let _ = FRAGMENT_PARTS.insert(key, parts, 0);
    }

    #[inline(always)]
    fn remove_fragment_parts(&self, key: &FragmentKey) {
        let _ = FRAGMENT_PARTS.remove(key);
    }

    #[inline(always)]
    fn held_index(&self) -> Option<Self::HeldIndexSlot> {
        HELD_INDEX
            .get_ptr_mut(0)
            .and_then(NonNull::new)
            .map(MapEntry)
    }

    #[inline(always)]
    fn held_found(&self) -> Option<Self::HeldFoundSlot> {
        HELD_FOUND
            .get_ptr_mut(0)
            .and_then(NonNull::new)
            .map(MapEntry)
    }

    #[inline(always)]
    fn list_held(&self, found: &Self::HeldFoundSlot, slot: u32) {
        // SAFETY: the entry lives as long as the program runs, and is this CPU's own. The count is read from there each
        // time: of one in a register the verifier would follow every value.
        let count = unsafe { core::ptr::read_volatile(&raw const (*found.0.as_ptr()).count) };
        found.with(|found| found.add(count, slot));
    }

    #[inline(always)]
    fn held_fragment(&self, number: u32) -> Option<Self::HeldSlot> {
        HELD_FRAGMENTS
            .get_ptr_mut(number)
            .and_then(NonNull::new)
            .map(MapEntry)
    }

    #[inline(always)]
    fn lock_held(&self, number: u32) -> bool {
        let key = HeldNumber { slot: number };
        HELD_LOCKS
            .insert(key, HeldLock { pad: 0 }, BPF_NOEXIST)
            .is_ok()
    }

    #[inline(always)]
    fn unlock_held(&self, number: u32) {
        let _ = HELD_LOCKS.remove(HeldNumber { slot: number });
    }

    #[inline(always)]
    fn count(&self, count: Count, packets: u32, bytes: u32) {
        if let Some(counter) = COUNTERS.get_ptr_mut(count.index()).and_then(NonNull::new) {
            MapEntry(counter).with(|counter| {
                counter.packets += u64::from(packets);
                counter.bytes += u64::from(bytes);
            });
        }
    }

    #[inline(always)]
    fn count_other_source(&self, source: Ipv4) {
        let network = SourceNetwork::of(source);
        let now = self.now();
        if let Some(seen) = OTHER_SOURCES.get_ptr_mut(network).and_then(NonNull::new) {
            MapEntry(seen).with(|seen| {
                seen.packets += 1;
                seen.last_seen = now;
            });
            return;
        }
        let first = OtherSource {
            packets: 1,
            last_seen: now,
            pad: 0,
        };
        // Where the table is full the packet is in the counters all the same.
        let _ = OTHER_SOURCES.insert(network, first, BPF_NOEXIST);
    }

    #[inline(always)]
    fn take_answer_token(&self) -> bool {
        let now = self.now();
        ANSWER_TOKENS
            .get_ptr_mut(0)
            .and_then(NonNull::new)
            .is_some_and(|tokens| MapEntry(tokens).with(|tokens| tokens.take(now)))
    }

    #[inline(always)]
    fn event(&self, event: &Event) {
        // A full ring means that userspace is behind or away: it learns of it from the counters.
        let _ = EVENTS.output(event, 0);
    }
}
