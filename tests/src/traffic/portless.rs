//! Packets of a protocol without ports, sent and answered by raw sockets.

use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context as _, Result, ensure};
use etherparse::Ipv4Slice;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::hosts::host::{Host, PATIENCE};

/// Use for experimentation and testing (RFC 3692 section 2.1).
pub const PROTOCOL: u8 = 253;

/// Sends `payload` from one host to another, which sends it back to whom it takes for the sender.
pub fn exchange(from: &Host, to: &Host, payload: &[u8]) -> Result<()> {
    let client = socket(from)?;
    let server = socket(to)?;
    client
        .send_to(payload, &whole_host(to.address()))
        .context("send")?;
    let (peer, request) = receive(&server).with_context(|| format!("{} receives", to.name()))?;
    ensure!(request == payload, "{} receives something else", to.name());
    server
        .send_to(&request, &whole_host(peer))
        .context("answer")?;
    let (peer, answer) = receive(&client).with_context(|| format!("{} receives", from.name()))?;
    ensure!(peer == to.address(), "{peer} answers for {}", to.address());
    ensure!(answer == payload, "the answer differs from what was sent");
    Ok(())
}

fn socket(host: &Host) -> Result<Socket> {
    host.run_in(|| {
        let protocol = Protocol::from(i32::from(PROTOCOL));
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(protocol))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket)
    })
    .with_context(|| format!("open a raw socket on {}", host.name()))
}

fn whole_host(address: Ipv4Addr) -> SockAddr {
    SocketAddrV4::new(address, 0).into()
}

/// The next packet's source and payload.
fn receive(mut socket: &Socket) -> Result<(Ipv4Addr, Vec<u8>)> {
    let mut buffer = [0; 2048];
    let length = socket.read(&mut buffer).context("no packet")?;
    let packet = Ipv4Slice::from_slice(&buffer[..length]).context("read the packet")?;
    let payload = packet.payload().payload.to_owned();
    Ok((packet.header().source_addr(), payload))
}
