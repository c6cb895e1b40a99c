//! Ports that the node itself uses, so that NAT on one of its addresses must not.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;

use bridge_common::abi::NatPort;
use nix::unistd::gettid;
use procfs::ProcError;
use procfs::net::{TcpNetEntry, TcpState, UdpNetEntry};
use procfs::process::Process;

use crate::kernel::sysctl::{SysctlError, local_port_range, local_reserved_ports};
use crate::model::ports::PortSet;
use crate::model::{Finding, Subject};

/// Kubernetes' `NodePorts` (kube-apiserver `--service-node-port-range`).
pub const NODE_PORTS: RangeInclusive<u16> = 30_000..=32_767;
/// UDP ports of tunnels whose packets the kernel takes in before any socket sees them: flannel's
/// VXLAN (8472, Linux's own default), VXLAN by RFC 7348 (4789), and `WireGuard` (51820).
pub const TUNNEL_PORTS: [u16; 3] = [8_472, 4_789, 51_820];

/// Why the ports in use cannot be found out.
#[derive(Debug, thiserror::Error)]
pub enum ReservedPortsError {
    /// From the kernel's settings.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// From the kernel's list of sockets.
    #[error("cannot read which ports are in use: {0}")]
    Sockets(#[from] ProcError),
}

impl From<ReservedPortsError> for Finding {
    fn from(error: ReservedPortsError) -> Self {
        match error {
            ReservedPortsError::Sysctl(error) => error.into(),
            ReservedPortsError::Sockets(_) => Self::failure(
                Subject::NatPorts,
                error.to_string(),
                "run as root, with /proc mounted",
            ),
        }
    }
}

/// What belongs to the node itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReservedPorts {
    /// Ports that NAT must not use on an address that the node uses, too.
    pub ports: PortSet,
    /// Addresses that sockets are bound to, or connected from.
    pub addresses: BTreeSet<Ipv4Addr>,
}

/// The ports that belong to the node in the network namespace of the calling thread: those that
/// the kernel hands out or was told to leave alone, `NodePorts`, tunnels, everything that
/// listens now, and privileged ports in use.
///
/// # Errors
/// When the kernel's settings or sockets cannot be read.
pub fn reserved_ports() -> Result<ReservedPorts, ReservedPortsError> {
    let mut ports = local_reserved_ports()?;
    ports.insert_range(local_port_range()?);
    ports.insert_range(NODE_PORTS);
    for port in TUNNEL_PORTS {
        ports.insert(port);
    }
    // Port 0 stands for "none" everywhere.
    ports.insert(0);
    let sockets = Sockets::read()?;
    ports.union_with(&sockets.ports());
    Ok(ReservedPorts {
        ports,
        addresses: sockets.addresses(),
    })
}

/// The sockets of the network namespace of the calling thread.
struct Sockets {
    tcp: Vec<TcpNetEntry>,
    udp: Vec<UdpNetEntry>,
}

impl Sockets {
    fn read() -> Result<Self, ReservedPortsError> {
        // The calling thread's own entry: the process's would be its first thread's namespace.
        let this = Process::new(gettid().as_raw())?;
        Ok(Self {
            tcp: [this.tcp()?, if_any(this.tcp6())?].concat(),
            udp: [this.udp()?, if_any(this.udp6())?].concat(),
        })
    }

    /// Ports of listening TCP and of all UDP sockets, IPv6 ones included: unless told otherwise those take IPv4 packets
    /// too. Of connected TCP sockets those with a privileged port: other ones are the kernel's own choice.
    fn ports(&self) -> PortSet {
        let listening = self.tcp.iter().filter(|socket| {
            socket.state == TcpState::Listen || socket.local_address.port() < NatPort::FIRST_USER
        });
        let listening = listening.map(|socket| socket.local_address.port());
        let bound = self.udp.iter().map(|socket| socket.local_address.port());
        listening.chain(bound).collect()
    }

    fn addresses(&self) -> BTreeSet<Ipv4Addr> {
        let tcp = self.tcp.iter().map(|socket| socket.local_address.ip());
        let udp = self.udp.iter().map(|socket| socket.local_address.ip());
        tcp.chain(udp)
            .filter_map(|address| match address.to_canonical() {
                IpAddr::V4(address) if !address.is_unspecified() => Some(address),
                _ => None,
            })
            .collect()
    }
}
/// A kernel without IPv6 has no list of its sockets.
fn if_any<T>(sockets: Result<Vec<T>, ProcError>) -> Result<Vec<T>, ProcError> {
    match sockets {
        Err(ProcError::NotFound(_)) => Ok(Vec::new()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn what_the_kernel_and_kubernetes_hand_out_is_reserved() {
        let ports = reserved_ports().unwrap().ports;
        let range = local_port_range().unwrap();
        for port in [
            0,
            *range.start(),
            *range.end(),
            30_000,
            32_767,
            8_472,
            4_789,
            51_820,
        ] {
            assert!(ports.contains(port), "{port}");
        }
        assert!(ports.len() < 65_536, "nothing is left for NAT");
    }

    #[test]
    fn a_port_is_reserved_while_something_listens_on_it() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let tcp6 = TcpListener::bind("[::1]:0").unwrap();
        let sockets = Sockets::read().unwrap();
        let listening = sockets.ports();
        for address in [tcp.local_addr(), udp.local_addr(), tcp6.local_addr()] {
            assert!(listening.contains(address.unwrap().port()));
        }
        let port = tcp.local_addr().unwrap().port();
        drop(tcp);
        assert!(sockets.addresses().contains(&Ipv4Addr::LOCALHOST));
        assert!(!Sockets::read().unwrap().ports().contains(port));
    }
}
