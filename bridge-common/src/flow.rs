//! Finding the flow of a packet from a client, or opening one.
//!
//! A flow is two entries: `flows`, found by what the client wrote, and `replies`, found by what the
//! backend wrote. The reply entry is claimed first, so that a forward entry never points nowhere;
//! of two CPUs that open the same flow, the one that comes second uses the mapping of the first.

use crate::answer::AnswerKind;
use crate::fragment;
use crate::layout::{
    Affinity, AffinityKey, Backend, BackendKey, DestinationKind, Event, EventKind, Flow, FlowKey,
    Ipv4, Layer, Reply, ReplyKey, Route, Seconds, Service, ServiceKey, Settings, capacity,
};
use crate::lifetime::{FlowState, is_expired, since, untranslated_timeout};
use crate::packet::Packet;
use crate::parse::{Datagram, ICMP, Payload, TCP, Transport};
use crate::ports::{self, Refused};
use crate::rewrite::{Endpoint, Translation};
use crate::tables::{Insertion, Slot, Tables};
use crate::tcp::{Seen, flag};
use crate::verdict::{Count, Detour, DropReason, PackedVerdict, Verdict};

/// Seconds after which a forward entry looks at its reply entry again: the bound for noticing that
/// it was removed, expired or closed by the other side. A power of two.
const CONFIRM_PERIOD: Seconds = 8;

/// How packets of a flow from the client are translated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    /// The new destination.
    pub backend: Endpoint,
    /// The new source.
    pub nat: Endpoint,
    /// A [`Layer`] as a number.
    pub layer: u8,
}

impl Mapping {
    /// The mapping that an entry holds.
    #[must_use]
    #[inline(always)]
    pub const fn of(flow: &Flow) -> Self {
        Self {
            backend: Endpoint {
                address: flow.backend,
                port: flow.backend_port,
            },
            nat: Endpoint {
                address: flow.nat,
                port: flow.nat_port,
            },
            layer: flow.layer,
        }
    }

    /// What a packet from the client becomes.
    #[must_use]
    #[inline(always)]
    pub const fn translation(&self) -> Translation {
        Translation {
            source: self.nat,
            destination: self.backend,
        }
    }
}

/// The key of a packet from a client.
#[must_use]
#[inline(always)]
pub const fn key(datagram: &Datagram, transport: &Transport) -> FlowKey {
    FlowKey {
        client: datagram.source(),
        destination: datagram.destination(),
        client_port: transport.source_port,
        destination_port: transport.destination_port,
        protocol: datagram.protocol(),
        pad: 0,
        pad2: 0,
    }
}

/// The key of a packet from a backend.
#[must_use]
#[inline(always)]
pub const fn reply_key(datagram: &Datagram, transport: &Transport) -> ReplyKey {
    ReplyKey {
        backend: datagram.source(),
        nat: datagram.destination(),
        backend_port: transport.source_port,
        nat_port: transport.destination_port,
        protocol: datagram.protocol(),
        pad: 0,
        pad2: 0,
    }
}

/// The entry of a flow that is there and alive.
#[inline(always)]
pub fn find<T: Tables>(
    tables: &T,
    key: &FlowKey,
    transport: &Transport,
    now: Seconds,
) -> Option<T::FlowSlot> {
    let slot = tables.flow(key)?;
    let seen = slot.with(|flow| flow.last_seen);
    let due = seen / CONFIRM_PERIOD != now / CONFIRM_PERIOD;
    if (due || transport.tcp_flags & flag::SYN != 0) && !confirm(tables, key, transport.tcp_flags) {
        return None;
    }
    Some(slot)
}

/// Counts a packet from the client, which keeps the flow alive.
#[inline(always)]
pub fn record(flow: &mut Flow, now: Seconds, tcp_flags: u8, packets: u32, bytes: u32) {
    touch(&mut flow.last_seen, &mut flow.tcp_seen, now, tcp_flags);
    flow.count(packets, bytes);
}

/// Counts a packet from the backend.
#[inline(always)]
pub fn record_reply(reply: &mut Reply, now: Seconds, tcp_flags: u8, packets: u32, bytes: u32) {
    touch(&mut reply.last_seen, &mut reply.tcp_seen, now, tcp_flags);
    reply.count(packets, bytes);
}

/// Adds the counters of a reply entry to those of its flow. A packet of the client that comes by on another CPU in the
/// same instant may cost them: they are statistics.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn pour<T: Tables>(tables: &T, key: &ReplyKey) {
    let Some(slot) = tables.reply(key) else {
        return;
    };
    let reply = slot.with(|reply| *reply);
    if let Some(flow) = tables.flow(&key.flow_key(&reply)) {
        flow.with(|flow| slot.with(|reply| reply.pour_into(flow)));
    }
}

/// Notes when and with which flags a direction was last used. A second reset does not refresh
/// (RFC 7857 section 2.2).
#[inline(always)]
pub fn touch(last_seen: &mut Seconds, tcp_seen: &mut u8, now: Seconds, tcp_flags: u8) {
    let repeated_reset = tcp_flags & flag::RST != 0 && *tcp_seen & Seen::RST != 0;
    if !repeated_reset {
        *last_seen = now;
    }
    *tcp_seen = Seen(*tcp_seen).and(tcp_flags).0;
}

/// Whether both halves of a flow are still there, belong together and have not run out. What is left
/// of one that is not is removed; a lost reply entry is put back.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn confirm<T: Tables>(tables: &T, key: &FlowKey, tcp_flags: u8) -> bool {
    let (Some(slot), Some(settings)) = (tables.flow(key), tables.settings()) else {
        return false;
    };
    let now = tables.now();
    let flow = slot.with(|flow| *flow);
    if flow.layer == Layer::Kernel as u8 {
        let opens = tcp_flags & (flag::SYN | flag::ACK) == flag::SYN;
        let alive = since(now, flow.last_seen)
            < untranslated_timeout(key.protocol, &flow, &settings.timeouts)
            && !opens;
        if !alive {
            tables.remove_flow(key);
        }
        return alive;
    }
    let reply_key = key.reply_key(&flow);
    let Some(reply) = tables
        .reply(&reply_key)
        .map(|slot| slot.with(|reply| *reply))
    else {
        let restored = since(now, flow.last_seen) < settings.timeouts.tcp_transitory
            && match tables.insert_reply(&reply_key, &reply_of(key, now, flow.layer)) {
                Insertion::Done => true,
                // Another CPU has put it back, unless it is another flow's by now.
                Insertion::Exists => tables
                    .reply(&reply_key)
                    .is_some_and(|slot| slot.with(|reply| reply_key.flow_key(reply)) == *key),
                Insertion::Full => false,
            };
        if !restored {
            tables.remove_flow(key);
        }
        return restored;
    };
    if reply_key.flow_key(&reply) != *key {
        tables.remove_flow(key);
        return false;
    }
    let expired = is_expired(key.protocol, &flow, &reply, now, &settings.timeouts);
    let replaced =
        tcp_flags & flag::SYN != 0 && FlowState::of(key.protocol, &flow, &reply).is_over();
    if expired || replaced {
        tables.remove_flow(key);
        tables.remove_reply(&reply_key);
        return false;
    }
    true
}

const fn reply_of(key: &FlowKey, now: Seconds, layer: u8) -> Reply {
    Reply {
        client: key.client,
        destination: key.destination,
        client_port: key.client_port,
        destination_port: key.destination_port,
        last_seen: now,
        bytes: 0,
        packets: 0,
        tcp_seen: 0,
        layer,
    }
}

/// Opens a flow for a packet from a client that has none. [`Verdict::Detour`] says that it is open now; any other
/// is the verdict on a packet that must not, or cannot, open one.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn open<P: Packet, T: Tables>(packet: &P, tables: &T) -> PackedVerdict {
    match try_open(packet, tables) {
        Ok(()) => Verdict::Detour(Detour::OpenFlow),
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
        Payload::LaterFragment => fragment::recall(tables, &datagram).ok_or(Verdict::Pass)?,
        Payload::IcmpError | Payload::Unsupported => return Err(Verdict::Pass),
    };
    let key = &key(&datagram, transport);
    if !tables.is_office(key.client) {
        return Err(Verdict::Pass);
    }
    let settings = tables.settings().ok_or(Verdict::Pass)?;
    let is_service = matches!(kind, DestinationKind::Service);
    if is_service && settings.stack_only != 0 {
        // The fragments that follow go the same way, be it nowhere.
        fragment::remember(tables, &datagram, transport);
    }
    if is_service && is_kube_proxys(tables, key, settings) {
        // From the first packet to the last, whatever is known of the service by then.
        if key.protocol != ICMP && transport.tcp_flags & flag::RST == 0 {
            leave(tables, key);
        }
        return Err(Verdict::ToStack);
    }
    if key.protocol == TCP && !transport.opens {
        return match without_syn(tables, key, transport, is_service) {
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
        balance(tables, key, settings)?
    } else if transport.opens {
        Endpoint {
            address: key.destination,
            port: key.destination_port,
        }
    } else {
        // An echo reply: a pod has asked by itself. The fragments that follow pass like this one.
        fragment::remember(tables, &datagram, transport);
        return Err(Verdict::Pass);
    };
    // Read before the route: a change that comes in between advances it again.
    let epoch = tables.fast_path().map_or(0, |fast| fast.epoch as u16);
    let route = match tables.route(backend.address) {
        Some(route) if route.is_unreachable() => {
            return Err(Verdict::Reject(
                DropReason::NoRoute,
                AnswerKind::HostUnreachable.answer(),
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
#[inline(always)]
pub(crate) fn open_departing<T: Tables>(
    tables: &T,
    key: &FlowKey,
    transport: &Transport,
) -> Result<(), Verdict> {
    if key.protocol == TCP && !transport.opens {
        return without_syn(tables, key, transport, false);
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

/// Notes that a pod sends to the office by itself: the answers, which look like new flows, are not ours.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn leave_to_kernel<P: Packet, T: Tables>(packet: &P, tables: &T) {
    // Whatever can't be read opens nothing.
    let _ = note_departure(packet, tables);
}

#[inline(always)]
fn note_departure<P: Packet, T: Tables>(packet: &P, tables: &T) -> Option<()> {
    let datagram = Datagram::parse(packet)?;
    let transport = match (
        Transport::portless(&datagram),
        Payload::of(packet, &datagram),
    ) {
        (Some(portless), _) => portless,
        (None, Payload::Transport(transport)) => transport,
        _ => return None,
    };
    if tables.destination(datagram.source())? != DestinationKind::Pod {
        return None;
    }
    let key = FlowKey {
        client: datagram.destination(),
        destination: datagram.source(),
        client_port: transport.destination_port,
        destination_port: transport.source_port,
        protocol: datagram.protocol(),
        pad: 0,
        pad2: 0,
    };
    match tables.flow(&key) {
        Some(slot) => {
            let now = tables.now();
            slot.with(|flow| {
                if flow.layer == Layer::Kernel as u8 {
                    flow.last_seen = now;
                }
            });
        }
        None if transport.opens => leave(tables, &key),
        None => {}
    }
    Some(())
}

/// Marks a connection as the kernel's.
#[inline(always)]
fn leave<T: Tables>(tables: &T, key: &FlowKey) {
    let flow = Flow {
        backend: key.destination,
        nat: key.client,
        backend_port: key.destination_port,
        nat_port: key.client_port,
        last_seen: tables.now(),
        layer: Layer::Kernel as u8,
        ..Flow::default()
    };
    // Should the table be full, the answers are taken for new flows, as they were without this.
    let _ = tables.insert_flow(key, &flow);
}

/// TCP that is no plain SYN and belongs to no flow. An answer to a pod's own SYN means that the CNI does
/// not masquerade: from then on the connection is the kernel's. Anything else is the rest of a
/// connection that is no more; the client is told at once.
#[inline(always)]
fn without_syn<T: Tables>(
    tables: &T,
    key: &FlowKey,
    transport: &Transport,
    is_service: bool,
) -> Result<(), Verdict> {
    let flags = transport.tcp_flags;
    if flags & flag::RST != 0 {
        return Err(Verdict::Drop(DropReason::NoFlow));
    }
    let answers_a_pod = flags & (flag::SYN | flag::ACK) == flag::SYN | flag::ACK && !is_service;
    if !answers_a_pod {
        return Err(Verdict::Reject(
            DropReason::NoFlow,
            AnswerKind::TcpReset.answer(),
        ));
    }
    leave(tables, key);
    Err(Verdict::Pass)
}

/// Whether kube-proxy is to translate what goes to a service: whatever it alone knows, and on the stack path every
/// known service. What nothing translates must not be passed up, and nor must pings: they would come back.
#[inline(always)]
fn is_kube_proxys<T: Tables>(tables: &T, key: &FlowKey, settings: &Settings) -> bool {
    if settings.authoritative == 0 {
        return true;
    }
    settings.stack_only != 0
        && key.protocol != ICMP
        && is_known(tables, key.destination, key.destination_port, key.protocol)
}

/// Whether there is a service with this address, port and protocol; port 0 and ICMP stand for the whole address.
#[inline(always)]
pub(crate) fn is_known<T: Tables>(tables: &T, vip: Ipv4, port: u16, protocol: u8) -> bool {
    let key = ServiceKey {
        vip,
        port,
        protocol,
        pad: 0,
    };
    tables.service(&key).is_some()
}

/// A backend of the service that the client addressed.
#[inline(always)]
fn balance<T: Tables>(tables: &T, key: &FlowKey, settings: &Settings) -> Result<Endpoint, Verdict> {
    let refusal = |reason| {
        Err(Verdict::Reject(
            reason,
            if key.protocol == TCP {
                AnswerKind::TcpReset.answer()
            } else {
                AnswerKind::PortUnreachable.answer()
            },
        ))
    };
    let service_key = ServiceKey {
        vip: key.destination,
        port: key.destination_port,
        protocol: key.protocol,
        pad: 0,
    };
    let Some(service) = tables.service(&service_key) else {
        return if key.protocol == ICMP {
            Err(Verdict::Reject(
                DropReason::NoService,
                AnswerKind::HostUnreachable.answer(),
            ))
        } else {
            refusal(DropReason::NoService)
        };
    };
    if key.protocol == ICMP {
        return Err(match (settings.answer_ping, service.backend_count) {
            (0, _) => Verdict::Drop(DropReason::UnsupportedProtocol),
            (_, 0) => Verdict::Reject(DropReason::NoBackend, AnswerKind::HostUnreachable.answer()),
            _ => Verdict::Answer(AnswerKind::EchoReply.answer()),
        });
    }
    let chosen = if service.affinity_seconds == 0 {
        if service.backend_count == 1 {
            let Backend { address, port, .. } = service.only;
            return Ok(Endpoint { address, port });
        }
        any_backend(tables, &service)
    } else {
        let affinity_key = AffinityKey {
            client: key.client,
            service: service_key,
        };
        same_backend(tables, &affinity_key, &service)
    };
    match chosen {
        Some(backend) => Ok(Endpoint {
            address: backend.address,
            port: backend.port,
        }),
        None => refusal(DropReason::NoBackend),
    }
}

/// A random backend.
#[inline(always)]
fn any_backend<T: Tables>(tables: &T, service: &Service) -> Option<Backend> {
    if service.backend_count == 0 {
        return None;
    }
    tables.backend(&BackendKey {
        service_id: service.id,
        slot: tables.random() % service.backend_count,
    })
}

/// The backend that the client came to last, as long as that is not too long ago; each new flow renews it, as
/// kube-proxy's `recent` match does. Userspace removes entries that lead to a backend which the service has lost.
#[inline(always)]
fn same_backend<T: Tables>(tables: &T, key: &AffinityKey, service: &Service) -> Option<Backend> {
    let now = tables.now();
    let known = tables.affinity(key);
    let affinity = match known {
        Some(last)
            if service.backend_count != 0
                && since(now, last.last_used) < service.affinity_seconds =>
        {
            Affinity {
                last_used: now,
                ..last
            }
        }
        _ => Affinity {
            backend: any_backend(tables, service)?,
            last_used: now,
        },
    };
    if known.is_none() && matches!(tables.insert_affinity(key, &affinity), Insertion::Exists) {
        // Another CPU has chosen for the same client at the same time.
        return tables.affinity(key).map(|first| first.backend);
    }
    if known.is_some_and(|last| last != affinity) {
        tables.set_affinity(key, &affinity);
    }
    Some(affinity.backend)
}

/// The address that the backend's reply comes home to. From a configured pool each client always
/// gets the same one (RFC 4787 REQ-2, paired pooling).
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
    match ports::claim(
        tables,
        key,
        &reply_key,
        &reply_of(key, flow.last_seen, flow.layer),
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

/// Refuses a flow for want of room: userspace is told, so that it sweeps, and so is the client
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
        AnswerKind::AdministrativelyProhibited.answer(),
    ))
}
