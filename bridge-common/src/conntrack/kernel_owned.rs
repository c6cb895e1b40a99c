//! Connections that the bridge does not translate, because the kernel or kube-proxy does: an entry in `flows` marks them,
//! and their packets pass.

use crate::abi::{DestinationKind, Flow, FlowKey, Layer};
use crate::conntrack::flow;
use crate::packet::Packet;
use crate::packet::parse::{Datagram, Payload, Transport};
use crate::tables::{Insertion, Slot, Tables};

/// Marks the connection of a packet that a pod sends to the office by itself. Without the mark, the office's packets of that
/// connection would look like the first of a new flow.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn mark_connection_of_pod<P: Packet, T: Tables>(packet: &P, tables: &T) {
    // Whatever can't be read opens nothing.
    let _ = try_mark(packet, tables);
}

#[inline(always)]
fn try_mark<P: Packet, T: Tables>(packet: &P, tables: &T) -> Option<()> {
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
    let key = flow::key_of_answered(&datagram, &transport);
    match tables.flow(&key) {
        Some(slot) => {
            let now = tables.now();
            slot.with(|flow| {
                if Layer::is_untranslated(flow.layer) {
                    flow.last_seen = now;
                }
            });
        }
        None if transport.opens => {
            mark(tables, &key, Layer::Kernel);
        }
        None => {}
    }
    Some(())
}

/// Marks a connection as one that is not translated: [`Layer::Kernel`] or [`Layer::Passed`].
/// `false` with a full table: the office's packets are taken for new flows then, as without a mark.
#[inline(always)]
pub fn mark<T: Tables>(tables: &T, key: &FlowKey, layer: Layer) -> bool {
    let flow = Flow {
        backend: key.destination,
        nat: key.client,
        backend_port: key.destination_port,
        nat_port: key.client_port,
        last_seen: tables.now(),
        layer: layer as u8,
        ..Flow::default()
    };
    !matches!(tables.insert_flow(key, &flow), Insertion::Full)
}
