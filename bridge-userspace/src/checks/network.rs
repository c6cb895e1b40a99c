//! The configuration against the interfaces and addresses that are really there.

use std::collections::BTreeSet;
use std::net::SocketAddrV4;

use ipnet::Ipv4Net;

use crate::cluster::{CidrKind, DesiredState};
use crate::config::Config;
use crate::kernel::netlink::{LinkKind, NetworkState, pod_route_interfaces};
use crate::model::networks::Conflict;
use crate::model::{Finding, Findings, Subject};

/// Checks the office's networks against the cluster's, configured or discovered. Only the first conflict of each network
/// is told: an office network that is too big contains those of every node.
pub fn check_office(config: &Config, desired: &DesiredState, findings: &mut Findings) {
    let mut told = BTreeSet::new();
    for conflict in desired.conflicts_with_office(&config.office_cidrs) {
        let (Conflict::Nested { outer, .. }
        | Conflict::TwoRoles { outer, .. }
        | Conflict::Duplicate(outer)) = &conflict;
        if told.insert(outer.network) {
            findings.push(Finding::failure(
                Subject::Network(conflict.network()),
                conflict.cause(),
                conflict.remedy(),
            ));
        }
    }
}

/// Checks the uplink, the office's networks and the DNS relay's addresses against this host.
///
/// `desired` has the cluster's networks, configured or discovered.
pub fn check_network(
    config: &Config,
    desired: &DesiredState,
    state: &NetworkState,
    findings: &mut Findings,
) {
    let pod_cidrs: Vec<Ipv4Net> = desired.cidrs_of(CidrKind::Pod).collect();
    check_uplink(&config.uplink, state, findings);
    check_own_addresses(config, &pod_cidrs, state, findings);
    check_dns(config, state, findings);
}

fn check_uplink(uplink: &str, state: &NetworkState, findings: &mut Findings) {
    let others = || {
        let names: Vec<&str> = state
            .links
            .values()
            .filter(|link| link.kind != LinkKind::Loopback)
            .map(|link| link.name.as_str())
            .collect();
        format!("this host has {}", names.join(", "))
    };
    let problem = match state.link_named(uplink) {
        None => format!("there is no interface `{uplink}`"),
        Some(link) if link.kind == LinkKind::Loopback => {
            format!("the uplink `{uplink}` is the loopback device, where no office packet comes in")
        }
        Some(link) if link.mac.is_none() => format!(
            "the uplink `{uplink}` is no Ethernet device, and office packets have to come in on one"
        ),
        Some(_) => return,
    };
    let subject = Subject::Interface(uplink.to_owned());
    findings.push(Finding::failure(subject, problem, others()));
}

/// Checks that none of the node's own addresses towards the pods looks like an office host's: what netfilter has
/// masqueraded with it would be translated once more.
///
/// What leads to pods is known by its routes alone. The kind of a device says nothing: a bridge may be libvirt's or
/// Docker's, a tunnel a VPN's, and their networks often lie inside a wide office CIDR. Before any pod CIDR is known
/// nothing is judged; once it is, one that overlaps an office CIDR is left out and told.
fn check_own_addresses(
    config: &Config,
    pod_cidrs: &[Ipv4Net],
    state: &NetworkState,
    findings: &mut Findings,
) {
    let uplink = state.link_named(&config.uplink).map(|link| link.index);
    for index in pod_route_interfaces(state, pod_cidrs) {
        // With host-gw the route to the pods may be over the office's own network card.
        if Some(index) == uplink {
            continue;
        }
        let Some(link) = state.links.get(&index) else {
            continue;
        };
        let addresses = state.addresses.iter();
        for own in addresses.filter(|own| own.ifindex == index) {
            let mut offices = config.office_cidrs.iter();
            if let Some(office) = offices.find(|office| office.contains(&own.address)) {
                findings.push(Finding::failure(
                    Subject::Address(own.address),
                    format!(
                        "office CIDR {office} contains {}/{}, this node's own address on {} towards the pods",
                        own.address, own.prefix_len, link.name
                    ),
                    "give only the networks that office hosts really have",
                ));
            }
        }
    }
}

fn check_dns(config: &Config, state: &NetworkState, findings: &mut Findings) {
    let Some(dns) = &config.dns else {
        return;
    };
    for listen in &dns.listen {
        if !listen.ip().is_unspecified() && !state.is_local(*listen.ip()) {
            findings.push(Finding::failure(
                Subject::Socket((*listen).into()),
                format!("--dns-listen {listen}: this is no address of this node"),
                "`ip address` shows those that it has",
            ));
        }
    }
    for upstream in &dns.upstream {
        let loops = |listen: &&SocketAddrV4| {
            listen.port() == upstream.port()
                && (listen.ip() == upstream.ip()
                    || (listen.ip().is_unspecified() && state.is_local(*upstream.ip())))
        };
        if let Some(listen) = dns.listen.iter().find(loops) {
            findings.push(Finding::failure(
                Subject::Socket((*upstream).into()),
                format!(
                    "--dns-upstream {upstream} is this node's own address and leads back to --dns-listen {listen}: every \
                     query would go round in circles"
                ),
                "name the cluster's DNS service",
            ));
        }
    }
}

#[cfg(test)]
mod tests;
