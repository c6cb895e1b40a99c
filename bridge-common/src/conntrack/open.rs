//! Opening a flow for the first packet of a client.
//!
//! The reply entry is claimed first, so that there is never a forward entry without one. When two CPUs open the same flow,
//! the second one uses the mapping of the first.

use crate::abi::{
    DestinationKind, Event, EventKind, Flow, FlowKey, Ipv4, Layer, Route, Settings, capacity,
};
use crate::conntrack::nat_ports::{self, Refused};
use crate::conntrack::{flow, fragments, kernel_owned};
use crate::counters::Count;
use crate::drops::DropReason;
use crate::load_balancing;
use crate::packet::Packet;
use crate::packet::parse::{Datagram, ICMP, Payload, TCP, Transport, tcp_flag};
use crate::packet::rewrite::Endpoint;
use crate::tables::{Insertion, Slot, Tables};
use crate::verdict::{LocalReplyKind, PackedVerdict, SlowPath, Verdict};

/// Opens a flow for a packet from a client that has none. [`Verdict::SlowPath`] says that it is open now; any other
/// is the verdict on a packet that must not, or cannot, open one.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn open<P: Packet, T: Tables>(packet: &P, tables: &T) -> PackedVerdict {
    match try_open(packet, tables) {
        Ok(()) => Verdict::SlowPath(SlowPath::OpenFlow),
        Err(verdict) => verdict,
    }
    .into()
}

#[inline(always)]
fn try_open<P: Packet, T: Tables>(packet: &P, tables: &T) -> Result<(), Verdict> {
    let datagram = Datagram::parse(packet).ok_or(Verdict::Pass)?;
    let kind = tables
        .destination(datagram.destination())
        .ok_or(Verdict::Pass)?;
    let transport = &match Payload::of(packet, &datagram) {
        Payload::Transport(transport) => transport,
        Payload::LaterFragment => fragments::recall(tables, &datagram).ok_or(Verdict::Pass)?,
        Payload::IcmpError | Payload::Unsupported => return Err(Verdict::Pass),
    };
    let key = &flow::key(&datagram, transport);
    if !tables.is_office(key.client) {
        return Err(Verdict::Pass);
    }
    let settings = tables.settings().ok_or(Verdict::Pass)?;
    let is_service = matches!(kind, DestinationKind::Service);
    if is_service && settings.stack_only != 0 {
        // Later fragments have no ports: they take the verdict of the first.
        fragments::remember(tables, &datagram, transport);
    }
    if is_service && is_delegated_to_kube_proxy(tables, key, settings) {
        // Marked, so that the connection stays with kube-proxy even when the service becomes known.
        if key.protocol != ICMP && transport.tcp_flags & tcp_flag::RST == 0 {
            kernel_owned::mark(tables, key);
        }
        return Err(Verdict::ToStack);
    }
    if key.protocol == TCP && !transport.opens {
        return match mid_stream(tables, key, transport, is_service) {
            // The stack path knows about it, or netfilter does.
            Err(Verdict::Reject(..) | Verdict::Drop(_))
                if settings.stack_only != 0 && !is_service =>
            {
                Err(Verdict::ToStack)
            }
            other => other,
        };
    }
    if settings.stack_only != 0 && transport.opens && !is_service {
        return Err(Verdict::ToStack);
    }
    let backend = if is_service {
        load_balancing::select_backend(tables, key, settings)?
    } else if transport.opens {
        Endpoint {
            address: key.destination,
            port: key.destination_port,
        }
    } else {
        // An echo reply: a pod has asked by itself. The fragments that follow pass like this one.
        fragments::remember(tables, &datagram, transport);
        return Err(Verdict::Pass);
    };
    // Read before the route: a change that comes in between advances it again.
    let epoch = tables.fast_path().map_or(0, |fast| fast.epoch as u16);
    let route = match tables.route(backend.address) {
        Some(route) if route.is_unreachable() => {
            return Err(Verdict::Reject(
                DropReason::NoRoute,
                LocalReplyKind::HostUnreachable.without_mtu(),
            ));
        }
        Some(route) if !route.is_local() => route,
        _ if !is_service => return Err(Verdict::Pass),
        Some(_) => return Err(Verdict::Drop(DropReason::LocalBackend)),
        None => return Err(Verdict::Drop(DropReason::NoRoute)),
    };
    let flow = Flow {
        backend: backend.address,
        nat: nat_address(key, &route, settings),
        backend_port: backend.port,
        epoch,
        next_hop: route.next_hop,
        layer: Layer::Tc as u8,
        ..Flow::default()
    };
    add(tables, key, flow)
}

/// Opens a flow on the stack path for a packet that leaves for the pod `key.destination`.
///
/// # Errors
/// The verdict on a packet that must not, or cannot, open one.
#[inline(always)]
pub fn open_on_stack_path<T: Tables>(
    tables: &T,
    key: &FlowKey,
    transport: &Transport,
) -> Result<(), Verdict> {
    if key.protocol == TCP && !transport.opens {
        return mid_stream(tables, key, transport, false);
    }
    let settings = tables.settings().ok_or(Verdict::Pass)?;
    let route = tables.route(key.destination).ok_or(Verdict::Pass)?;
    if !transport.opens || route.is_unreachable() || route.is_local() {
        return Err(Verdict::Pass);
    }
    let flow = Flow {
        backend: key.destination,
        nat: nat_address(key, &route, settings),
        backend_port: key.destination_port,
        layer: Layer::Stack as u8,
        ..Flow::default()
    };
    add(tables, key, flow)
}

/// The verdict on a TCP segment, not a SYN, that belongs to no flow. A SYN-ACK answers a pod's own SYN: the CNI does not
/// masquerade, and the connection is marked as the kernel's. Anything else belongs to a connection that has expired or
/// was never seen; the client gets a reset, so that it need not wait for a timeout.
#[inline(always)]
fn mid_stream<T: Tables>(
    tables: &T,
    key: &FlowKey,
    transport: &Transport,
    is_service: bool,
) -> Result<(), Verdict> {
    let flags = transport.tcp_flags;
    if flags & tcp_flag::RST != 0 {
        return Err(Verdict::Drop(DropReason::NoFlow));
    }
    let answers_a_pod =
        flags & (tcp_flag::SYN | tcp_flag::ACK) == tcp_flag::SYN | tcp_flag::ACK && !is_service;
    if !answers_a_pod {
        return Err(Verdict::Reject(
            DropReason::NoFlow,
            LocalReplyKind::TcpReset.without_mtu(),
        ));
    }
    kernel_owned::mark(tables, key);
    Err(Verdict::Pass)
}

/// Whether kube-proxy is to translate a packet to a service. It is where only kube-proxy knows the services, and on the
/// stack path for every known service. Pings, and packets that nothing would translate, must not be passed up: the
/// kernel would route them back to the office router, which would send them here again.
#[inline(always)]
fn is_delegated_to_kube_proxy<T: Tables>(tables: &T, key: &FlowKey, settings: &Settings) -> bool {
    if settings.authoritative == 0 {
        return true;
    }
    settings.stack_only != 0
        && key.protocol != ICMP
        && load_balancing::is_known(tables, key.destination, key.destination_port, key.protocol)
}

/// The source address that the backend sees, and to which it replies. From a configured pool each client always gets the
/// same one (RFC 4787 REQ-2, paired pooling).
#[inline(always)]
fn nat_address(key: &FlowKey, route: &Route, settings: &Settings) -> Ipv4 {
    let count = settings.snat_address_count;
    if count == 0 {
        return route.source;
    }
    let index = u32::from_be_bytes(key.client) % count;
    settings
        .snat_addresses
        .get(index as usize % capacity::SNAT_ADDRESSES)
        .copied()
        .unwrap_or(route.source)
}

/// Claims a NAT port for the flow, whose mapping is complete but for that, and adds both entries.
#[inline(always)]
fn add<T: Tables>(tables: &T, key: &FlowKey, mut flow: Flow) -> Result<(), Verdict> {
    flow.last_seen = tables.now();
    let mut reply_key = key.reply_key(&flow);
    match nat_ports::claim(
        tables,
        key,
        &reply_key,
        &flow::reply_of(key, flow.last_seen, flow.layer),
    ) {
        Ok(port) => reply_key.nat_port = port,
        Err(Refused::NoPort) => {
            return refuse(tables, key, EventKind::NoNatPort, DropReason::NoNatPort);
        }
        Err(Refused::TableFull) => {
            return refuse(tables, key, EventKind::TableFull, DropReason::TableFull);
        }
    }
    flow.nat_port = reply_key.nat_port;
    match tables.insert_flow(key, &flow) {
        Insertion::Done => {
            tables.count(Count::FlowOpened, 1, 0);
            Ok(())
        }
        Insertion::Full => {
            tables.remove_reply(&reply_key);
            refuse(tables, key, EventKind::TableFull, DropReason::TableFull)
        }
        Insertion::Exists => {
            // Another CPU was first. Its mapping counts, and ours goes unless it is the same.
            let winner = tables
                .flow(key)
                .map(|slot| slot.with(|flow| *flow))
                .ok_or(Verdict::Drop(DropReason::TableFull))?;
            if key.reply_key(&winner) != reply_key {
                tables.remove_reply(&reply_key);
            }
            Ok(())
        }
    }
}

/// Refuses a flow for lack of a port or an entry. The event makes userspace collect expired flows; the client is told too
/// (RFC 5508 REQ-8).
#[inline(always)]
fn refuse<T: Tables>(
    tables: &T,
    key: &FlowKey,
    kind: EventKind,
    reason: DropReason,
) -> Result<(), Verdict> {
    tables.event(&Event {
        kind: kind as u32,
        client: key.client,
        destination: key.destination,
        client_port: key.client_port,
        destination_port: key.destination_port,
        protocol: key.protocol,
        pad: 0,
        pad2: 0,
    });
    Err(Verdict::Reject(
        reason,
        LocalReplyKind::AdministrativelyProhibited.without_mtu(),
    ))
}
