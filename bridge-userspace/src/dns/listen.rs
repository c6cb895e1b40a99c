//! Binding the relay's addresses, before anything else is touched.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Socket, Type};
use thiserror::Error;

use crate::kernel::sockets::{self, Holder, Transport, by};
use crate::model::{Finding, Subject};

/// Room for a burst of queries: some 5,000 small ones at the kernel's bookkeeping of 768 bytes each.
/// The default of 208 KiB loses queries while the relay is not scheduled.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Connections that wait to be accepted; the kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 1024;

/// How often to look for a port that is free on both transports, where the kernel may choose.
const PORT_CHOICES: usize = 16;

/// Why the relay can't start, or can't take a new configuration.
#[derive(Debug, Error)]
pub enum BindError {
    /// There is nothing to listen on.
    #[error("the DNS relay has no address to listen on")]
    NoListenAddress,
    /// There is nobody to ask.
    #[error("the DNS relay has no upstream")]
    NoUpstream,
    /// An upstream is the relay itself.
    #[error(
        "DNS upstream {upstream} is the relay's own address {listen}: every query would go round in a circle"
    )]
    Loop {
        /// The upstream.
        upstream: SocketAddr,
        /// The listening address that it reaches.
        listen: SocketAddr,
    },
    /// The name to probe upstreams with is no domain name.
    #[error("{domain:?} is no domain name")]
    ProbeDomain {
        /// What was given.
        domain: String,
    },
    /// Another socket has the port.
    #[error("{address} ({transport}) is taken{}", by(holder.as_ref()))]
    Taken {
        /// The address.
        address: SocketAddr,
        /// `UDP` or `TCP`.
        transport: &'static str,
        /// Who has it, if that can be seen.
        holder: Option<Holder>,
    },
    /// No interface has the address.
    #[error("{address} is no address of this host")]
    NotLocal {
        /// The address.
        address: SocketAddr,
    },
    /// A port below 1024 without the capability.
    #[error("may not listen on {address}")]
    NotPermitted {
        /// The address.
        address: SocketAddr,
    },
    /// Anything else that the kernel said.
    #[error("can't listen on {address} ({transport}): {source}")]
    Io {
        /// The address.
        address: SocketAddr,
        /// `UDP` or `TCP`.
        transport: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
    /// The addresses of this host, needed to see loops, can't be read.
    #[error("can't list this host's addresses: {0}")]
    LocalAddresses(#[source] io::Error),
}

impl BindError {
    /// Whether the configuration itself is wrong (exit code 2), rather than the host (1).
    #[must_use]
    pub fn is_usage(&self) -> bool {
        match self {
            Self::NoListenAddress
            | Self::NoUpstream
            | Self::Loop { .. }
            | Self::ProbeDomain { .. } => true,
            Self::Taken { .. }
            | Self::NotLocal { .. }
            | Self::NotPermitted { .. }
            | Self::Io { .. }
            | Self::LocalAddresses(_) => false,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NoListenAddress => "give --dns-listen ADDR:PORT, or --no-dns",
            Self::NoUpstream => {
                "give --dns-upstream ADDR:PORT (the cluster's DNS service), or --no-dns"
            }
            Self::Loop { .. } => "name the cluster's DNS service instead",
            Self::ProbeDomain { .. } => "correct --cluster-domain",
            Self::Taken { .. } => {
                "stop that service or move it to another address, or choose another --dns-listen"
            }
            Self::NotLocal { .. } => {
                "`ip address` shows those that it has; add it or choose another --dns-listen"
            }
            Self::NotPermitted { .. } => "run as root or with CAP_NET_BIND_SERVICE",
            Self::Io { .. } => "choose another --dns-listen, or --no-dns",
            Self::LocalAddresses(_) => "run without --dns-listen, or with --no-dns",
        }
    }

    fn subject(&self) -> Subject {
        match self {
            Self::NoListenAddress => Subject::Setting("dnsListen".into()),
            Self::NoUpstream => Subject::Setting("dnsUpstream".into()),
            Self::ProbeDomain { .. } => Subject::Setting("clusterDomain".into()),
            Self::Loop {
                upstream: address, ..
            }
            | Self::Taken { address, .. }
            | Self::NotLocal { address }
            | Self::NotPermitted { address }
            | Self::Io { address, .. } => Subject::Socket(*address),
            Self::LocalAddresses(_) => Subject::KernelNetwork,
        }
    }
}

impl From<BindError> for Finding {
    fn from(error: BindError) -> Self {
        let finding = if error.is_usage() {
            Self::usage
        } else {
            Self::failure
        };
        finding(error.subject(), error.to_string(), error.remedy())
    }
}

/// All that keeps the relay from starting; at least one.
#[derive(Debug, Error)]
#[error("{}", .0.iter().map(BindError::to_string).collect::<Vec<_>>().join("; "))]
pub struct BindErrors(Vec<BindError>);

impl BindErrors {
    /// Whether the configuration itself is wrong (exit code 2), rather than the host (1).
    #[must_use]
    pub fn is_usage(&self) -> bool {
        self.0.iter().any(BindError::is_usage)
    }
}

impl From<BindError> for BindErrors {
    fn from(error: BindError) -> Self {
        Self(vec![error])
    }
}

impl IntoIterator for BindErrors {
    type Item = BindError;
    type IntoIter = std::vec::IntoIter<BindError>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// Both sockets of one listening address, not blocking.
#[derive(Debug)]
pub struct Listener {
    /// The address, with the port that the kernel chose if it was 0.
    pub address: SocketAddr,
    /// Takes datagrams; tells their destination if the address is a wildcard.
    pub udp: UdpSocket,
    /// Takes connections.
    pub tcp: TcpListener,
}

/// Binds every address over both transports, or none.
///
/// # Errors
/// Says which addresses can't be had, and why.
pub fn bind(addresses: &[SocketAddr]) -> Result<Vec<Listener>, BindErrors> {
    if addresses.is_empty() {
        return Err(BindError::NoListenAddress.into());
    }
    let mut listeners = Vec::new();
    let mut errors = Vec::new();
    for &address in addresses {
        match bind_one(address) {
            Ok(listener) => listeners.push(listener),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() {
        Ok(listeners)
    } else {
        Err(BindErrors(errors))
    }
}

fn bind_one(address: SocketAddr) -> Result<Listener, BindError> {
    let mut choices = if address.port() == 0 { PORT_CHOICES } else { 1 };
    loop {
        choices -= 1;
        let udp = bind_udp(address).map_err(|error| explain(address, Transport::Udp, error))?;
        let bound = udp
            .local_addr()
            .map_err(|error| explain(address, Transport::Udp, error))?;
        match bind_tcp(bound) {
            Ok(tcp) => {
                return Ok(Listener {
                    address: bound,
                    udp,
                    tcp,
                });
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && choices > 0 => {}
            Err(error) => return Err(explain(bound, Transport::Tcp, error)),
        }
    }
}

fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = open(address, Type::DGRAM)?;
    if address.ip().is_unspecified() {
        match address {
            SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
            SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?,
        }
    }
    // Past net.core.rmem_max takes CAP_NET_ADMIN; without it the kernel gives what it may.
    if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = open(address, Type::STREAM)?;
    // Old connections in TIME_WAIT must not keep a restarted relay from its port.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn open(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind.nonblocking(), None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

fn explain(address: SocketAddr, transport: Transport, error: io::Error) -> BindError {
    match error.kind() {
        io::ErrorKind::AddrInUse => BindError::Taken {
            address,
            transport: transport.name(),
            holder: sockets::holder(address, transport),
        },
        io::ErrorKind::AddrNotAvailable => BindError::NotLocal { address },
        io::ErrorKind::PermissionDenied => BindError::NotPermitted { address },
        _ => BindError::Io {
            address,
            transport: transport.name(),
            source: error,
        },
    }
}

/// Refuses upstreams that are the relay itself.
///
/// # Errors
/// Names the upstreams that loop, or says that there is none at all.
pub fn check_upstreams(upstreams: &[SocketAddr], listen: &[SocketAddr]) -> Result<(), BindErrors> {
    if upstreams.is_empty() {
        return Err(BindError::NoUpstream.into());
    }
    let own = own_addresses().map_err(BindError::LocalAddresses)?;
    let is_own = |ip: IpAddr| ip.is_loopback() || ip.is_unspecified() || own.contains(&ip);
    let mut loops = Vec::new();
    for upstream in upstreams {
        let ip = upstream.ip().to_canonical();
        for listen in listen {
            let reaches = if listen.ip().is_unspecified() {
                is_own(ip)
            } else {
                // Connecting to the unspecified address means connecting to this host.
                ip == listen.ip() || ip.is_unspecified()
            };
            if reaches && upstream.port() == listen.port() {
                loops.push(BindError::Loop {
                    upstream: *upstream,
                    listen: *listen,
                });
            }
        }
    }
    if loops.is_empty() {
        Ok(())
    } else {
        Err(BindErrors(loops))
    }
}

fn own_addresses() -> io::Result<Vec<IpAddr>> {
    let addresses = nix::ifaddrs::getifaddrs()?
        .filter_map(|interface| interface.address)
        .filter_map(|address| {
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .collect();
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_taken_port_is_reported_with_the_process_that_has_it() {
        for transport in [Transport::Udp, Transport::Tcp] {
            let (udp, tcp);
            let taken = match transport {
                Transport::Udp => {
                    udp = UdpSocket::bind("127.0.0.1:0").unwrap();
                    udp.local_addr().unwrap()
                }
                Transport::Tcp => {
                    tcp = TcpListener::bind("127.0.0.1:0").unwrap();
                    tcp.local_addr().unwrap()
                }
            };
            let error = bind(&[taken]).unwrap_err();
            assert!(!error.is_usage());
            let text = error.to_string();
            let pid = format!("(pid {})", std::process::id());
            assert!(text.contains(&taken.to_string()), "{text}");
            assert!(text.contains(&pid), "{text}");
        }
    }

    #[test]
    fn a_wildcard_holder_is_found_too() {
        let holder = UdpSocket::bind("0.0.0.0:0").unwrap();
        let taken = SocketAddr::new([127, 0, 0, 1].into(), holder.local_addr().unwrap().port());
        let found = sockets::holder(taken, Transport::Udp).unwrap();
        assert_eq!(u32::try_from(found.pid).unwrap(), std::process::id());
    }

    #[test]
    fn an_address_of_another_host_is_told_from_a_taken_one() {
        let errors = bind(&[address("192.0.2.1:5300")]).unwrap_err();
        assert!(
            matches!(errors.0[..], [BindError::NotLocal { .. }]),
            "{errors}"
        );
    }

    #[test]
    fn every_address_that_can_not_be_had_is_told_with_what_helps() {
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let addresses = [
            address("127.0.0.1:0"),
            taken.local_addr().unwrap(),
            address("192.0.2.1:5300"),
        ];
        let errors = bind(&addresses).unwrap_err();
        let findings: Vec<Finding> = errors.into_iter().map(Finding::from).collect();
        let subjects: Vec<&Subject> = findings.iter().map(|finding| &finding.subject).collect();
        assert_eq!(
            subjects,
            [
                &Subject::Socket(addresses[1]),
                &Subject::Socket(addresses[2])
            ]
        );
        assert!(findings[0].remedy.contains("--dns-listen"));
        assert!(!findings.iter().any(Finding::is_usage));
    }

    #[test]
    fn an_upstream_that_is_the_relay_itself_is_wrong_usage() {
        for (upstream, listen) in [
            ("127.0.0.1:5300", "127.0.0.1:5300"),
            ("127.0.0.9:5300", "0.0.0.0:5300"),
            ("0.0.0.0:5300", "127.0.0.1:5300"),
            ("[::ffff:127.0.0.1]:5300", "127.0.0.1:5300"),
            ("[::1]:5300", "[::]:5300"),
        ] {
            let error = check_upstreams(&[address(upstream)], &[address(listen)]).unwrap_err();
            assert!(error.is_usage());
            assert!(
                matches!(error.0[..], [BindError::Loop { .. }]),
                "{upstream} {listen}: {error}"
            );
        }
        let fine = [address("127.0.0.1:5301"), address("192.0.2.1:5300")];
        check_upstreams(&fine, &[address("127.0.0.1:5300"), address("0.0.0.0:5300")]).unwrap();
    }

    #[test]
    fn nothing_to_listen_on_and_nobody_to_ask_are_wrong_usage() {
        assert!(bind(&[]).unwrap_err().is_usage());
        assert!(check_upstreams(&[], &[]).unwrap_err().is_usage());
    }
}
