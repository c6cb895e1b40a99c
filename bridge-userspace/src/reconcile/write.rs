//! One write to one table.

use bridge_common::abi::{
    AffinityKey, Backend, BackendKey, ClusterCidr, FastPath, LinkAddress, NatPort, NextHop,
    OfficeCidr, Route, Service, ServiceKey, Settings, UpperLink, Vtep,
};
use ipnet::Ipv4Net;

/// One entry that is written or removed: one system call.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Write {
    /// The one entry of `settings`.
    Settings(Box<Settings>),
    /// Entry `index` of `nat_ports`.
    NatPort { index: u32, port: NatPort },
    /// An entry of `vtep_fdb` that was empty.
    Vtep { number: u16, vtep: Vtep },
    /// Empties an entry of `vtep_fdb`.
    ClearVtep(u16),
    /// An entry of `next_hops` that was empty.
    NextHop { number: u16, next_hop: NextHop },
    /// Empties an entry of `next_hops`.
    ClearNextHop(u16),
    /// An entry of `routes`.
    Route { prefix: Ipv4Net, route: Route },
    /// Removes an entry of `routes`.
    RemoveRoute(Ipv4Net),
    /// The one entry of `fast_path`.
    FastPath(Box<FastPath>),
    /// An entry of `backends`, in a list that no service has yet.
    Backend { key: BackendKey, backend: Backend },
    /// Removes an entry of `backends`, from a list that no service has any more.
    RemoveBackend(BackendKey),
    /// An entry of `services`.
    Service { key: ServiceKey, service: Service },
    /// Removes an entry of `services`.
    RemoveService(ServiceKey),
    /// Removes an entry of `affinity`.
    RemoveAffinity(AffinityKey),
    /// An entry of `cluster_cidrs`.
    ClusterCidr { prefix: Ipv4Net, cidr: ClusterCidr },
    /// Removes an entry of `cluster_cidrs`.
    RemoveClusterCidr(Ipv4Net),
    /// An entry of `office_cidrs`.
    OfficeCidr { prefix: Ipv4Net, cidr: OfficeCidr },
    /// Removes an entry of `office_cidrs`.
    RemoveOfficeCidr(Ipv4Net),
    /// An entry of `link_addresses`.
    LinkAddress {
        address: LinkAddress,
        device: UpperLink,
    },
    /// Removes an entry of `link_addresses`.
    RemoveLinkAddress(LinkAddress),
}
