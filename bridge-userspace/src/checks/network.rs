//! The configuration against the interfaces and addresses that are really there.

use std::net::{Ipv4Addr, SocketAddrV4};

use ipnet::Ipv4Net;

use crate::config::{Config, Datapath};
use crate::kernel::netlink::{LinkKind, NetworkState, cluster_interfaces};
use crate::kernel::sysctl::{IP_FORWARD, SysctlError};

/// Why the configuration doesn't fit this host's network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// The configured uplink doesn't exist.
    #[error(
        "there is no interface `{uplink}`; this host has {}", existing.join(", ")
    )]
    NoUplink {
        /// The configured name.
        uplink: String,
        /// The names that do exist.
        existing: Vec<String>,
    },
    /// The loopback device has no clients.
    #[error("the uplink `{0}` is the loopback device; no office packet comes in there")]
    Loopback(String),
    /// The bridge parses Ethernet.
    #[error("the uplink `{0}` is no Ethernet device; office packets have to come in on one")]
    NotEthernet(String),
    /// One of the node's own addresses towards the pods looks like an office host's.
    #[error(
        "office CIDR {office} contains {address}/{prefix_len}, this node's own address on \
         {interface} towards the pods: give only the networks that office hosts really have"
    )]
    OfficeContainsPods {
        /// The configured office network.
        office: Ipv4Net,
        /// The node's address.
        address: Ipv4Addr,
        /// The length of its prefix.
        prefix_len: u8,
        /// The interface.
        interface: String,
    },
    /// The relay would ask itself.
    #[error(
        "--dns-upstream {upstream} is this node's own address and leads back to --dns-listen \
         {listen}: every query would go round in circles"
    )]
    DnsLoop {
        /// The configured server.
        upstream: SocketAddrV4,
        /// Where its queries would arrive.
        listen: SocketAddrV4,
    },
    /// The relay cannot listen on an address of another host.
    #[error("--dns-listen {0}: this is no address of this node")]
    DnsListenNotLocal(SocketAddrV4),
}

/// Checks the uplink, the office's networks and the DNS relay's addresses against this host.
///
/// `pod_cidrs` are the cluster's, configured or discovered.
///
/// # Errors
/// For the first thing that cannot work.
pub fn check_network(
    config: &Config,
    pod_cidrs: &[Ipv4Net],
    state: &NetworkState,
) -> Result<(), NetworkError> {
    check_uplink(&config.uplink, state)?;
    check_office(config, pod_cidrs, state)?;
    check_dns(config, state)
}

fn check_uplink(uplink: &str, state: &NetworkState) -> Result<(), NetworkError> {
    let Some(link) = state.link_named(uplink) else {
        return Err(NetworkError::NoUplink {
            uplink: uplink.to_owned(),
            existing: state
                .links
                .values()
                .filter(|link| link.kind != LinkKind::Loopback)
                .map(|link| link.name.clone())
                .collect(),
        });
    };
    if link.kind == LinkKind::Loopback {
        return Err(NetworkError::Loopback(uplink.to_owned()));
    }
    if link.mac.is_none() {
        return Err(NetworkError::NotEthernet(uplink.to_owned()));
    }
    Ok(())
}

fn check_office(
    config: &Config,
    pod_cidrs: &[Ipv4Net],
    state: &NetworkState,
) -> Result<(), NetworkError> {
    let uplink = state.link_named(&config.uplink).map(|link| link.index);
    // Without pod CIDRs the devices that carry pods are still known by their kind.
    let carriers = state
        .links
        .values()
        .filter(|link| link.kind.is_tunnel() || matches!(link.kind, LinkKind::Bridge));
    let mut cluster = cluster_interfaces(state, pod_cidrs);
    cluster.extend(carriers.map(|link| link.index));
    for index in cluster {
        // With host-gw the way to the pods may be the office's own network card.
        if Some(index) == uplink {
            continue;
        }
        for address in state
            .addresses
            .iter()
            .filter(|address| address.ifindex == index)
        {
            let office = config
                .office_cidrs
                .iter()
                .find(|office| office.contains(&address.address));
            if let (Some(&office), Some(link)) = (office, state.links.get(&index)) {
                return Err(NetworkError::OfficeContainsPods {
                    office,
                    address: address.address,
                    prefix_len: address.prefix_len,
                    interface: link.name.clone(),
                });
            }
        }
    }
    Ok(())
}

fn check_dns(config: &Config, state: &NetworkState) -> Result<(), NetworkError> {
    let Some(dns) = &config.dns else {
        return Ok(());
    };
    for listen in &dns.listen {
        if !listen.ip().is_unspecified() && !state.is_local(*listen.ip()) {
            return Err(NetworkError::DnsListenNotLocal(*listen));
        }
    }
    for upstream in &dns.upstream {
        let loops = |listen: &&SocketAddrV4| {
            listen.port() == upstream.port()
                && (listen.ip() == upstream.ip()
                    || (listen.ip().is_unspecified() && state.is_local(*upstream.ip())))
        };
        if let Some(listen) = dns.listen.iter().find(loops) {
            return Err(NetworkError::DnsLoop {
                upstream: *upstream,
                listen: *listen,
            });
        }
    }
    Ok(())
}

/// Why the kernel doesn't forward.
#[derive(Debug, thiserror::Error)]
pub enum ForwardingError {
    /// It may not be looked at or changed.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// The stack path is nothing without it.
    #[error(
        "{IP_FORWARD} is 0, and with --datapath stack the kernel forwards every packet: \
         `sysctl -w {IP_FORWARD}=1`, or run with --manage-sysctls"
    )]
    Off,
}

/// Looks at `net.ipv4.ip_forward` and, if it is off and may be changed, switches it on.
///
/// The TC path forwards without it; what the kernel routes itself needs it, such as ICMP errors
/// on their way to pods and packets to services that are left to kube-proxy. The result is a remark for
/// people if it stays off.
///
/// # Errors
/// When the setting cannot be read, or not be written although it should, and when it stays off although everything
/// takes the stack path.
pub fn forwarding(
    datapath: Datapath,
    manage_sysctls: bool,
) -> Result<Option<String>, ForwardingError> {
    if IP_FORWARD.is_on()? {
        return Ok(None);
    }
    if manage_sysctls {
        IP_FORWARD.write("1")?;
        return Ok(None);
    }
    if datapath == Datapath::Stack {
        return Err(ForwardingError::Off);
    }
    Ok(Some(format!(
        "{IP_FORWARD} is 0: the kernel forwards nothing by itself, so packets that are not ours to \
         translate end here; set it to 1 or run with --manage-sysctls"
    )))
}

#[cfg(test)]
mod tests;
