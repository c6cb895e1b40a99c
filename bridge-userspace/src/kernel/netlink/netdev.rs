//! What a device's driver can do with XDP, by the generic netlink family `netdev` (kernel 6.3,
//! Documentation/netlink/specs/netdev.yaml).

use std::io;
use std::sync::OnceLock;

use futures::StreamExt as _;
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use rtnetlink::packet_core::{
    DecodeError, DefaultNla, Emitable, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, Nla as _,
    NlasIterator, ParseableParametrized,
};
use rtnetlink::proto::new_connection;
use rtnetlink::sys::SocketAddr;
use rtnetlink::sys::protocols::NETLINK_GENERIC;

/// `NETDEV_CMD_DEV_GET` (linux/netdev.h).
const DEV_GET: u8 = 1;
/// `NETDEV_A_DEV_IFINDEX`.
const IFINDEX: u16 = 1;
/// `NETDEV_A_DEV_XDP_FEATURES`.
const XDP_FEATURES: u16 = 3;
/// `NETDEV_XDP_ACT_BASIC`.
const BASIC: u64 = 1 << 0;
/// `NETDEV_XDP_ACT_REDIRECT`.
const REDIRECT: u64 = 1 << 1;
/// `NETDEV_XDP_ACT_NDO_XMIT`.
const NDO_XMIT: u64 = 1 << 2;

/// What a driver can do with XDP at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpFeatures(u64);

impl XdpFeatures {
    #[cfg(test)]
    pub(crate) const fn new(bits: u64) -> Self {
        Self(bits)
    }

    /// Whether it runs programs at all, and sends back what they bounce (`XDP_TX`).
    #[must_use]
    pub const fn runs_programs(self) -> bool {
        self.0 & BASIC != 0
    }

    /// Whether its programs may redirect frames to other interfaces.
    #[must_use]
    pub const fn redirects(self) -> bool {
        self.0 & REDIRECT != 0
    }

    /// Whether it sends the frames that a program on another interface redirects to it.
    #[must_use]
    pub const fn transmits(self) -> bool {
        self.0 & NDO_XMIT != 0
    }
}

/// What the driver of an interface can do; `None` where the kernel doesn't say.
pub async fn xdp_features(ifindex: u32) -> Option<XdpFeatures> {
    static FAMILY: OnceLock<u16> = OnceLock::new();
    let family = if let Some(&family) = FAMILY.get() {
        family
    } else {
        let found = family().await.ok()??;
        *FAMILY.get_or_init(|| found)
    };
    let request = GenlMessage::new(
        GenlHeader {
            cmd: DEV_GET,
            version: 1,
        },
        Netdev {
            attributes: vec![DefaultNla::new(IFINDEX, ifindex.to_ne_bytes().to_vec())],
        },
        family,
    );
    let answer = ask(request).await.ok()??;
    let features = answer
        .attributes
        .iter()
        .find(|attribute| attribute.kind() == XDP_FEATURES)?;
    let mut value = vec![0; features.value_len()];
    features.emit_value(&mut value);
    Some(XdpFeatures(u64::from_ne_bytes(
        value.first_chunk::<8>().copied()?,
    )))
}

/// The number that the kernel has given to the family, if it has it.
async fn family() -> io::Result<Option<u16>> {
    let request = GenlMessage::from_payload(GenlCtrl {
        cmd: GenlCtrlCmd::GetFamily,
        nlas: vec![GenlCtrlAttrs::FamilyName(Netdev::family_name().to_owned())],
    });
    let answer = ask(request).await?;
    Ok(answer.and_then(|answer| {
        answer
            .nlas
            .into_iter()
            .find_map(|attribute| match attribute {
                GenlCtrlAttrs::FamilyId(id) => Some(id),
                _ => None,
            })
    }))
}

/// The first answer to a request; `None` where the kernel refuses it.
async fn ask<F>(message: GenlMessage<F>) -> io::Result<Option<F>>
where
    F: GenlFamily
        + Emitable
        + ParseableParametrized<[u8], GenlHeader>
        + Clone
        + std::fmt::Debug
        + Unpin
        + Send
        + 'static,
{
    let (connection, handle, _) = new_connection(NETLINK_GENERIC)?;
    let connection = tokio::spawn(connection);
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST;
    let answer = match handle.request(request, SocketAddr::new(0, 0)) {
        Ok(mut answers) => answers.next().await,
        Err(_) => None,
    };
    connection.abort();
    Ok(match answer.map(|answer| answer.payload) {
        Some(NetlinkPayload::InnerMessage(message)) => Some(message.payload),
        _ => None,
    })
}

/// A message of the family.
#[derive(Clone, Debug)]
struct Netdev {
    attributes: Vec<DefaultNla>,
}

impl GenlFamily for Netdev {
    fn family_name() -> &'static str {
        "netdev"
    }

    fn command(&self) -> u8 {
        DEV_GET
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for Netdev {
    fn buffer_len(&self) -> usize {
        self.attributes.as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.attributes.as_slice().emit(buffer);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Netdev {
    fn parse_with_param(buffer: &[u8], _: GenlHeader) -> Result<Self, DecodeError> {
        let attributes = NlasIterator::new(buffer)
            .map(|attribute| {
                let attribute = attribute?;
                Ok(DefaultNla::new(
                    attribute.kind(),
                    attribute.value().to_vec(),
                ))
            })
            .collect::<Result<_, DecodeError>>()?;
        Ok(Self { attributes })
    }
}
