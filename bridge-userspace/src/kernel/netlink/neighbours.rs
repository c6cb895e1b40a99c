//! Neighbours (ARP) and the forwarding databases (FDB) of VXLAN devices.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use futures::TryStreamExt as _;
use ipnet::Ipv4Net;
use rtnetlink::Handle;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};

use super::error::NetlinkError;
use super::state::{DEFAULT_ENTRY, Fdb, FdbEntry, Link, LinkKind, Mac, Neighbour, Remote, Route};

/// What is known of a neighbour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) state: NeighbourState,
    pub(super) mac: Option<Mac>,
}

impl Known {
    /// The Ethernet address if the kernel would send there now: `NUD_VALID` (include/net/neighbour.h).
    fn usable(&self) -> Option<Mac> {
        let is_valid = matches!(
            self.state,
            NeighbourState::Permanent
                | NeighbourState::Noarp
                | NeighbourState::Reachable
                | NeighbourState::Probe
                | NeighbourState::Stale
                | NeighbourState::Delay
        );
        // All zeros is what a device without ARP has for every neighbour.
        self.mac.filter(|mac| is_valid && *mac != [0; 6])
    }
}

/// All IPv4 neighbours.
pub(super) async fn neighbours(
    handle: &Handle,
) -> Result<BTreeMap<Neighbour, Known>, NetlinkError> {
    Ok(dump(handle, AddressFamily::Inet, "neighbours")
        .await?
        .iter()
        .filter_map(neighbour)
        .collect())
}

/// The FDBs of all VXLAN devices.
pub(super) async fn fdb(handle: &Handle, links: &BTreeMap<u32, Link>) -> Result<Fdb, NetlinkError> {
    let mut fdb = Fdb::new();
    for message in dump(handle, AddressFamily::Bridge, "forwarding databases").await? {
        let is_vxlan = links
            .get(&message.header.ifindex)
            .is_some_and(|link| link.vxlan.is_some());
        if is_vxlan && let Some((key, entry)) = fdb_entry(&message) {
            // An entry with several destinations comes as several messages.
            fdb.entry(key)
                .and_modify(|entry| *entry = FdbEntry::Other)
                .or_insert(entry);
        }
    }
    Ok(fdb)
}

async fn dump(
    handle: &Handle,
    family: AddressFamily,
    what: &'static str,
) -> Result<Vec<NeighbourMessage>, NetlinkError> {
    handle
        .neighbours()
        .get()
        .set_address_family(family)
        .execute()
        .try_collect()
        .await
        .map_err(|error| NetlinkError::Request { what, error })
}

fn link_layer_address(message: &NeighbourMessage) -> Option<Mac> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::LinkLayerAddress(address) => address.as_slice().try_into().ok(),
            _ => None,
        })
}

fn neighbour(message: &NeighbourMessage) -> Option<(Neighbour, Known)> {
    let address = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(*address),
            _ => None,
        })?;
    let neighbour = Neighbour {
        ifindex: message.header.ifindex,
        address,
    };
    let known = Known {
        state: message.header.state,
        mac: link_layer_address(message),
    };
    Some((neighbour, known))
}

fn fdb_entry(message: &NeighbourMessage) -> Option<((u32, Mac), FdbEntry)> {
    // A bridge that the device is a port of lists its own entries for it too.
    if !message.header.flags.contains(NeighbourFlags::Own) {
        return None;
    }
    let mac = link_layer_address(message)?;
    let mut address = None;
    let (mut port, mut vni, mut ifindex) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(destination) => address = ipv4(destination),
            NeighbourAttribute::Port(number) => port = Some(*number),
            NeighbourAttribute::Vni(number) => vni = Some(*number),
            NeighbourAttribute::IfIndex(index) if *index != 0 => ifindex = Some(*index),
            _ => {}
        }
    }
    let is_host = |address: &Ipv4Addr| {
        !address.is_unspecified() && !address.is_multicast() && !address.is_broadcast()
    };
    let entry = address.filter(is_host).map_or(FdbEntry::Other, |address| {
        FdbEntry::Remote(Remote {
            address,
            port,
            vni,
            ifindex,
        })
    });
    Some(((message.header.ifindex, mac), entry))
}

/// Messages about an FDB don't tell the family of the destination.
fn ipv4(address: &NeighbourAddress) -> Option<Ipv4Addr> {
    match address {
        NeighbourAddress::Inet(address) => Some(*address),
        NeighbourAddress::Other(octets) => {
            <[u8; 4]>::try_from(octets.as_slice()).ok().map(Into::into)
        }
        _ => None,
    }
}

/// The usable neighbours that packets along these routes are sent to, or may be. Others come and go without any
/// consequence.
pub(super) fn along<'a>(
    routes: impl Iterator<Item = &'a Route>,
    links: &BTreeMap<u32, Link>,
    neighbours: &BTreeMap<Neighbour, Known>,
) -> BTreeMap<Neighbour, Mac> {
    let mut gateways = BTreeSet::new();
    let mut connected: BTreeMap<u32, Vec<Ipv4Net>> = BTreeMap::new();
    for route in routes {
        let ifindex = route.ifindex;
        if let Some(address) = route.gateway {
            gateways.insert(Neighbour { ifindex, address });
        } else if links
            .get(&ifindex)
            // Pods on a bridge come and go all the time, and nobody needs to know their addresses.
            .is_some_and(|link| link.kind != LinkKind::Bridge)
        {
            connected.entry(ifindex).or_default().push(route.prefix);
        }
    }
    neighbours
        .iter()
        .filter(|(neighbour, _)| {
            gateways.contains(neighbour)
                || connected.get(&neighbour.ifindex).is_some_and(|prefixes| {
                    prefixes
                        .iter()
                        .any(|prefix| prefix.contains(&neighbour.address))
                })
        })
        .filter_map(|(&neighbour, known)| Some((neighbour, known.usable()?)))
        .collect()
}

/// The entries that frames to these neighbours need, and the default ones.
pub(super) fn needed(mut fdb: Fdb, neighbours: &BTreeMap<Neighbour, Mac>) -> Fdb {
    let macs: BTreeSet<(u32, Mac)> = neighbours
        .iter()
        .map(|(neighbour, &mac)| (neighbour.ifindex, mac))
        .collect();
    let devices: BTreeSet<u32> = macs.iter().map(|&(ifindex, _)| ifindex).collect();
    fdb.retain(|key, _| macs.contains(key) || (key.1 == DEFAULT_ENTRY && devices.contains(&key.0)));
    fdb
}
