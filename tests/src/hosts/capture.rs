//! Captures with tcpdump, read back packet by packet.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use nix::sys::signal::Signal;

use crate::machine::netns::Namespace;
use crate::machine::process::Daemon;
use crate::variant::Overlay;

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    daemon: Daemon,
    path: PathBuf,
}

impl Capture {
    /// Starts tcpdump and waits until it listens.
    pub fn start(
        namespace: &Namespace,
        directory: &Path,
        interface: &str,
        filter: &str,
    ) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!("capture-{count}.pcap"));
        let mut command = namespace.command("tcpdump");
        command
            .args([
                "-n",
                "-U",
                "--immediate-mode",
                "-s",
                "0",
                "-B",
                "16384",
                "-Z",
                "root",
            ])
            .args(["-i", interface, "-w"])
            .arg(&path)
            .arg(filter);
        let log = directory.join(format!("capture-{count}.log"));
        let mut daemon = Daemon::spawn("tcpdump", command, &log)?;
        daemon.wait_until(Duration::from_secs(5), || {
            fs::read_to_string(&log).is_ok_and(|text| text.contains("listening on"))
        })?;
        Ok(Self { daemon, path })
    }

    /// Ends the capture and returns what it saw.
    pub fn stop(mut self) -> Result<Vec<Packet>> {
        // tcpdump takes what the kernel has for it once per wake-up, also in immediate mode.
        std::thread::sleep(Duration::from_millis(50));
        self.daemon.signal(Signal::SIGINT)?;
        self.daemon.wait(Duration::from_secs(5))?;
        read(&self.path)
    }
}

/// One captured frame.
#[derive(Clone, PartialEq, Eq)]
pub struct Packet {
    /// The octets from the Ethernet header on.
    pub frame: Vec<u8>,
}

impl std::fmt::Debug for Packet {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.ipv4() {
            Some(summary) => write!(formatter, "{summary:?}"),
            None => write!(formatter, "{:02x?}", self.frame),
        }
    }
}

/// The addresses of an IPv4 packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Source.
    pub source: Ipv4Addr,
    /// Destination.
    pub destination: Ipv4Addr,
    /// Time to live.
    pub ttl: u8,
    /// Protocol number.
    pub protocol: u8,
    /// Source port, or the identifier of an ICMP echo; 0 for others and for later fragments.
    pub source_port: u16,
    /// Destination port; 0 where there is none.
    pub destination_port: u16,
    /// Type and code of an ICMP message.
    pub icmp: Option<(u8, u8)>,
    /// Payload of the transport protocol.
    pub payload: Vec<u8>,
}

impl Summary {
    /// Source address and port.
    #[must_use]
    pub fn from(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.source, self.source_port)
    }

    /// Destination address and port.
    #[must_use]
    pub fn to(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.destination, self.destination_port)
    }
}

impl Packet {
    /// What it is as an IPv4 packet.
    #[must_use]
    pub fn ipv4(&self) -> Option<Summary> {
        let packet = SlicedPacket::from_ethernet(&self.frame).ok()?;
        let Some(NetSlice::Ipv4(ip)) = packet.net else {
            return None;
        };
        let header = ip.header();
        let (source_port, destination_port, icmp, payload) = match packet.transport {
            Some(TransportSlice::Tcp(tcp)) => (
                tcp.source_port(),
                tcp.destination_port(),
                None,
                tcp.payload().to_vec(),
            ),
            Some(TransportSlice::Udp(udp)) => (
                udp.source_port(),
                udp.destination_port(),
                None,
                udp.payload().to_vec(),
            ),
            Some(TransportSlice::Icmpv4(icmp)) => {
                let [high, low, ..] = icmp.bytes5to8();
                let kind = (icmp.type_u8(), icmp.code_u8());
                let id = if matches!(kind.0, 0 | 8) {
                    u16::from_be_bytes([high, low])
                } else {
                    0
                };
                (id, 0, Some(kind), icmp.payload().to_vec())
            }
            _ => (0, 0, None, ip.payload().payload.to_vec()),
        };
        Some(Summary {
            source: header.source_addr(),
            destination: header.destination_addr(),
            ttl: header.ttl(),
            protocol: header.protocol().0,
            source_port,
            destination_port,
            icmp,
            payload,
        })
    }

    /// The frame inside a VXLAN packet (RFC 7348 section 5: eight octets of header, then the frame).
    #[must_use]
    pub fn inside_vxlan(&self) -> Option<Packet> {
        let outer = self.ipv4()?;
        (outer.destination_port == crate::plan::VXLAN_PORT && outer.payload.len() > 8).then(|| {
            Packet {
                frame: outer.payload[8..].to_vec(),
            }
        })
    }
}

impl Overlay {
    /// What tcpdump takes to see pods' packets on the wire between nodes.
    #[must_use]
    pub const fn capture_filter(self) -> &'static str {
        match self {
            Self::Vxlan => "udp port 8472",
            Self::HostGw => "ip and net 10.244.0.0/16",
        }
    }

    /// A packet of a pod in what [`Overlay::capture_filter`] has let through.
    #[must_use]
    pub fn carried(self, packet: &Packet) -> Option<Summary> {
        match self {
            Self::Vxlan => packet.inside_vxlan()?.ipv4(),
            Self::HostGw => packet.ipv4(),
        }
    }
}

/// Reads a capture file (the classic pcap format, of this machine's byte order).
fn read(path: &Path) -> Result<Vec<Packet>> {
    const HEADER: usize = 24;
    const RECORD: usize = 16;
    let octets = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    ensure!(octets.len() >= HEADER, "{} is no capture", path.display());
    let mut packets = Vec::new();
    let mut rest = &octets[HEADER..];
    while let Some((record, following)) = rest.split_at_checked(RECORD) {
        let length = u32::from_ne_bytes([record[8], record[9], record[10], record[11]]) as usize;
        let Some((frame, following)) = following.split_at_checked(length) else {
            break;
        };
        packets.push(Packet {
            frame: frame.to_vec(),
        });
        rest = following;
    }
    Ok(packets)
}
