//! Datagrams in fragments that come in an order of the test's choosing. They are put on the wire as frames, where no IP
//! stack puts them in order again.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::Result;

use super::frames::{self, Sender, ethernet, fix_checksum};
use crate::hosts::host::Host;
use crate::lab::Lab;
use crate::plan::ECHO_PODS;
use crate::variant::Overlay;

/// Every order of three fragments.
pub const ORDERS: [[usize; 3]; 6] = [
    [0, 1, 2],
    [0, 2, 1],
    [1, 0, 2],
    [1, 2, 0],
    [2, 0, 1],
    [2, 1, 0],
];

/// Bytes of each fragment of a [`Datagram`] but the last: they fit any pod's MTU.
pub const SIZE: usize = 1_200;

const IPV4: u16 = 0x0800;
const UDP: u8 = 17;
const MORE_FRAGMENTS: u16 = 0x2000;

/// A UDP datagram of three fragments.
#[derive(Clone, Debug)]
pub struct Datagram {
    /// Sender.
    pub from: SocketAddrV4,
    /// Receiver.
    pub to: SocketAddrV4,
    /// IPv4 identification.
    pub identification: u16,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl Datagram {
    /// One whose payload tells it from others.
    #[must_use]
    pub fn new(from: SocketAddrV4, to: SocketAddrV4, identification: u16) -> Self {
        let pattern = identification.to_be_bytes();
        let payload = pattern.into_iter().chain(0..=u8::MAX).cycle();
        Self {
            from,
            to,
            identification,
            payload: payload.take(3 * SIZE - 99).collect(),
        }
    }

    /// Its fragments as IPv4 packets, in order.
    #[must_use]
    pub fn fragments(&self) -> [Vec<u8>; 3] {
        let udp = self.udp();
        [0, 1, 2].map(|index| {
            let start = index * SIZE;
            let end = udp.len().min(start + SIZE);
            self.piece(UDP, start, &udp[start..end], index < 2)
        })
    }

    /// A fragment of the same datagram with anything in it.
    #[must_use]
    pub fn piece(&self, protocol: u8, start: usize, payload: &[u8], has_more: bool) -> Vec<u8> {
        let mut packet = frames::ipv4(*self.from.ip(), *self.to.ip(), protocol, payload);
        let offset = u16::try_from(start / 8).expect("an offset in a datagram");
        let more = if has_more { MORE_FRAGMENTS } else { 0 };
        packet[4..6].copy_from_slice(&self.identification.to_be_bytes());
        packet[6..8].copy_from_slice(&(offset | more).to_be_bytes());
        fix_checksum(&mut packet);
        packet
    }

    /// The datagram with its checksum (RFC 768).
    fn udp(&self) -> Vec<u8> {
        let mut udp = frames::udp(self.from.port(), self.to.port(), &self.payload);
        let pseudo = [
            &self.from.ip().octets()[..],
            &self.to.ip().octets(),
            &[0, UDP],
            &udp[4..6],
            &udp,
        ];
        let sum = frames::checksum(&pseudo.concat());
        udp[6..8].copy_from_slice(&sum.to_be_bytes());
        udp
    }
}

/// Where packets of one host come to node-30 from.
#[derive(Debug)]
pub struct Way {
    sender: Sender,
    to: [u8; 6],
    from: [u8; 6],
}

impl Way {
    fn new(host: &Host, interface: &str, to: [u8; 6]) -> Result<Self> {
        Ok(Self {
            sender: Sender::new(host, interface)?,
            to,
            from: frames::mac(host, interface)?,
        })
    }

    /// From the office, by its router.
    pub fn of_office(lab: &Lab) -> Result<Self> {
        let to = frames::mac(lab.node_30(), "eth0")?;
        Self::new(lab.office_router(), "lan0", to)
    }

    /// From an echo pod: where it is on a worker, from the worker behind its netfilter, which puts fragments in order.
    pub fn of_pod(lab: &Lab, pod: &str) -> Result<Self> {
        let node = lab.node_30();
        let host = match pod {
            "echo-0" => return Self::new(lab.pod(pod), "eth0", frames::mac(node, "cni0")?),
            "echo-1" => lab.worker_1(),
            _ => lab.worker_2(),
        };
        let interface = match lab.options().overlay {
            Overlay::Vxlan => "flannel.1",
            Overlay::HostGw => "eth0",
        };
        Self::new(host, interface, frames::mac(node, interface)?)
    }

    /// From the echo pod with this address.
    pub fn of_address(lab: &Lab, address: Ipv4Addr) -> Result<Self> {
        let pod = ECHO_PODS
            .into_iter()
            .find(|pod| lab.pod(pod).address() == address);
        Self::of_pod(lab, pod.expect("an echo pod"))
    }

    /// Sends IPv4 packets, one after the other.
    pub fn send<'a>(&self, packets: impl IntoIterator<Item = &'a Vec<u8>>) -> Result<()> {
        for packet in packets {
            self.sender
                .send(&ethernet(self.to, self.from, IPV4, packet))?;
        }
        Ok(())
    }

    /// Sends a datagram's fragments in an order.
    pub fn send_in_order(&self, datagram: &Datagram, order: [usize; 3]) -> Result<()> {
        let fragments = datagram.fragments();
        self.send(order.map(|index| &fragments[index]))
    }
}
