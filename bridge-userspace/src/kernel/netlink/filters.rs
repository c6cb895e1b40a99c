//! Filters of the clsact qdisc.

use futures::TryStreamExt as _;
use rtnetlink::packet_route::tc::{
    TcAttribute, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption,
};

use super::connection::Kernel;
use super::error::NetlinkError;
use crate::model::program::Hook;

/// `TC_H_CLSACT` (`linux/pkt_sched.h`).
const TC_H_CLSACT: u32 = 0xFFFF_FFF1;

/// Priority of our clsact filter: before the default 49152 that filters without one get.
pub const PRIORITY: u16 = 50;
/// Handle of our clsact filter, so that a successor replaces it in place.
pub const HANDLE: u32 = 1;

/// A filter on one side of an interface's clsact qdisc.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Lower ones meet packets first.
    pub priority: u16,
    /// Tells it from others of the same priority.
    pub handle: u32,
    /// `bpf`, `flower`, `matchall` and the like.
    pub kind: String,
    /// The id of its program, if it is a BPF filter.
    pub program: Option<u32>,
    /// The name that it was given, if it is a BPF filter.
    pub name: Option<String>,
}

impl Filter {
    /// Whether it stands where ours belongs.
    #[must_use]
    pub fn is_in_our_place(&self) -> bool {
        self.priority == PRIORITY && self.handle == HANDLE && self.kind == TcFilterBpf::KIND
    }

    fn new(message: TcMessage) -> Option<Self> {
        /// The upper half of `tcm_info` is the priority (linux/rtnetlink.h).
        const PRIORITY_SHIFT: u32 = 16;
        let handle = u32::from(message.header.handle);
        if handle == 0 {
            // The head of a list of filters with one priority.
            return None;
        }
        let mut filter = Self {
            priority: u16::try_from(message.header.info >> PRIORITY_SHIFT).unwrap_or_default(),
            handle,
            ..Self::default()
        };
        for attribute in message.attributes {
            match attribute {
                TcAttribute::Kind(kind) => filter.kind = kind,
                // Other chains are met only by what a filter of this one sends there.
                TcAttribute::Chain(chain) if chain != 0 => return None,
                TcAttribute::Options(options) => {
                    for option in options {
                        match option {
                            TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => {
                                filter.name = Some(name);
                            }
                            TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => {
                                filter.program = Some(id);
                            }
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        Some(filter)
    }
}

/// Reads filters. One connection serves many interfaces.
pub struct Filters(Kernel);

impl Filters {
    /// Connects to the kernel.
    ///
    /// # Errors
    /// When there is no netlink socket.
    pub fn open() -> Result<Self, NetlinkError> {
        Kernel::connect().map(Self).map_err(NetlinkError::Socket)
    }

    /// The filters at a hook in the order in which packets meet them; none without a clsact qdisc, and at XDP.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn at(&self, ifindex: u32, hook: Hook) -> Result<Vec<Filter>, NetlinkError> {
        let index = i32::try_from(ifindex).unwrap_or_default();
        let request = self.0.handle.traffic_filter(index).get();
        let request = match hook {
            Hook::TcIngress => request.ingress(),
            Hook::TcEgress => request.egress(),
            Hook::Xdp => return Ok(Vec::new()),
        };
        let read = request
            .execute()
            .try_filter_map(async |message| Ok(Filter::new(message)));
        read.try_collect()
            .await
            .map_err(|error| NetlinkError::Request {
                what: "traffic filters",
                error,
            })
    }
}

/// Removes the clsact qdisc of an interface unless filters still hang on it.
///
/// # Errors
/// When there is no netlink socket or the kernel refuses; also where there is no such qdisc.
pub async fn remove_unused_clsact(ifindex: u32) -> Result<(), NetlinkError> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(NetlinkError::Socket)?;
    let connection = tokio::spawn(connection);
    let index = i32::try_from(ifindex).unwrap_or_default();
    let remove = async {
        let mut ingress = handle.traffic_filter(index).get().ingress().execute();
        if ingress.try_next().await?.is_some() {
            return Ok(());
        }
        let mut egress = handle.traffic_filter(index).get().egress().execute();
        if egress.try_next().await?.is_some() {
            return Ok(());
        }
        let mut request = handle.qdisc().del(index);
        request.message_mut().header.parent = TcHandle::from(TC_H_CLSACT);
        request.execute().await
    };
    let result = remove.await;
    connection.abort();
    result.map_err(|error| NetlinkError::Request {
        what: "clsact qdisc",
        error,
    })
}
