//! The two DNS servers: dnsmasq as the office DNS, unbound as the pods of kube-dns.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::cluster::{Cluster, PROJECT};
use crate::machine::netns::Namespace;
use crate::machine::process::Daemon;
use crate::plan::{self, CLUSTER_DOMAIN, port};

/// A name whose 150 addresses need 2.4 KB: no resolver gets them over UDP without TCP or fragments.
#[must_use]
pub fn large_name() -> String {
    format!("many.{PROJECT}.svc.{CLUSTER_DOMAIN}")
}

/// How many addresses [`large_name`] has.
pub const LARGE_COUNT: u8 = 150;

/// The three ways in which the recipe's users wire the office DNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsPlan {
    /// Plan 1: it runs on node-30 itself and forwards to kube-dns.
    OnNode,
    /// Plan 2: it runs on the office router and forwards to kube-dns by the router's static route.
    ThroughNode,
    /// Plan 3: it runs on the office router and forwards to node-30, which relays.
    Relay,
}

impl DnsPlan {
    /// Where dnsmasq listens.
    #[must_use]
    pub fn listen(self) -> Ipv4Addr {
        match self {
            Self::OnNode => plan::NODE_30,
            Self::ThroughNode | Self::Relay => plan::ROUTER_LAN,
        }
    }

    /// Where it forwards `cluster.local` to.
    #[must_use]
    pub fn server(self) -> Ipv4Addr {
        match self {
            Self::OnNode | Self::ThroughNode => plan::KUBE_DNS,
            Self::Relay => plan::NODE_30,
        }
    }
}

/// Starts dnsmasq with the recipe's configuration in `namespace`.
pub fn start_office(namespace: &Namespace, directory: &Path, wiring: DnsPlan) -> Result<Daemon> {
    let listen = wiring.listen();
    let text = format!(
        "port=53\nuser=root\npid-file=\nno-resolv\nno-hosts\nbind-interfaces\nstrict-order\n\
         listen-address={listen}\nbogus-nxdomain=203.0.113.53\nserver=/{CLUSTER_DOMAIN}/{}\n",
        wiring.server()
    );
    let path = directory.join("dnsmasq.conf");
    fs::write(&path, text).context("write the configuration of dnsmasq")?;
    let mut command = namespace.command("dnsmasq");
    command
        .arg("--no-daemon")
        .arg(format!("--conf-file={}", path.display()));
    let mut daemon = Daemon::spawn("dnsmasq", command, &directory.join("dnsmasq.log"))?;
    // dnsmasq answers names under .test itself, whether or not its upstream works.
    await_answer(&mut daemon, namespace, listen, "lab.test")?;
    Ok(daemon)
}

/// Starts unbound as one pod of kube-dns.
pub fn start_kube_dns(
    namespace: &Namespace,
    directory: &Path,
    address: Ipv4Addr,
    cluster: &Cluster,
) -> Result<Daemon> {
    let path = directory.join(format!("unbound-{address}.conf"));
    fs::write(&path, unbound_conf(address, cluster))
        .context("write the configuration of unbound")?;
    let mut command = namespace.command("unbound");
    command.arg("-d").arg("-p").arg("-c").arg(&path);
    Daemon::spawn(
        "unbound",
        command,
        &directory.join(format!("unbound-{address}.log")),
    )
}

/// Waits until the server answers at all.
pub fn await_answer(
    daemon: &mut Daemon,
    namespace: &Namespace,
    server: Ipv4Addr,
    name: &str,
) -> Result<()> {
    let query = question(0x0b0b, name);
    daemon.wait_until(Duration::from_secs(10), || {
        namespace
            .run_in(|| {
                let socket = UdpSocket::bind((server, 0))?;
                socket.set_read_timeout(Some(Duration::from_millis(50)))?;
                socket.connect((server, port::DNS))?;
                socket.send(&query)?;
                Ok(socket.recv(&mut [0; 1500])?)
            })
            .is_ok()
    })
}

/// A query for the A records of `name` (RFC 1035 section 4).
#[must_use]
pub fn question(id: u16, name: &str) -> Vec<u8> {
    let mut message = Vec::from(id.to_be_bytes());
    // Recursion desired; one question.
    message.extend([0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.trim_end_matches('.').split('.') {
        message.push(u8::try_from(label.len()).unwrap_or(63));
        message.extend(label.as_bytes());
    }
    // The root label, type A, class IN.
    message.extend([0, 0, 1, 0, 1]);
    message
}

fn unbound_conf(address: Ipv4Addr, cluster: &Cluster) -> String {
    let mut records = String::new();
    let mut record = |name: &str, data: &str| {
        writeln!(records, "  local-data: \"{name}. 5 IN {data}\"")
            .expect("a String takes every write");
    };
    for service in &cluster.services {
        let name = service.dns_name();
        record(&name, &format!("A {}", service.vip));
        for port in &service.ports {
            let prefix = format!("_{}._{}.{name}", port.name, port.protocol.lower());
            record(&prefix, &format!("SRV 0 100 {} {name}.", port.port));
        }
    }
    for last in 1..=LARGE_COUNT {
        record(&large_name(), &format!("A 10.244.200.{last}"));
    }
    record(
        CLUSTER_DOMAIN,
        &format!("SOA ns.dns.{CLUSTER_DOMAIN}. hostmaster.{CLUSTER_DOMAIN}. 1 7200 1800 86400 5"),
    );
    format!(
        "server:\n  directory: \"\"\n  chroot: \"\"\n  username: \"\"\n  pidfile: \"\"\n  use-syslog: no\n  \
         do-daemonize: no\n  interface: {address}\n  do-ip6: no\n  access-control: 0.0.0.0/0 allow\n  \
         module-config: \"iterator\"\n  edns-buffer-size: 4096\n  max-udp-size: 4096\n  num-threads: 1\n  \
         incoming-num-tcp: 64\n  so-rcvbuf: 4m\n  so-sndbuf: 4m\n  \
         local-zone: \"{CLUSTER_DOMAIN}.\" static\n{records}remote-control:\n  control-enable: no\n"
    )
}
