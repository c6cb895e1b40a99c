//! Fragments: only the first has ports, so they are remembered for the others.
//!
//! A later fragment that overtakes its first is dropped and counted (RFC 4787 REQ-14 asks a
//! translator to take fragments; REQ-14a's out-of-order case would need a queue, which a packet
//! program has not).

use crate::abi::{Fragment, FragmentKey, Seconds, since};
use crate::packet::parse::{Datagram, Transport};
use crate::tables::Tables;

/// How long a first fragment is remembered. The kernel's own reassembly waits 30 s
/// (`net.ipv4.ipfrag_time`), but identifications repeat long before at today's packet rates.
pub const LIFETIME: Seconds = 10;

const fn key(datagram: &Datagram) -> FragmentKey {
    FragmentKey {
        source: datagram.source(),
        destination: datagram.destination(),
        identification: u16::from_be_bytes(datagram.ip.id),
        protocol: datagram.protocol(),
        pad: 0,
    }
}

/// Remembers what a first fragment says; any other packet has nothing to be remembered.
#[inline(always)]
pub fn remember<T: Tables>(tables: &T, datagram: &Datagram, transport: &Transport) {
    if !datagram.is_fragment() || datagram.is_later_fragment() {
        return;
    }
    tables.insert_fragment(
        &key(datagram),
        &Fragment {
            source_port: transport.source_port,
            destination_port: transport.destination_port,
            seen: tables.now(),
        },
    );
}

/// What the first fragment of this later one said.
#[inline(always)]
pub fn recall<T: Tables>(tables: &T, datagram: &Datagram) -> Option<Transport> {
    let first = tables.fragment(&key(datagram))?;
    (since(tables.now(), first.seen) < LIFETIME).then_some(Transport {
        source_port: first.source_port,
        destination_port: first.destination_port,
        ..Transport::default()
    })
}
