//! The one list of tables: everything else that is said of a table is made from its entry here.

/// Gives the list of tables to the macro `$then`: names, types, sizes and capacities in [`crate::abi`], the maps
/// themselves in `bridge-ebpf`.
///
/// An entry reads: constant, name for the kernel (at most 15 characters, `BPF_OBJ_NAME_LEN` less its NUL), kind and types
/// as `aya_ebpf::btf_maps` has them, bytes of key and value (or record), entries, and who finds the table:
/// * `pinned`: every program, by its pin;
/// * `engine`: the same, but no command of userspace reads it;
/// * `per_flow`: as `pinned`, with as many entries as `--flow-capacity` says;
/// * `private`: only the program itself.
///
/// The text above an entry is its documentation everywhere.
#[macro_export]
macro_rules! for_each_table {
    ($then:ident) => {
        $then! {
            /// Office networks. The value says which of the configured CIDRs it is.
            OFFICE_CIDRS = "office_cidrs": LpmTrie<Ipv4, OfficeCidr>, 8 => 4, 1_024, pinned;
            /// Pod networks, service networks, and our NAT addresses.
            CLUSTER_CIDRS = "cluster_cidrs": LpmTrie<Ipv4, ClusterCidr>, 8 => 4, 1_024, pinned;
            /// The kernel's routes as the bridge mirrors them: egress interface, NAT address, MTU, next hop.
            ROUTES = "routes": LpmTrie<Ipv4, Route>, 8 => 20, 16_384, pinned;
            /// Where XDP sends a packet and what it writes in front, by the number that a route gives; number 0 is none.
            NEXT_HOPS = "next_hops": Array<NextHop>, 4 => 24, 32_768, pinned;
            /// Next hops that XDP has looked up in `routes`, by some bits of the address. A route's prefix takes longer to
            /// look up than all else that is looked up for a packet.
            HOP_CACHE = "hop_cache": Array<CachedHop>, 4 => 8, 1_024, pinned;
            /// Remote tunnel ends from the FDBs of VXLAN devices, by the number that a next hop gives; number 0 is none.
            VTEP_FDB = "vtep_fdb": Array<Vtep>, 4 => 32, 16_384, pinned;
            /// What XDP needs to know of the node: interfaces, VXLAN devices, how long next hops are valid.
            FAST_PATH = "fast_path": Array<FastPath>, 4 => 184, 1, pinned;
            /// Service ports, and with protocol ICMP the service addresses.
            SERVICES = "services": HashMap<ServiceKey, Service>, 8 => 20, 65_536, pinned;
            /// Backend lists of all services, twice over while a list is being replaced.
            BACKENDS = "backends": HashMap<BackendKey, Backend>, 8 => 8, 262_144, pinned;
            /// Which backend a client of a service with session affinity came to last. As in the kernel's own `recent`
            /// match, the clients that came last are kept.
            AFFINITY = "affinity": LruHashMap<AffinityKey, Affinity>, 12 => 12, 65_536, pinned;
            /// Forward entries of flows: client to backend.
            FLOWS = "flows": HashMap<FlowKey, Flow>, 16 => 32, 262_144, per_flow;
            /// Reply entries of flows: backend to client.
            REPLIES = "replies": HashMap<ReplyKey, Reply>, 16 => 24, 262_144, per_flow;
            /// Ethernet addresses beside the interfaces' own that this host takes frames for: those of macvlan devices.
            LINK_ADDRESSES = "link_addresses": HashMap<LinkAddress, UpperLink>, 12 => 4, 256, pinned;
            /// Networks (/24) that are none of the office's and whose packets to services were refused.
            OTHER_SOURCES = "other_sources": HashMap<SourceNetwork, OtherSource>, 4 => 16, 64, pinned;
            /// Ports of datagrams whose fragments are on their way. The oldest may be evicted: a fragment is of use for a
            /// moment only.
            FRAGMENTS = "fragments": LruHashMap<FragmentKey, Fragment>, 12 => 8, 65_536, pinned;
            /// How far each of these datagrams is, and what has gone on of it. Of use for as long. On a machine with many
            /// CPUs each keeps up to 128 entries free for itself, so it is larger than the floods that it has to stand.
            FRAGMENT_PARTS = "fragment_parts": LruHashMap<FragmentKey, FragmentParts>, 12 => 44, 32_768, engine;
            /// Later fragments that have come before their first, each a whole frame.
            HELD_FRAGMENTS = "held_fragments": Array<HeldFragment>, 4 => 1_920, 512, engine;
            /// Which of them is in which slot.
            HELD_INDEX = "held_index": Array<HeldIndex>, 4 => 8_200, 1, engine;
            /// Slots that a CPU is about to read or write, for the moment that it takes.
            HELD_LOCKS = "held_locks": HashMap<HeldNumber, HeldLock>, 4 => 4, 512, engine;
            /// Entry n: the n-th port that may be chosen, and whether port n is the node's own.
            NAT_PORTS = "nat_ports": Array<NatPort>, 4 => 4, 65_536, pinned;
            /// How the search for NAT ports goes where hardly any is free, by backend port and NAT address.
            PORT_SEARCHES = "port_searches": LruHashMap<PortPool, PortSearch>, 12 => 12, 4_096, pinned;
            /// What each client has and takes. Those that were seen last are kept: who sends from many addresses hides none
            /// of the others.
            CLIENTS = "clients": LruHashMap<ClientKey, Client>, 4 => 24, 65_536, pinned;
            /// NAT ports that clients with many flows have towards a backend's port.
            CLIENT_PORTS = "client_ports": LruHashMap<ClientPort, HeldPorts>, 12 => 4, 4_096, pinned;
            /// What the operator has configured, and how many NAT ports there are.
            SETTINGS = "settings": Array<Settings>, 4 => 80, 1, pinned;
            /// Packets and bytes by what was done with them, and by the reason of each drop.
            COUNTERS = "counters": PerCpuArray<Counter>, 4 => 16, 64, pinned;
            /// Token bucket for ICMP errors, resets and echo replies.
            ANSWER_TOKENS = "answer_tokens": PerCpuArray<AnswerTokens>, 4 => 8, 1, pinned;
            /// Rare events for userspace: a full table, no NAT port. The capacity is in bytes.
            EVENTS = "events": RingBuf<Event>, 0 => 20, 65_536, pinned;
            /// The program that goes on with fragments behind `uplink_ingress` and `cluster_ingress`.
            TC_NEXT = "tc_next": ProgramArray<>, 4 => 4, 1, pinned;
            /// The program that opens flows for `xdp_fast`.
            XDP_NEXT = "xdp_next": ProgramArray<>, 4 => 4, 1, pinned;
            /// The program that opens flows for `xdp_fast_frags`: the kernel lets no program go on with one that differs in
            /// this.
            XDP_NEXT_FRAGS = "xdp_next_frags": ProgramArray<>, 4 => 4, 1, pinned;
            /// Bytes that an ICMP error quotes, while they are summed up: the stack of a program is too small for them.
            SCRATCH = "scratch": PerCpuArray<Scratch>, 4 => 128, 1, private;
            /// Slots of `held_fragments` that are about to be released: found first, and then gone through, which takes a
            /// verifier a fraction of what one loop does.
            HELD_FOUND = "held_found": PerCpuArray<HeldFound>, 4 => 260, 1, private;
            /// What the clock said when the kernel's tick was last counted: asking the coarse clock takes two calls and a
            /// division, and it ticks with the jiffies.
            CLOCK = "clock": PerCpuArray<Clock>, 4 => 16, 1, private;
            /// When a line was last logged.
            LAST_LOG = "last_log": PerCpuArray<Seconds>, 4 => 4, 1, private;
        }
    };
}
