//! ICMP errors (RFC 792) about translated packets, in both directions.
//!
//! The flow is found by the packet that the error quotes, so the error may come from any router on
//! the way. Outer addresses, the quoted addresses, ports and checksums are translated back (RFC 5508
//! section 4, RFC 5382 REQ-9). An error neither refreshes nor ends a flow (RFC 4787 REQ-12).

use crate::abi::{DestinationKind, FlowKey, Ipv4, Layer, ReplyKey};
use crate::conntrack::flow::{Mapping, to_client};
use crate::counters::Count;
use crate::drops::DropReason;
use crate::packet::checksum::Difference;
use crate::packet::parse::{Datagram, ICMP, Payload, TCP, Transport, UDP, checksum_offset};
use crate::packet::rewrite::{ICMP_IDENTIFIER, Translation, addresses};
use crate::packet::{ChecksumKind, OutOfBounds, Packet};
use crate::path::unsupported::{other_layer_verdict, unsupported_verdict};
use crate::tables::{Slot, Tables};
use crate::verdict::{PackedVerdict, Verdict};

/// Bytes of an ICMP error's header, before the quoted packet.
const ICMP_HEADER: u32 = 8;

/// The packet that an error quotes, as far as the quote goes.
struct Quote {
    datagram: Datagram,
    transport: Transport,
    /// Offset of the quoted transport header.
    transport_at: u32,
}

impl Quote {
    #[inline(always)]
    fn read<P: Packet>(packet: &P, outer: &Datagram) -> Option<Self> {
        let at = outer.header_len + ICMP_HEADER;
        if outer.total_len < at + 20 {
            return None;
        }
        let datagram = Datagram::at(packet, at)?;
        let transport_at = at + datagram.header_len;
        if datagram.is_later_fragment() || outer.total_len < transport_at + 8 {
            return None;
        }
        let head = packet.load::<8>(transport_at).ok()?;
        let first = u16::from_be_bytes([head[0], head[1]]);
        let second = u16::from_be_bytes([head[2], head[3]]);
        let transport = match datagram.protocol() {
            // Eight bytes may be all there is of a TCP header, so its length and flags are not asked for.
            TCP | UDP => Transport {
                source_port: first,
                destination_port: second,
                ..Transport::default()
            },
            ICMP => match Payload::at(packet, transport_at, 8, ICMP) {
                Payload::Transport(echo) => echo,
                _ => return None,
            },
            _ => Transport::portless(&datagram)?,
        };
        Some(Self {
            datagram,
            transport,
            transport_at,
        })
    }

    /// Translates the quoted packet in place; `outer_end` is where the error ends.
    #[inline(always)]
    fn rewrite<P: Packet>(
        &self,
        packet: &mut P,
        outer_end: u32,
        translation: &Translation,
    ) -> Result<Difference, OutOfBounds> {
        let at = self.transport_at - self.datagram.header_len;
        let Translation {
            source,
            destination,
        } = *translation;
        let protocol = self.datagram.protocol();
        let changed = addresses(
            packet,
            at,
            &self.datagram,
            source.address,
            destination.address,
            self.datagram.ip.ttl,
        )?;
        if !matches!(protocol, TCP | UDP | ICMP) {
            return Ok(Difference::default());
        }
        let ports = Difference::default()
            .replace(
                self.transport.source_port.to_be_bytes(),
                source.port.to_be_bytes(),
            )
            .replace(
                self.transport.destination_port.to_be_bytes(),
                destination.port.to_be_bytes(),
            );
        // The quoted IPv4 header contributes nothing: its own checksum makes up for the new addresses.
        let mut total = ports;
        if protocol == ICMP {
            let identifier = source.port | destination.port;
            packet.store(
                self.transport_at + ICMP_IDENTIFIER,
                &identifier.to_be_bytes(),
            )?;
        } else {
            let [s0, s1] = source.port.to_be_bytes();
            let [d0, d1] = destination.port.to_be_bytes();
            packet.store(self.transport_at, &[s0, s1, d0, d1])?;
        }
        let checksum_at = self.transport_at + checksum_offset(protocol);
        if checksum_at + 2 <= outer_end {
            let before = packet.load::<2>(checksum_at)?;
            let after = match protocol {
                ICMP => ports.apply(before),
                UDP => changed.and(ports).apply_udp(before),
                _ => changed.and(ports).apply(before),
            };
            packet.store(checksum_at, &after)?;
            total = total.replace(before, after);
        }
        Ok(total)
    }
}

/// How an ICMP error is translated: outer addresses, and the packet that it quotes.
#[derive(Clone, Copy, Default)]
pub struct ErrorTranslation {
    /// What the quoted packet's source and destination become.
    quoted: Translation,
    /// The new outer source.
    source: Ipv4,
    /// The new outer destination.
    destination: Ipv4,
    /// The layer of the flow, as a number.
    layer: u8,
    /// Whether it goes to the client.
    to_client: bool,
    /// Whether the kernel goes on with the error: it is translated where its flow is.
    in_place: bool,
}

/// An error in one piece, and what it quotes, which its receiver has sent.
#[inline(always)]
fn read<P: Packet>(packet: &P) -> Option<(Datagram, Quote)> {
    let outer = Datagram::parse(packet)?;
    let quote = Quote::read(packet, &outer)?;
    (!outer.is_fragment() && quote.datagram.source() == outer.destination())
        .then_some((outer, quote))
}

/// Finds the flow that an ICMP error belongs to, and how it is to be translated; `false` when it is none of ours.
///
/// An error from the office quotes what the backend sent, translated to the client; one from the cluster, which
/// comes to our NAT address, quotes what the client sent, translated to the backend. `is_departing` says that the
/// kernel has routed the error already, and that it is about to leave.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn find<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    is_departing: bool,
    found: &mut ErrorTranslation,
) -> bool {
    let Some((outer, quote)) = read(packet) else {
        return false;
    };
    if outer.ip.ttl <= 1 && !is_departing {
        return false;
    }
    if is_from_backend(tables, &outer) {
        let is_found = find_reply(tables, &quote, outer.source(), found);
        found.in_place = found.layer == Layer::Stack as u8;
        is_found
    } else {
        let is_found = find_flow(tables, &quote, found);
        found.in_place = is_departing || found.layer == Layer::Local as u8;
        is_found
    }
}

/// [`find`] for an error of this node itself about what a client has sent to a backend here.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn find_of_local_backend<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    found: &mut ErrorTranslation,
) -> bool {
    let Some((outer, quote)) = read(packet) else {
        return false;
    };
    found.in_place = true;
    find_reply(tables, &quote, outer.source(), found) && found.layer == Layer::Local as u8
}

/// The verdict on an error that no flow knows. It passes, but not to a service address: the kernel would route it back to
/// the office router.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn unmatched_verdict<P: Packet, T: Tables>(packet: &P, tables: &T) -> PackedVerdict {
    let Some(datagram) = Datagram::parse(packet) else {
        return Verdict::Pass.into();
    };
    match tables.destination(datagram.destination()) {
        Some(kind) => unsupported_verdict(tables, &datagram, kind, DropReason::IcmpUnmatched),
        None => Verdict::Pass,
    }
    .into()
}

#[inline(always)]
fn is_from_backend<T: Tables>(tables: &T, outer: &Datagram) -> bool {
    tables.destination(outer.destination()) == Some(DestinationKind::Nat)
}

/// Translates an ICMP error as [`find`] said.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn translate<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    found: &ErrorTranslation,
) -> PackedVerdict {
    try_translate(packet, tables, found).into()
}

#[inline(always)]
fn try_translate<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    found: &ErrorTranslation,
) -> Verdict {
    let Some(outer) = Datagram::parse(packet) else {
        return Verdict::Pass;
    };
    if Layer::is_untranslated(found.layer) && found.in_place {
        return Verdict::Pass;
    }
    if !Layer::is_forwarded(found.layer) && !found.in_place {
        // The stack path translates it at egress, if at all.
        return tables
            .destination(outer.destination())
            .map_or(Verdict::Pass, |kind| other_layer_verdict(found.layer, kind));
    }
    let Some(quote) = Quote::read(packet, &outer) else {
        return Verdict::Pass;
    };
    let count = if found.to_client {
        Count::ToClient
    } else {
        Count::ToBackend
    };
    let (onward, ttl) = if found.in_place {
        (Verdict::Continue, outer.ip.ttl)
    } else {
        match tables.route(found.destination) {
            Some(route) if !route.is_unreachable() && !route.is_local() => {
                packet.set_neighbour(route.neighbour(found.destination));
                let onward = Verdict::Forward {
                    ifindex: route.ifindex,
                };
                (onward, outer.ip.ttl.wrapping_sub(1))
            }
            _ => return Verdict::Drop(DropReason::NoRoute),
        }
    };
    let written = quote
        .rewrite(packet, outer.total_len, &found.quoted)
        .and_then(|total| {
            addresses(packet, 0, &outer, found.source, found.destination, ttl)?;
            packet.update_checksum(
                outer.header_len + checksum_offset(ICMP),
                Difference::default(),
                total,
                ChecksumKind::Plain,
            )
        });
    if written.is_err() {
        return Verdict::Drop(DropReason::RewriteFailed);
    }
    tables.count(count, 1, outer.total_len);
    onward
}

/// The flow whose reply a host in the office, or a router on the way there, complains about.
#[inline(always)]
fn find_flow<T: Tables>(tables: &T, quote: &Quote, found: &mut ErrorTranslation) -> bool {
    let key = FlowKey {
        client: quote.datagram.destination(),
        destination: quote.datagram.source(),
        client_port: quote.transport.destination_port,
        destination_port: quote.transport.source_port,
        protocol: quote.datagram.protocol(),
        pad: 0,
        pad2: 0,
    };
    let Some(slot) = tables.flow(&key) else {
        return false;
    };
    let mapping = slot.with(|flow| Mapping::of(flow));
    *found = ErrorTranslation {
        // The quoted packet went from the backend to the NAT endpoint.
        quoted: Translation {
            source: mapping.backend,
            destination: mapping.nat,
        },
        source: mapping.nat.address,
        destination: mapping.backend.address,
        layer: mapping.layer,
        to_client: false,
        ..*found
    };
    true
}

/// The flow whose packet the backend, or a router on the way there, complains about.
#[inline(always)]
fn find_reply<T: Tables>(
    tables: &T,
    quote: &Quote,
    source: Ipv4,
    found: &mut ErrorTranslation,
) -> bool {
    let key = ReplyKey {
        backend: quote.datagram.destination(),
        nat: quote.datagram.source(),
        backend_port: quote.transport.destination_port,
        nat_port: quote.transport.source_port,
        protocol: quote.datagram.protocol(),
        pad: 0,
        pad2: 0,
    };
    let Some(slot) = tables.reply(&key) else {
        return false;
    };
    let (to_client, layer) = slot.with(|reply| (to_client(reply), reply.layer()));
    *found = ErrorTranslation {
        // The quoted packet went from the client to what it had addressed.
        quoted: Translation {
            source: to_client.destination,
            destination: to_client.source,
        },
        // The client knows the backend by what it addressed; a router on the way is itself.
        source: if source == key.backend {
            to_client.source.address
        } else {
            source
        },
        destination: to_client.destination.address,
        layer,
        to_client: true,
        ..*found
    };
    true
}
