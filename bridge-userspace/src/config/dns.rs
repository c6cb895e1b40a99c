//! The DNS relay.

use std::net::SocketAddrV4;

use ipnet::Ipv4Net;

use super::setting::{DefaultValue, Setting, SettingFacts};
use super::settings::Settings;
use super::values::{cidrs, domain_name, sockets};
use crate::model::Findings;

pub(super) const SETTINGS: &[SettingFacts] = &[
    DNS_LISTEN.facts,
    DNS_UPSTREAM.facts,
    DNS_ALLOW.facts,
    NO_DNS.facts,
    CLUSTER_DOMAIN.facts,
];

const DNS_LISTEN: Setting<Vec<String>> = Setting::new(
    "dnsListen",
    "dns-listen",
    "ADDR:PORT",
    DefaultValue::None,
    "Take DNS queries here, UDP and TCP (repeatable)",
);
const DNS_UPSTREAM: Setting<Vec<String>> = Setting::new(
    "dnsUpstream",
    "dns-upstream",
    "ADDR:PORT",
    DefaultValue::None,
    "Forward DNS queries to this server, usually the kube-dns service; further ones step in when it fails (repeatable)",
);
const DNS_ALLOW: Setting<Vec<String>> = Setting::new(
    "dnsAllow",
    "dns-allow",
    "CIDR",
    DefaultValue::None,
    "Network that may send DNS queries besides the office's (repeatable)",
);
const NO_DNS: Setting<bool> = Setting::new(
    "noDns",
    "no-dns",
    "BOOL",
    DefaultValue::None,
    "Relay no DNS, whatever the file says",
);
const CLUSTER_DOMAIN: Setting<String> = Setting::new(
    "clusterDomain",
    "cluster-domain",
    "DOMAIN",
    DefaultValue::Text(DEFAULT_CLUSTER_DOMAIN),
    "Domain of the cluster's names",
);

/// kubeadm's default.
const DEFAULT_CLUSTER_DOMAIN: &str = "cluster.local";

/// What the DNS relay has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsConfig {
    /// Where queries are taken, UDP and TCP; at least one.
    pub listen: Vec<SocketAddrV4>,
    /// Who answers them, in order of preference; at least one, none of them one of `listen`.
    pub upstream: Vec<SocketAddrV4>,
    /// Whose queries are taken besides those of the office.
    pub allow: Vec<Ipv4Net>,
}

/// The relay, if there is to be one.
pub(super) fn check(settings: &Settings, findings: &mut Findings) -> Option<DnsConfig> {
    let listen = sockets(settings, &DNS_LISTEN, findings);
    let upstream = sockets(settings, &DNS_UPSTREAM, findings);
    let allow = cidrs(settings, &DNS_ALLOW, "DNS client CIDR", findings);
    if settings.is_on(&NO_DNS, false) {
        return None;
    }
    if settings.lacks(&DNS_LISTEN) {
        if let Some(upstream) = upstream.first() {
            findings.push(settings.wrong(
                &DNS_UPSTREAM,
                &format!(" {upstream} is given without --dns-listen"),
                "say where to take queries, e.g. --dns-listen 10.60.20.30:53",
            ));
        }
        return None;
    }
    if settings.lacks(&DNS_UPSTREAM) {
        findings.push(settings.wrong(
            &DNS_LISTEN,
            " is given without --dns-upstream",
            "say who answers, usually the cluster's DNS service (`kubectl -n kube-system get service kube-dns`), \
             e.g. --dns-upstream 10.96.0.10:53",
        ));
    }
    for (index, second) in listen.iter().enumerate() {
        let clash = listen[..index].iter().find(|first| {
            first.port() == second.port()
                && (first.ip().is_unspecified() || second.ip().is_unspecified())
        });
        if let Some(first) = clash {
            let clash = format!(" {first} and {second} take the same queries");
            findings.push(settings.wrong(&DNS_LISTEN, &clash, "remove one"));
        }
    }
    for upstream in &upstream {
        let is_server = !upstream.ip().is_unspecified();
        let problem = if let Some(listen) = listen.iter().find(|listen| takes(**listen, *upstream))
            && is_server
        {
            format!(
                " {upstream} leads back to --dns-listen {listen}: every query would go round in circles"
            )
        } else if !is_server {
            format!(" {upstream}: this is no server's address")
        } else {
            continue;
        };
        findings.push(settings.wrong(&DNS_UPSTREAM, &problem, "name the cluster's DNS service"));
    }
    Some(DnsConfig {
        listen,
        upstream,
        allow: allow.into_iter().map(|labelled| labelled.network).collect(),
    })
}

/// Whether a query to `upstream` surely arrives at `listen`. Which other addresses are the node's
/// own is looked at before starting.
fn takes(listen: SocketAddrV4, upstream: SocketAddrV4) -> bool {
    listen.port() == upstream.port()
        && (listen.ip() == upstream.ip()
            || (listen.ip().is_unspecified() && upstream.ip().is_loopback()))
}

/// The domain of the cluster's names.
pub(super) fn cluster_domain(settings: &Settings, findings: &mut Findings) -> String {
    let Some(domain) = settings.get(&CLUSTER_DOMAIN) else {
        return DEFAULT_CLUSTER_DOMAIN.to_owned();
    };
    domain_name(domain).unwrap_or_else(|| {
        findings.push(settings.wrong(
            &CLUSTER_DOMAIN,
            &format!(": `{domain}` is no domain name"),
            format!("write it as in {DEFAULT_CLUSTER_DOMAIN}"),
        ));
        DEFAULT_CLUSTER_DOMAIN.to_owned()
    })
}
