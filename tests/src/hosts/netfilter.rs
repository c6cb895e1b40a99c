//! The netfilter rules that kube-proxy (iptables mode), flannel and an administrator leave on a node.
//!
//! Texts are those of `iptables-save` on a kubeadm node with flannel; the counters are gone, and chain
//! names of services and endpoints end in a hash of our own, as any unique name does.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};

use crate::cluster::{Cluster, ClusterNode, Endpoint, Protocol, Service, ServicePort};
use crate::machine::netns::Namespace;
use crate::plan::{OFFICE_CIDR, POD_CIDR, SERVICE_CIDR};

/// What the administrator of node-30 lets it forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firewall {
    /// Whatever kube-proxy and flannel leave: policy ACCEPT. Flannel masquerades what goes from
    /// strangers to pods, and kube-proxy translates services for anybody: office traffic gets through
    /// such a node without any bridge, as long as `ip_forward` is on.
    Open,
    /// Policy DROP, as Docker leaves it, without flannel's accepting chain
    /// (`--iptables-forward-rules=false`).
    DropByDefault,
    /// The node forwards nothing that comes in on its uplink, but pods' own traffic and replies.
    NotARouter,
}

/// Which of the rules a node has.
#[derive(Clone, Copy, Debug)]
pub struct NodeRules {
    /// kube-proxy's.
    pub kube_proxy: bool,
    /// Flannel's masquerading (`--ip-masq`).
    pub masquerade: bool,
    /// kube-proxy's masquerading of what comes to services from elsewhere (`--cluster-cidr`).
    pub service_masquerade: bool,
    /// The administrator's.
    pub firewall: Firewall,
}

/// Installs the rules on a node, at once as a boot does.
pub fn install(
    namespace: &Namespace,
    node: &ClusterNode,
    cluster: &Cluster,
    rules: NodeRules,
) -> Result<()> {
    let text = render(node, cluster, rules);
    namespace.feed("iptables-restore", &[], &text).map(drop)
}

/// Adds the two rules of the recipe that office-bridge replaces.
pub fn add_recipe(namespace: &Namespace) -> Result<()> {
    let text = format!(
        "*nat\n\
         -A POSTROUTING -s {OFFICE_CIDR} -d {POD_CIDR} -j MASQUERADE\n\
         -A POSTROUTING -s {OFFICE_CIDR} -d {SERVICE_CIDR} -j MASQUERADE\n\
         COMMIT\n"
    );
    namespace
        .feed("iptables-restore", &["--noflush"], &text)
        .map(drop)
}

/// Does as kube-proxy does when services or their backends change: writes the chains of services anew, and forgets the
/// UDP exchanges that lead to backends which are gone, or that found none. Chains that nothing leads to any more stay.
pub fn follow(
    namespace: &Namespace,
    before: &Cluster,
    cluster: &Cluster,
    masquerade: bool,
) -> Result<()> {
    let mut nat = Table::default();
    let mut filter = Table::default();
    nat.chain("KUBE-SERVICES");
    filter.chain("KUBE-SERVICES");
    services(cluster, masquerade, &mut nat, &mut filter);
    let text = format!(
        "*nat\n{}COMMIT\n*filter\n{}COMMIT\n",
        nat.text(),
        filter.text()
    );
    // A chain that is named is emptied.
    namespace.feed("iptables-restore", &["--noflush"], &text)?;
    for old in &before.services {
        if old.ports.iter().all(|port| port.protocol != Protocol::Udp) {
            continue;
        }
        let new = cluster.services.iter().find(|new| new.vip == old.vip);
        let is_kept = |gone: &Endpoint| {
            let mut ready = new.into_iter().flat_map(Service::ready);
            ready.any(|endpoint| endpoint.address == gone.address)
        };
        let vip = old.vip.to_string();
        for gone in old.ready().filter(|endpoint| !is_kept(endpoint)) {
            let address = gone.address.to_string();
            forget(namespace, &["--orig-dst", &vip, "--dst-nat", &address])?;
        }
        if old.ready().next().is_none() {
            forget(namespace, &["--orig-dst", &vip])?;
        }
    }
    Ok(())
}

/// Deletes UDP exchanges from conntrack; none is no failure.
fn forget(namespace: &Namespace, which: &[&str]) -> Result<()> {
    let mut conntrack = namespace.command("conntrack");
    conntrack.args(["-D", "-p", "udp"]).args(which);
    let output = conntrack.output().context("run conntrack")?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success() || told.contains("0 flow entries"),
        "conntrack -D {}: {told}",
        which.join(" ")
    );
    Ok(())
}

fn render(node: &ClusterNode, cluster: &Cluster, rules: NodeRules) -> String {
    let mut nat = Table::default();
    let mut filter = Table::default();
    match rules.firewall {
        Firewall::Open => {}
        Firewall::DropByDefault => filter.policy_drop = true,
        Firewall::NotARouter => {
            filter.rule("-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT");
            filter.rule(format!("-A FORWARD -i eth0 ! -s {POD_CIDR} -j DROP"));
        }
    }
    if rules.kube_proxy {
        kube_proxy(cluster, rules.service_masquerade, &mut nat, &mut filter);
    }
    if rules.masquerade {
        flannel_masquerade(node, &mut nat);
    }
    if rules.firewall != Firewall::DropByDefault {
        flannel_forward(&mut filter);
    }
    format!(
        "*nat\n:PREROUTING ACCEPT\n:INPUT ACCEPT\n:OUTPUT ACCEPT\n:POSTROUTING ACCEPT\n{}COMMIT\n\
         *filter\n:INPUT ACCEPT\n:FORWARD {}\n:OUTPUT ACCEPT\n{}COMMIT\n",
        nat.text(),
        if filter.policy_drop { "DROP" } else { "ACCEPT" },
        filter.text()
    )
}

#[derive(Default)]
struct Table {
    chains: Vec<String>,
    rules: Vec<String>,
    policy_drop: bool,
}

impl Table {
    fn chain(&mut self, name: impl Into<String>) {
        self.chains.push(name.into());
    }

    fn rule(&mut self, rule: impl Into<String>) {
        self.rules.push(rule.into());
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for chain in &self.chains {
            writeln!(text, ":{chain} -").expect("a String takes every write");
        }
        for rule in &self.rules {
            writeln!(text, "{rule}").expect("a String takes every write");
        }
        text
    }
}

fn kube_proxy(cluster: &Cluster, masquerade: bool, nat: &mut Table, filter: &mut Table) {
    for chain in [
        "KUBE-EXTERNAL-SERVICES",
        "KUBE-FIREWALL",
        "KUBE-FORWARD",
        "KUBE-NODEPORTS",
        "KUBE-PROXY-FIREWALL",
        "KUBE-SERVICES",
    ] {
        filter.chain(chain);
    }
    for rule in [
        r#"-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL"#,
        r#"-A INPUT -m comment --comment "kubernetes health check service ports" -j KUBE-NODEPORTS"#,
        r#"-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES"#,
        "-A INPUT -j KUBE-FIREWALL",
        r#"-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL"#,
        r#"-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD"#,
        r#"-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES"#,
        r#"-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES"#,
        r#"-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL"#,
        r#"-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES"#,
        "-A OUTPUT -j KUBE-FIREWALL",
        r#"-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment "block incoming localnet connections" -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP"#,
        "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP",
        r#"-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT"#,
        r#"-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"#,
    ] {
        filter.rule(rule);
    }

    for chain in [
        "KUBE-MARK-MASQ",
        "KUBE-NODEPORTS",
        "KUBE-POSTROUTING",
        "KUBE-SERVICES",
    ] {
        nat.chain(chain);
    }
    for rule in [
        r#"-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES"#,
        r#"-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES"#,
        r#"-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING"#,
        "-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000",
        "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
        "-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0",
        r#"-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully"#,
    ] {
        nat.rule(rule);
    }
    services(cluster, masquerade, nat, filter);
}

fn services(cluster: &Cluster, masquerade: bool, nat: &mut Table, filter: &mut Table) {
    for service in &cluster.services {
        for port in &service.ports {
            service_port(service, port, masquerade, nat, filter);
        }
    }
    nat.rule(
        r#"-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS"#,
    );
}

fn service_port(
    service: &Service,
    port: &ServicePort,
    masquerade: bool,
    nat: &mut Table,
    filter: &mut Table,
) {
    let name = format!("{}/{}:{}", service.namespace, service.name, port.name);
    let protocol = port.protocol.lower();
    let matching = format!(
        "-d {}/32 -p {protocol} -m {protocol} --dport {}",
        service.vip, port.port
    );
    let ready: Vec<&Endpoint> = service.ready().collect();
    if ready.is_empty() {
        filter.rule(format!(
            r#"-A KUBE-SERVICES {matching} -m comment --comment "{name} has no endpoints" -j REJECT --reject-with icmp-port-unreachable"#
        ));
        return;
    }
    let service_chain = format!("KUBE-SVC-{}", hash(&format!("{name}{protocol}")));
    nat.chain(&service_chain);
    nat.rule(format!(
        r#"-A KUBE-SERVICES {matching} -m comment --comment "{name} cluster IP" -j {service_chain}"#
    ));
    if masquerade {
        nat.rule(format!(
            r#"-A {service_chain} ! -s {POD_CIDR} {matching} -m comment --comment "{name} cluster IP" -j KUBE-MARK-MASQ"#
        ));
    }
    for (index, endpoint) in ready.iter().enumerate() {
        let chain = format!(
            "KUBE-SEP-{}",
            hash(&format!("{name}{protocol}{}", endpoint.address))
        );
        let to = format!("{}:{}", endpoint.address, port.target);
        let left = ready.len() - index;
        let chance = if left > 1 {
            #[expect(clippy::cast_precision_loss, reason = "a handful of endpoints")]
            let probability = 1.0 / left as f64;
            format!("-m statistic --mode random --probability {probability:.11} ")
        } else {
            String::new()
        };
        nat.chain(&chain);
        nat.rule(format!(
            r#"-A {service_chain} -m comment --comment "{name} -> {to}" {chance}-j {chain}"#
        ));
        nat.rule(format!(
            r#"-A {chain} -s {}/32 -m comment --comment "{name}" -j KUBE-MARK-MASQ"#,
            endpoint.address
        ));
        nat.rule(format!(
            r#"-A {chain} -p {protocol} -m comment --comment "{name}" -m {protocol} -j DNAT --to-destination {to}"#
        ));
    }
}

/// Flannel's `pkg/trafficmngr/iptables`, as of 0.2x.
fn flannel_masquerade(node: &ClusterNode, nat: &mut Table) {
    let own = node.pod_cidr();
    let comment = r#"-m comment --comment "flanneld masq""#;
    nat.chain("FLANNEL-POSTRTG");
    for rule in [
        format!("-A POSTROUTING {comment} -j FLANNEL-POSTRTG"),
        format!("-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 {comment} -j RETURN"),
        format!("-A FLANNEL-POSTRTG -s {own} -d {POD_CIDR} {comment} -j RETURN"),
        format!("-A FLANNEL-POSTRTG -s {POD_CIDR} -d {own} {comment} -j RETURN"),
        format!("-A FLANNEL-POSTRTG ! -s {POD_CIDR} -d {own} {comment} -j RETURN"),
        format!(
            "-A FLANNEL-POSTRTG -s {POD_CIDR} ! -d 224.0.0.0/4 {comment} -j MASQUERADE --random-fully"
        ),
        format!(
            "-A FLANNEL-POSTRTG ! -s {POD_CIDR} -d {POD_CIDR} {comment} -j MASQUERADE --random-fully"
        ),
    ] {
        nat.rule(rule);
    }
}

fn flannel_forward(filter: &mut Table) {
    let comment = r#"-m comment --comment "flanneld forward""#;
    filter.chain("FLANNEL-FWD");
    for rule in [
        format!("-A FORWARD {comment} -j FLANNEL-FWD"),
        format!("-A FLANNEL-FWD -s {POD_CIDR} {comment} -j ACCEPT"),
        format!("-A FLANNEL-FWD -d {POD_CIDR} {comment} -j ACCEPT"),
    ] {
        filter.rule(rule);
    }
}

/// Sixteen letters that tell one chain from another (FNV-1a, in the alphabet of kube-proxy's base32).
fn hash(text: &str) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let digest = |seed: u64| {
        text.bytes().fold(seed, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    };
    let mut wide =
        u128::from(digest(0xcbf2_9ce4_8422_2325)) << 64 | u128::from(digest(0x9e37_79b9));
    (0..16)
        .map(|_| {
            let letter = ALPHABET[usize::try_from(wide & 31).expect("31 at most")];
            wide >>= 8;
            char::from(letter)
        })
        .collect()
}
