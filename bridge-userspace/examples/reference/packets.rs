//! What `bridge-common` lists: drop reasons and tables.

use std::error::Error;

use bridge_common::abi::LAYOUT_VERSION;
use bridge_common::drops::DropReason;

use crate::markdown::{code, table};
use crate::source::Source;

/// Name, what the sender gets, meaning, what to do.
const DROP_REASONS: &[[&str; 4]] = &[
    [
        "ttl-exceeded",
        "ICMP time exceeded",
        "The TTL ended here.",
        "Nothing: traceroute. Large numbers: a routing loop.",
    ],
    [
        "too-big",
        "ICMP fragmentation needed",
        "Larger than the way to the pod takes.",
        "Nothing: path-MTU discovery. Steadily growing: a firewall keeps ICMP from the sender.",
    ],
    [
        "no-service",
        "RST, ICMP port or host unreachable",
        "No service has this VIP and port.",
        "`office-bridge services`; refresh the manifests; check the port.",
    ],
    [
        "no-backend",
        "RST, ICMP port or host unreachable",
        "The service has no ready pod.",
        "`kubectl get endpointslices -n NAMESPACE -l kubernetes.io/service-name=NAME`.",
    ],
    [
        "no-route",
        "ICMP host unreachable, or nothing",
        "The kernel has no route to the pod, or back to the client.",
        "`ip route get ADDRESS` on node-30. A pod network without a node: the address is wrong.",
    ],
    [
        "local-backend",
        "nothing",
        "The service's backend is an address of node-30 itself (a host-network pod there).",
        "Move that pod to another node, or address node-30 directly.",
    ],
    [
        "no-flow",
        "RST",
        "The middle of a TCP connection that the tables don't know.",
        "Reconnect. Often: raise `timeouts.tcpEstablished`; check that both directions pass through node-30.",
    ],
    [
        "no-nat-port",
        "ICMP administratively prohibited",
        "32 ports tried towards one backend port were all taken.",
        "`flows list --backend ADDRESS:PORT`; add `snatAddress`es.",
    ],
    [
        "table-full",
        "ICMP administratively prohibited",
        "No room for another flow.",
        "`flows list` for who has them; a larger `flowCapacity` (after `uninstall`).",
    ],
    [
        "fragment-unknown",
        "nothing",
        "A later fragment came before its first, or its first was dropped.",
        "Smaller datagrams; some device reorders.",
    ],
    [
        "icmp-unmatched",
        "nothing",
        "An ICMP error, addressed to a service, about a packet that no flow knows or that it quotes too little of.",
        "Nothing; such errors are late or forged.",
    ],
    [
        "unsupported-protocol",
        "nothing",
        "Not TCP, UDP or ping, to a service.",
        "Address a pod.",
    ],
    [
        "rewrite-failed",
        "nothing",
        "The kernel could not change the packet, most likely for want of memory.",
        "`dmesg`; report it.",
    ],
];

/// Name, type and entries, key, value, who writes and who reads.
const TABLES: &[[&str; 6]] = &[
    [
        "`office_cidrs`",
        "LPM trie, 1,024",
        "prefix",
        "`index` of the CIDR in the configuration",
        "reconciler",
        "engine: is the source an office host?",
    ],
    [
        "`cluster_cidrs`",
        "LPM trie, 1,024",
        "prefix",
        "`kind`: 1 pod, 2 service, 3 NAT address (/32)",
        "reconciler",
        "engine: first look-up of every packet, if `fast_path` does not hold them",
    ],
    [
        "`routes`",
        "LPM trie, 16,384",
        "prefix",
        "`ifindex`, `source`, `mtu`, `flags`: 1 tunnel, 2 local, 4 unreachable; `next_hop` for XDP, `gateway` for TC",
        "reconciler, from netlink",
        "engine: egress, NAT address, MTU",
    ],
    [
        "`next_hops`",
        "array, 32,768",
        "number; 0 is none",
        "`ifindex`, Ethernet addresses, `mtu`, `vtep`",
        "reconciler",
        "XDP",
    ],
    [
        "`vtep_fdb`",
        "array, 16,384",
        "number; 0 is none",
        "remote and local address, `vni`, ports, TTL, inner Ethernet addresses",
        "reconciler, from the FDBs of VXLAN devices",
        "XDP",
    ],
    [
        "`fast_path`",
        "array, 1",
        "0",
        "`epoch`; `valid_until`; interfaces with XDP; VXLAN devices; prefixes of `cluster_cidrs` if they are up to 8",
        "reconciler",
        "XDP; engine: first look-up",
    ],
    [
        "`services`",
        "hash, 65,536",
        "`vip`, `port`, `protocol`; port 0 with ICMP: the whole address",
        "`id` of a backend list, `backend_count`, `affinity_seconds`; `only`: the backend of a list of one",
        "reconciler",
        "engine: new flows; `services`",
    ],
    [
        "`backends`",
        "hash, 262,144",
        "`service_id`, `slot`",
        "`address`, `port`",
        "reconciler",
        "engine: new flows; `services`",
    ],
    [
        "`affinity`",
        "LRU hash, 65,536",
        "`client`, `service`",
        "`backend`, `last_used`",
        "engine; reconciler removes what leads to lost backends",
        "engine: new flows to services with session affinity",
    ],
    [
        "`flows`",
        "hash, 262,144 (`flowCapacity`)",
        "`client`, `destination`, `client_port`, `destination_port`, `protocol`",
        "`backend`, `nat`, their ports, `last_seen`, `packets`, `bytes_low`, `bytes_high`, `tcp_seen`, `layer`, `next_hop` and its `epoch`",
        "engine; sweep and `flows flush` remove",
        "engine; `flows`, `status`",
    ],
    [
        "`replies`",
        "hash, as many",
        "`backend`, `nat`, `backend_port`, `nat_port`, `protocol`",
        "`client`, `destination`, their ports, `last_seen`, `packets`, `bytes` (added to the flow's before they run over), `tcp_seen`, `layer`",
        "engine; sweep and `flows flush` remove",
        "engine; `flows`",
    ],
    [
        "`fragments`",
        "LRU hash, 65,536",
        "`source`, `destination`, `identification`, `protocol`",
        "both ports, `seen`",
        "engine",
        "engine",
    ],
    [
        "`nat_ports`",
        "array, 65,536",
        "n",
        "`candidate`: the n-th port that may be chosen; `reserved`: whether port n is the node's",
        "reconciler, every 10 s",
        "engine: new flows",
    ],
    [
        "`settings`",
        "array, 1",
        "0",
        "`authoritative`, `answer_ping`, `stack_only`, `nat_port_count`, `timeouts`, `snat_addresses`",
        "reconciler",
        "engine: new and silent flows; `flows`",
    ],
    [
        "`counters`",
        "per-CPU array, 64",
        "index (`verdict::Count`)",
        "`packets`, `bytes`",
        "engine",
        "`status`",
    ],
    [
        "`answer_tokens`",
        "per-CPU array, 1",
        "0",
        "a bucket of 2,000 answers a second",
        "engine",
        "engine",
    ],
    [
        "`xdp_next`, `xdp_next_frags`",
        "program array, 1",
        "0",
        "`xdp_open`, `xdp_open_frags`",
        "loader",
        "`xdp_fast`, `xdp_fast_frags`",
    ],
    [
        "`events`",
        "ring, 64 KiB",
        "",
        "table full, no NAT port; with client and destination",
        "engine",
        "`run`: sweeps at once, warns",
    ],
];

pub fn drop_reasons(_: &Source) -> Result<String, Box<dyn Error>> {
    let mut rows = Vec::new();
    for reason in DropReason::ALL {
        let [name, sender, meaning, remedy] = DROP_REASONS
            .iter()
            .find(|row| row[0] == reason.name())
            .ok_or_else(|| format!("{} is not described", reason.name()))?;
        rows.push([
            code(name),
            (*sender).to_owned(),
            (*meaning).to_owned(),
            (*remedy).to_owned(),
        ]);
    }
    Ok(format!(
        "# Drop reasons\n\nWhy packets went no further, as `office-bridge status` counts them (`drops` in JSON, \
         `office_bridge_dropped_packets_total` in the metrics). Most are answered, so that the sender knows at once; answers are \
         limited to 2,000 a second and CPU (`answer-suppressed`).\n\n{}",
        table(["reason", "the sender gets", "meaning", "what to do"], rows)
    ))
}

pub fn tables() -> String {
    format!(
        "# Tables\n\nPinned below `/sys/fs/bpf/office-bridge/v{LAYOUT_VERSION}` (`pinPath`); {LAYOUT_VERSION} is the version of \
         the layout. Addresses are bytes in network order, ports numbers in host order, times seconds of `CLOCK_MONOTONIC`.\n\n{}",
        table(
            [
                "table",
                "type, entries",
                "key",
                "value",
                "written by",
                "read by"
            ],
            TABLES.iter().map(|row| row.map(ToOwned::to_owned))
        )
    )
}
