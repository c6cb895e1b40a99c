//! From words to a [`Config`].

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;

use bridge_common::abi::capacity;
use ipnet::Ipv4Net;

use super::args::{ClusterChoice, RunArgs};
use super::checked::{Config, Datapath, DnsConfig};
use super::defaults::{
    DEFAULT_CLUSTER_DOMAIN, DEFAULT_FLOW_CAPACITY, DEFAULT_HTTP_LISTEN, DEFAULT_PIN_PATH,
};
use super::environment::Environment;
use crate::cluster::{ApiAccess, CidrKind, ClusterCidr, InternalTrafficPolicy, SourceSpec};
use crate::datapath::TcAttach;
use crate::model::UsageError;
use crate::model::networks::{self, Labelled, parse_cidr};

/// Fewer flows than this cannot serve even one busy client.
const SMALLEST_FLOW_CAPACITY: u32 = 1_024;
/// More flows than this need several gigabytes of kernel memory.
const LARGEST_FLOW_CAPACITY: u32 = 16_777_216;
/// Longest interface name (linux/if.h `IFNAMSIZ` without the final NUL).
const LONGEST_INTERFACE_NAME: usize = 15;

const COMMAND_LINE: &str = "command line";

/// Both origins put together, each list with the name of the one it comes from.
pub(super) struct Settings {
    args: RunArgs,
    office: String,
    pods: String,
    services: String,
}

impl Settings {
    /// Fields that a flag sets hide the file's, lists as a whole.
    pub(super) fn merge(flags: RunArgs, file: Option<(RunArgs, String)>) -> Self {
        let (file, file_name) = file.unwrap_or_default();
        let origin = |flag: &[String]| {
            if flag.is_empty() {
                file_name.clone()
            } else {
                COMMAND_LINE.to_owned()
            }
        };
        let list = |flag: Vec<String>, file: Vec<String>| {
            if flag.is_empty() { file } else { flag }
        };
        Self {
            office: origin(&flags.office_cidrs),
            pods: origin(&flags.pod_cidrs),
            services: origin(&flags.service_cidrs),
            args: RunArgs {
                config: flags.config,
                uplink: flags.uplink.or(file.uplink),
                office_cidrs: list(flags.office_cidrs, file.office_cidrs),
                pod_cidrs: list(flags.pod_cidrs, file.pod_cidrs),
                service_cidrs: list(flags.service_cidrs, file.service_cidrs),
                cluster: flags.cluster.or(file.cluster),
                kubeconfig: flags.kubeconfig.or(file.kubeconfig),
                internal_traffic_policy: flags
                    .internal_traffic_policy
                    .or(file.internal_traffic_policy),
                node_name: flags.node_name.or(file.node_name),
                datapath: flags.datapath.or(file.datapath),
                snat_addresses: list(flags.snat_addresses, file.snat_addresses),
                answer_ping: flags.answer_ping.or(file.answer_ping),
                dns_listen: list(flags.dns_listen, file.dns_listen),
                dns_upstream: list(flags.dns_upstream, file.dns_upstream),
                dns_allow: list(flags.dns_allow, file.dns_allow),
                no_dns: flags.no_dns.or(file.no_dns),
                cluster_domain: flags.cluster_domain.or(file.cluster_domain),
                http_listen: flags.http_listen.or(file.http_listen),
                no_http: flags.no_http.or(file.no_http),
                pin_path: flags.pin_path.or(file.pin_path),
                manage_sysctls: flags.manage_sysctls.or(file.manage_sysctls),
                tc_attach: flags.tc_attach.or(file.tc_attach),
                flow_capacity: flags.flow_capacity.or(file.flow_capacity),
                timeouts: file.timeouts,
            },
        }
    }

    #[cfg(test)]
    pub(super) fn args(&self) -> &RunArgs {
        &self.args
    }

    pub(super) fn check(
        self,
        environment: Environment,
    ) -> Result<(Config, Vec<String>), UsageError> {
        let mut warnings = Vec::new();
        let Self {
            args,
            office,
            pods,
            services,
        } = self;
        let uplink = uplink(args.uplink)?;
        let cluster = source(args.cluster, args.kubeconfig, &environment)?;

        let office = cidrs(
            "--office-cidr",
            &args.office_cidrs,
            networks::OFFICE,
            &office,
        )?;
        let pods = cidrs("--pod-cidr", &args.pod_cidrs, networks::POD, &pods)?;
        let services = cidrs(
            "--service-cidr",
            &args.service_cidrs,
            networks::SERVICE,
            &services,
        )?;
        if office.is_empty() {
            return Err(UsageError::new(
                "--office-cidr is missing: say whose packets to take care of, \
                 e.g. --office-cidr 192.168.0.0/22",
            ));
        }
        if cluster == SourceSpec::Static && pods.is_empty() && services.is_empty() {
            return Err(UsageError::new(
                "--cluster static knows only the networks that it is given: add --pod-cidr and \
                 --service-cidr, e.g. --pod-cidr 10.244.0.0/16 --service-cidr 10.96.0.0/12, or \
                 --kubeconfig FILE to ask the cluster",
            ));
        }
        let all: Vec<Labelled> = [&office[..], &pods, &services].concat();
        networks::check_disjoint(&all).map_err(|error| UsageError::new(error.to_string()))?;

        let office_cidrs: Vec<Ipv4Net> = office.iter().map(|office| office.network).collect();
        let snat_addresses = snat_addresses(&args.snat_addresses, &office, &services)?;
        let dns = dns(
            &args.dns_listen,
            &args.dns_upstream,
            &args.dns_allow,
            args.no_dns.unwrap_or(false),
        )?;
        let http_listen = match &args.http_listen {
            Some(text) => socket("--http-listen", text)?,
            None => DEFAULT_HTTP_LISTEN,
        };
        let is_silent = args.no_http.unwrap_or(false);
        let config = Config {
            uplink,
            office_cidrs,
            cluster_cidrs: [
                cluster_cidrs(CidrKind::Pod, pods),
                cluster_cidrs(CidrKind::Service, services),
            ]
            .concat(),
            cluster,
            internal_traffic_policy: internal_traffic_policy(
                args.internal_traffic_policy.as_deref(),
                args.node_name,
                environment,
            )?,
            datapath: datapath(args.datapath.as_deref())?,
            snat_addresses,
            answer_ping: args.answer_ping.unwrap_or(true),
            dns,
            cluster_domain: cluster_domain(args.cluster_domain)?,
            http_listen: (!is_silent).then_some(http_listen),
            pin_path: pin_path(args.pin_path)?,
            manage_sysctls: args.manage_sysctls.unwrap_or(false),
            tc_attach: tc_attach(args.tc_attach.as_deref())?,
            flow_capacity: flow_capacity(args.flow_capacity)?,
            timeouts: args.timeouts.check(&mut warnings)?,
        };
        Ok((config, warnings))
    }
}

fn uplink(name: Option<String>) -> Result<String, UsageError> {
    let Some(name) = name else {
        return Err(UsageError::new(
            "--uplink is missing: name the interface where office packets come in \
             (`ip route get` with an office host's address shows it)",
        ));
    };
    let valid = !name.is_empty()
        && name.len() <= LONGEST_INTERFACE_NAME
        && name != "."
        && name != ".."
        && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c == '\0');
    if valid {
        Ok(name)
    } else {
        Err(UsageError::new(format!(
            "--uplink: `{name}` cannot be the name of an interface"
        )))
    }
}

/// The cluster source: the one that was chosen, or else the API server if anything says how to reach it.
fn source(
    choice: Option<ClusterChoice>,
    kubeconfig: Option<PathBuf>,
    environment: &Environment,
) -> Result<SourceSpec, UsageError> {
    let access = match kubeconfig {
        Some(file) => Some(ApiAccess::Kubeconfig(file)),
        None if environment.has_kubeconfig => Some(ApiAccess::KubeconfigVariable),
        None if environment.is_in_cluster => Some(ApiAccess::ServiceAccount),
        None => None,
    };
    match (choice, access) {
        (
            Some(choice @ (ClusterChoice::Manifests(_) | ClusterChoice::Static)),
            Some(ApiAccess::Kubeconfig(file)),
        ) => Err(UsageError::new(format!(
            "--kubeconfig {} is given, but --cluster {choice} does not ask the API server: \
             remove one of them",
            file.display()
        ))),
        (Some(ClusterChoice::Manifests(directory)), _) => Ok(SourceSpec::Manifests(directory)),
        (Some(ClusterChoice::Static), _) | (None, None) => Ok(SourceSpec::Static),
        (Some(ClusterChoice::Kube) | None, Some(access)) => Ok(SourceSpec::Kube(access)),
        (Some(ClusterChoice::Kube), None) => Err(UsageError::new(
            "--cluster kube: nothing says how to reach the API server; give --kubeconfig FILE, \
             or the variable KUBECONFIG, or run in a pod with a service account",
        )),
    }
}

fn internal_traffic_policy(
    policy: Option<&str>,
    node_name: Option<String>,
    environment: Environment,
) -> Result<InternalTrafficPolicy, UsageError> {
    match policy {
        None | Some("ignore") => Ok(InternalTrafficPolicy::Ignore),
        Some("honor") => node_name
            .or(environment.node_name)
            .or(environment.hostname)
            .filter(|name| !name.is_empty())
            .map(|node| InternalTrafficPolicy::Honor { node })
            .ok_or_else(|| {
                UsageError::new(
                    "--internal-traffic-policy honor: this node's name in the cluster is unknown; \
                     give --node-name",
                )
            }),
        Some(other) => Err(UsageError::new(format!(
            "--internal-traffic-policy `{other}`: say `ignore` or `honor`"
        ))),
    }
}

fn cidrs(
    flag: &str,
    texts: &[String],
    role: &'static str,
    source: &str,
) -> Result<Vec<Labelled>, UsageError> {
    texts
        .iter()
        .map(|text| match parse_cidr(text) {
            Ok(network) => Ok(Labelled {
                network,
                role,
                source: source.to_owned(),
            }),
            Err(error) => Err(UsageError::new(format!("{flag} ({source}): {error}"))),
        })
        .collect()
}

fn cluster_cidrs(kind: CidrKind, networks: Vec<Labelled>) -> Vec<ClusterCidr> {
    networks
        .into_iter()
        .map(|labelled| ClusterCidr {
            kind,
            cidr: labelled.network,
            source: labelled.source,
        })
        .collect()
}

fn datapath(text: Option<&str>) -> Result<Datapath, UsageError> {
    match text {
        None => Ok(Datapath::default()),
        Some("auto") => Ok(Datapath::Auto),
        Some("tc") => Ok(Datapath::Tc),
        Some("stack") => Ok(Datapath::Stack),
        Some("xdp") => Ok(Datapath::Xdp),
        Some(text) => Err(UsageError::new(format!(
            "--datapath: `{text}` is no datapath; write `auto`, `xdp`, `tc` or `stack`"
        ))),
    }
}

fn snat_addresses(
    texts: &[String],
    office: &[Labelled],
    services: &[Labelled],
) -> Result<Vec<Ipv4Addr>, UsageError> {
    if texts.len() > capacity::SNAT_ADDRESSES {
        return Err(UsageError::new(format!(
            "--snat-address: {} addresses given, there is room for {}",
            texts.len(),
            capacity::SNAT_ADDRESSES
        )));
    }
    let mut addresses = Vec::new();
    for text in texts {
        let problem = |what: &str| Err(UsageError::new(format!("--snat-address {text}: {what}")));
        let address: Ipv4Addr = match text.parse() {
            Ok(IpAddr::V4(address)) => address,
            Ok(IpAddr::V6(_)) => return problem("this is IPv6; only IPv4 is translated"),
            Err(_) => return problem("this is no IPv4 address"),
        };
        if address.is_unspecified()
            || address.is_loopback()
            || address.is_multicast()
            || address.is_broadcast()
            || address.is_link_local()
        {
            return problem("no reply can come home to this address");
        }
        if let Some(network) = office
            .iter()
            .chain(services)
            .find(|labelled| labelled.network.contains(&address))
        {
            return problem(&format!(
                "it lies in {network}, where replies from pods don't come home"
            ));
        }
        if addresses.contains(&address) {
            return problem("it is given twice; remove one");
        }
        addresses.push(address);
    }
    Ok(addresses)
}

fn socket(flag: &str, text: &str) -> Result<SocketAddrV4, UsageError> {
    let problem = |what: &str| Err(UsageError::new(format!("{flag} {text}: {what}")));
    match text.parse() {
        Ok(SocketAddr::V4(socket)) if socket.port() == 0 => problem("port 0 cannot be used"),
        Ok(SocketAddr::V4(socket)) => Ok(socket),
        Ok(SocketAddr::V6(_)) => problem("this is IPv6; write an IPv4 address and a port"),
        Err(_) => match text.parse::<Ipv4Addr>() {
            Ok(address) => problem(&format!("the port is missing, as in {address}:53")),
            Err(_) => problem("this is not ADDR:PORT, as in 10.60.20.30:53"),
        },
    }
}

fn sockets(flag: &str, texts: &[String]) -> Result<Vec<SocketAddrV4>, UsageError> {
    let mut sockets = Vec::new();
    for text in texts {
        let socket = socket(flag, text)?;
        if sockets.contains(&socket) {
            return Err(UsageError::new(format!(
                "{flag} {socket} is given twice; remove one"
            )));
        }
        sockets.push(socket);
    }
    Ok(sockets)
}

fn dns(
    listen: &[String],
    upstream: &[String],
    allow: &[String],
    off: bool,
) -> Result<Option<DnsConfig>, UsageError> {
    let listen = sockets("--dns-listen", listen)?;
    let upstream = sockets("--dns-upstream", upstream)?;
    let allow: Vec<Ipv4Net> = cidrs("--dns-allow", allow, "DNS client CIDR", "configuration")?
        .into_iter()
        .map(|labelled| labelled.network)
        .collect();
    if off {
        return Ok(None);
    }
    if listen.is_empty() {
        if let Some(upstream) = upstream.first() {
            return Err(UsageError::new(format!(
                "--dns-upstream {upstream} is given without --dns-listen: say where to take \
                 queries, e.g. --dns-listen 10.60.20.30:53"
            )));
        }
        return Ok(None);
    }
    if upstream.is_empty() {
        return Err(UsageError::new(
            "--dns-listen is given without --dns-upstream: say who answers, usually the cluster's \
             DNS service (`kubectl -n kube-system get service kube-dns`), \
             e.g. --dns-upstream 10.96.0.10:53",
        ));
    }
    for (index, second) in listen.iter().enumerate() {
        let clash = listen[..index].iter().find(|first| {
            first.port() == second.port()
                && (first.ip().is_unspecified() || second.ip().is_unspecified())
        });
        if let Some(first) = clash {
            return Err(UsageError::new(format!(
                "--dns-listen {first} and {second} take the same queries; remove one"
            )));
        }
    }
    for upstream in &upstream {
        if upstream.ip().is_unspecified() {
            return Err(UsageError::new(format!(
                "--dns-upstream {upstream}: this is no server's address"
            )));
        }
        if let Some(listen) = listen.iter().find(|listen| takes(**listen, *upstream)) {
            return Err(UsageError::new(format!(
                "--dns-upstream {upstream} leads back to --dns-listen {listen}: every query would \
                 go round in circles"
            )));
        }
    }
    Ok(Some(DnsConfig {
        listen,
        upstream,
        allow,
    }))
}

/// Whether a query to `upstream` surely arrives at `listen`. Which other addresses are the node's
/// own is looked at before starting.
fn takes(listen: SocketAddrV4, upstream: SocketAddrV4) -> bool {
    listen.port() == upstream.port()
        && (listen.ip() == upstream.ip()
            || (listen.ip().is_unspecified() && upstream.ip().is_loopback()))
}

/// A domain name by RFC 1035 section 2.3.4, without regard to case.
fn cluster_domain(domain: Option<String>) -> Result<String, UsageError> {
    let Some(domain) = domain else {
        return Ok(DEFAULT_CLUSTER_DOMAIN.to_owned());
    };
    let name = domain.strip_suffix('.').unwrap_or(&domain);
    let valid_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() <= 253 && name.split('.').all(valid_label) {
        Ok(name.to_ascii_lowercase())
    } else {
        Err(UsageError::new(format!(
            "--cluster-domain: `{domain}` is no domain name"
        )))
    }
}

fn pin_path(path: Option<PathBuf>) -> Result<PathBuf, UsageError> {
    let path = path.unwrap_or_else(|| PathBuf::from(DEFAULT_PIN_PATH));
    if path.is_absolute() && path.parent().is_some() {
        Ok(path)
    } else {
        Err(UsageError::new(format!(
            "--pin-path {}: this has to be an absolute path to a directory of its own, such as \
             {DEFAULT_PIN_PATH}",
            path.display()
        )))
    }
}

fn tc_attach(mode: Option<&str>) -> Result<TcAttach, UsageError> {
    match mode {
        None | Some("auto") => Ok(TcAttach::Auto),
        Some("clsact") => Ok(TcAttach::Clsact),
        Some(other) => Err(UsageError::new(format!(
            "--tc-attach `{other}`: say `auto` or `clsact`"
        ))),
    }
}

fn flow_capacity(capacity: Option<u32>) -> Result<u32, UsageError> {
    let capacity = capacity.unwrap_or(DEFAULT_FLOW_CAPACITY);
    if (SMALLEST_FLOW_CAPACITY..=LARGEST_FLOW_CAPACITY).contains(&capacity) {
        Ok(capacity)
    } else {
        Err(UsageError::new(format!(
            "--flow-capacity {capacity}: choose from {SMALLEST_FLOW_CAPACITY} to \
             {LARGEST_FLOW_CAPACITY}"
        )))
    }
}
