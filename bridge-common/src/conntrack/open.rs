//! Opening a flow for the first packet of a client.
//!
//! The reply entry is claimed first, so that there is never a forward entry without one. When two CPUs open the same flow,
//! the second one uses the mapping of the first.

use crate::abi::{
    DestinationKind, Event, EventKind, Flow, FlowKey, Ipv4, Layer, NatPort, Route, Settings,
};
use crate::conntrack::nat_ports::{self, Refused};
use crate::conntrack::{flow, fragments, kernel_owned};
use crate::counters::Count;
use crate::drops::DropReason;
use crate::load_balancing;
use crate::other_sources;
use crate::packet::Packet;
use crate::packet::parse::{Datagram, ICMP, Payload, TCP, Transport, UDP, tcp_flag};
use crate::packet::rewrite::Endpoint;
use crate::tables::{Insertion, Slot, Tables};
use crate::verdict::{LocalReplyKind, PackedVerdict, SlowPath, Verdict};

/// Opens a flow for a packet from a client that has none. [`Verdict::SlowPath`] says that it is open now; any other
/// is the verdict on a packet that must not, or cannot, open one.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn open<P: Packet, T: Tables>(packet: &P, tables: &T) -> PackedVerdict {
    match try_open(packet, tables) {
        Ok(()) => Verdict::SlowPath(SlowPath::OpenFlow).into(),
        Err(verdict) => verdict,
    }
}

#[inline(always)]
fn try_open<P: Packet, T: Tables>(packet: &P, tables: &T) -> Result<(), PackedVerdict> {
    let datagram = Datagram::parse(packet).ok_or(Verdict::Pass)?;
    let kind = tables
        .destination(datagram.destination())
        .ok_or(Verdict::Pass)?;
    let transport = &match Payload::of(packet, &datagram) {
        Payload::Transport(transport) => transport,
        Payload::LaterFragment => fragments::recall(tables, &datagram).ok_or(Verdict::Pass)?,
        Payload::IcmpError | Payload::Unsupported => return Err(PackedVerdict::PASS),
    };
    let key = &flow::key(&datagram, transport);
    if !tables.is_office(key.client) {
        return Err(other_sources::verdict(
            tables,
            key.client,
            (key.destination, key.destination_port),
            key.protocol,
            kind,
        )
        .into());
    }
    let settings = tables.settings().ok_or(Verdict::Pass)?;
    let is_service = matches!(kind, DestinationKind::Service);
    if is_service && (settings.stack_only != 0 || key.protocol == ICMP) {
        // Later fragments have no ports: they take the verdict of the first.
        fragments::remember(tables, &datagram, transport);
    }
    if is_service && is_delegated_to_kube_proxy(tables, key, settings) {
        // Marked, so that the connection stays with kube-proxy even when the service becomes known.
        if key.protocol != ICMP && transport.tcp_flags & tcp_flag::RST == 0 {
            kernel_owned::mark(tables, key, Layer::Kernel);
        }
        return Err(PackedVerdict::TO_STACK);
    }
    if !is_service && may_answer_pod(key, transport) {
        return pass_answer(tables, key);
    }
    if !is_service && settings.stack_only != 0 && (transport.opens || key.protocol == TCP) {
        return Err(PackedVerdict::TO_STACK);
    }
    let is_under_way = key.protocol == TCP && !transport.opens;
    if is_under_way {
        may_adopt(transport)?;
    }
    let backend = if is_service && is_under_way {
        load_balancing::known_backend(tables, key).ok_or(NO_FLOW)?
    } else if is_service {
        if key.protocol == ICMP && !transport.opens && !datagram.is_later_fragment() {
            return Err(PackedVerdict::drop(DropReason::UnsupportedProtocol));
        }
        load_balancing::select_backend(tables, key, settings)?
    } else if transport.opens || is_under_way {
        Endpoint {
            address: key.destination,
            port: key.destination_port,
        }
    } else {
        // An echo reply: a pod has asked by itself. The fragments that follow pass like this one.
        fragments::remember(tables, &datagram, transport);
        return Err(PackedVerdict::PASS);
    };
    let route = match tables.route(backend.address) {
        Some(route) if route.is_unreachable() => {
            return Err(PackedVerdict::reject(
                DropReason::NoRoute,
                LocalReplyKind::HostUnreachable,
            ));
        }
        Some(route) if !route.is_local() || is_service => route,
        _ if !is_service => return Err(PackedVerdict::PASS),
        _ => return Err(PackedVerdict::drop(DropReason::NoRoute)),
    };
    let (nat, layer) = if !route.is_local() {
        (nat_address(key, &route, settings), Layer::Tc)
    } else if settings.has(Settings::HAS_LOCAL_BACKENDS) {
        (key.client, Layer::Local)
    } else {
        return Err(PackedVerdict::drop(DropReason::LocalBackend));
    };
    let flow = Flow {
        backend: backend.address,
        nat,
        backend_port: backend.port,
        layer: layer as u8,
        ..Flow::default()
    };
    if is_under_way {
        adopt(tables, key, flow)
    } else {
        add(tables, key, flow)
    }
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
) -> Result<(), PackedVerdict> {
    let is_under_way = key.protocol == TCP && !transport.opens;
    if may_answer_pod(key, transport) {
        kernel_owned::mark(tables, key, Layer::Kernel);
        return Err(PackedVerdict::PASS);
    }
    if is_under_way {
        may_adopt(transport)?;
    }
    let settings = tables.settings().ok_or(Verdict::Pass)?;
    let route = tables.route(key.destination).ok_or(Verdict::Pass)?;
    if !(transport.opens || is_under_way) || route.is_unreachable() || route.is_local() {
        return Err(PackedVerdict::PASS);
    }
    let flow = Flow {
        backend: key.destination,
        nat: nat_address(key, &route, settings),
        backend_port: key.destination_port,
        layer: Layer::Stack as u8,
        ..Flow::default()
    };
    if is_under_way {
        adopt(tables, key, flow)
    } else {
        add(tables, key, flow)
    }
}

/// The lowest port that hosts choose by themselves, on most systems (`net.ipv4.ip_local_port_range`).
const FIRST_EPHEMERAL_PORT: u16 = 32_768;

/// Whether a packet without a flow answers what a pod has sent by another node: there is a flow, or a mark, where it was
/// sent by this one. A SYN-ACK does. What else TCP has to say does if its ports are a server's and a client's the other
/// way round. UDP has only the ports to tell by.
#[inline(always)]
const fn may_answer_pod(key: &FlowKey, transport: &Transport) -> bool {
    const SYN_ACK: u8 = tcp_flag::SYN | tcp_flag::ACK;
    let to_client_port = key.destination_port >= FIRST_EPHEMERAL_PORT;
    match key.protocol {
        TCP if transport.tcp_flags & SYN_ACK == SYN_ACK => true,
        TCP => {
            transport.tcp_flags & SYN_ACK == tcp_flag::ACK
                && to_client_port
                && key.client_port < FIRST_EPHEMERAL_PORT
        }
        UDP => to_client_port && key.client_port < NatPort::FIRST_USER,
        _ => false,
    }
}

/// Lets an answer to a pod of another node pass as it is, and those that follow. Nothing can be opened so: a SYN ends the
/// mark, and a pod answers any other segment of a connection that it does not have with a reset. Of a connection of this
/// node's own pods the kernel has seen the other direction, and must see this one.
#[inline(always)]
fn pass_answer<T: Tables>(tables: &T, key: &FlowKey) -> Result<(), PackedVerdict> {
    match tables.route(key.destination) {
        Some(route)
            if !route.is_local()
                && !route.is_unreachable()
                && (route.gateway != [0; 4] || route.is_tunnel())
                && kernel_owned::mark(tables, key, Layer::Passed) =>
        {
            Ok(())
        }
        _ => Err(PackedVerdict::PASS),
    }
}

/// What becomes of a TCP segment without a flow that can't be helped: its sender need not wait for a timeout.
const NO_FLOW: PackedVerdict = PackedVerdict::reject(DropReason::NoFlow, LocalReplyKind::TcpReset);

/// Whether a TCP segment that is no SYN may open a flow: it belongs to a connection whose flow was lost, with the node's
/// memory most likely. One that ends a connection is not worth it, and a late one must not leave a flow behind.
///
/// # Errors
/// The verdict on one that may not.
#[inline(always)]
const fn may_adopt(transport: &Transport) -> Result<(), PackedVerdict> {
    let flags = transport.tcp_flags;
    if flags & tcp_flag::RST != 0 {
        return Err(PackedVerdict::drop(DropReason::NoFlow));
    }
    if flags & (tcp_flag::SYN | tcp_flag::ACK | tcp_flag::FIN) != tcp_flag::ACK {
        return Err(NO_FLOW);
    }
    Ok(())
}

/// Adds the flow of a connection that is under way. It had the client's own port, most likely, and must have it again:
/// if that was not so, the backend knows nothing of it, and ends it with a reset as we would.
#[inline(always)]
fn adopt<T: Tables>(tables: &T, key: &FlowKey, mut flow: Flow) -> Result<(), PackedVerdict> {
    flow.last_seen = tables.now();
    flow.nat_port = key.client_port;
    let reply = flow::reply_of(key, flow.last_seen, flow.layer);
    if !nat_ports::claim_own(tables, key, &key.reply_key(&flow), &reply) {
        return Err(NO_FLOW);
    }
    insert(tables, key, &flow, Count::FlowAdopted)
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

/// The source address that the backend sees, and to which it replies.
#[inline(always)]
fn nat_address(key: &FlowKey, route: &Route, settings: &Settings) -> Ipv4 {
    settings
        .pool_index(key.client)
        .and_then(|index| settings.snat_addresses.get(index).copied())
        .unwrap_or(route.source)
}

/// Claims a NAT port for the flow, whose mapping is complete but for that, and adds both entries.
#[inline(always)]
fn add<T: Tables>(tables: &T, key: &FlowKey, mut flow: Flow) -> Result<(), PackedVerdict> {
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
        // Userspace has been told.
        Err(Refused::Shortage) => return Err(prohibit(DropReason::NoNatPort)),
        Err(Refused::TableFull) => {
            return refuse(tables, key, EventKind::TableFull, DropReason::TableFull);
        }
    }
    flow.nat_port = reply_key.nat_port;
    insert(tables, key, &flow, Count::FlowOpened)
}

/// Adds the forward entry of a flow whose reply entry is claimed.
#[inline(always)]
fn insert<T: Tables>(
    tables: &T,
    key: &FlowKey,
    flow: &Flow,
    opened: Count,
) -> Result<(), PackedVerdict> {
    let reply_key = key.reply_key(flow);
    match tables.insert_flow(key, flow) {
        Insertion::Done => {
            tables.count(opened, 1, 0);
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
) -> Result<(), PackedVerdict> {
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
    Err(prohibit(reason))
}

const fn prohibit(reason: DropReason) -> PackedVerdict {
    PackedVerdict::reject(reason, LocalReplyKind::AdministrativelyProhibited)
}
