//! XDP programs on interfaces, as rtnetlink tells of them.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use futures::TryStreamExt as _;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, NlasIterator,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage, LinkXdp};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};

use super::dump::kind;
use super::error::NetlinkError;
use super::state::LinkKind;

/// `XDP_FLAGS_UPDATE_IF_NOEXIST` (`linux/if_link.h`).
const IF_NOEXIST: u32 = 1 << 0;
/// `XDP_FLAGS_DRV_MODE` (`linux/if_link.h`).
const DRV_MODE: u32 = 1 << 2;
/// `NLMSGERR_ATTR_MSG` (linux/netlink.h).
const ERROR_TEXT: u16 = 1;
/// `struct nlmsghdr` (linux/netlink.h).
const HEADER_BYTES: usize = 16;

/// An interface as XDP sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpLink {
    /// The id of the XDP program on it, whoever has put it there and in whatever mode.
    pub program: Option<u32>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Packets that it has received.
    pub received: u64,
    /// What kind of device it is.
    pub kind: LinkKind,
}

/// Looks at an interface.
///
/// # Errors
/// When there is no netlink socket or the kernel refuses.
pub async fn xdp_link(ifindex: u32) -> Result<XdpLink, NetlinkError> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(NetlinkError::Socket)?;
    let connection = tokio::spawn(connection);
    let link = handle
        .link()
        .get()
        .match_index(ifindex)
        .execute()
        .try_next()
        .await;
    connection.abort();
    let link = link.map_err(|error| NetlinkError::Request {
        what: "link",
        error,
    })?;
    let attributes = link.map(|link| link.attributes).unwrap_or_default();
    let mut found = XdpLink {
        program: None,
        mtu: 0,
        received: 0,
        kind: kind(&attributes),
    };
    for attribute in attributes {
        match attribute {
            LinkAttribute::Mtu(mtu) => found.mtu = mtu,
            LinkAttribute::Stats64(stats) => found.received = stats.rx_packets,
            // With programs in several modes there is no single id, but one for each.
            LinkAttribute::Xdp(xdp) => {
                found.program = xdp.into_iter().find_map(|attribute| match attribute {
                    LinkXdp::ProgId(id)
                    | LinkXdp::DrvProgId(id)
                    | LinkXdp::SkbProgId(id)
                    | LinkXdp::HwProgId(id)
                        if id != 0 =>
                    {
                        Some(id)
                    }
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Ok(found)
}

/// What the driver says of a program that it has just refused: bpf(2) gives its number only, rtnetlink its words. `None`
/// where it has none.
#[must_use]
pub fn xdp_refusal(program: BorrowedFd<'_>, ifindex: u32) -> Option<String> {
    let mut socket = Socket::new(NETLINK_ROUTE).ok()?;
    socket.bind_auto().ok()?;
    socket.connect(&SocketAddr::new(0, 0)).ok()?;
    socket.set_ext_ack(true).ok()?;
    socket.set_cap_ack(true).ok()?;
    let answer = set(&socket, ifindex, program.as_raw_fd(), DRV_MODE | IF_NOEXIST)?;
    if answer.is_none() {
        // It takes the program after all, in a way that can't be pinned.
        set(&socket, ifindex, -1, DRV_MODE);
    }
    answer
}

/// Attaches a program or, with -1, detaches it. `Some(None)`: done; `None`: refused without a word.
#[expect(
    clippy::option_option,
    reason = "three outcomes, private to the function above"
)]
fn set(socket: &Socket, ifindex: u32, program: i32, flags: u32) -> Option<Option<String>> {
    let mut link = LinkMessage::default();
    link.header.index = ifindex;
    link.attributes = vec![LinkAttribute::Xdp(vec![
        LinkXdp::Fd(program),
        LinkXdp::Flags(flags),
    ])];
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::SetLink(link));
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0).ok()?;
    let (answer, _) = socket.recv_from_full().ok()?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).ok()?;
    let NetlinkPayload::Error(error) = answer.payload else {
        return None;
    };
    if error.code.is_none() {
        return Some(None);
    }
    error_text(error.header.get(HEADER_BYTES..)?).map(Some)
}

fn error_text(attributes: &[u8]) -> Option<String> {
    let text = NlasIterator::new(attributes)
        .flatten()
        .find(|attribute| attribute.kind() == ERROR_TEXT)?;
    let text = String::from_utf8_lossy(text.value());
    Some(text.trim_end_matches('\0').to_owned())
}
