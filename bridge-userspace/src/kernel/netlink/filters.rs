//! BPF programs on the clsact hook of an interface.

use futures::TryStreamExt as _;
use rtnetlink::TrafficFilterGetRequest;
use rtnetlink::packet_route::tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcOption};

use super::error::NetlinkError;

/// `TC_H_CLSACT` (`linux/pkt_sched.h`).
const TC_H_CLSACT: u32 = 0xFFFF_FFF1;

/// Names of the BPF programs that filters on the ingress side of an interface run.
///
/// # Errors
/// When there is no netlink socket or the kernel refuses.
pub async fn ingress_programs(ifindex: u32) -> Result<Vec<String>, NetlinkError> {
    programs(ifindex, TrafficFilterGetRequest::ingress).await
}

/// Names of the BPF programs that filters on the egress side of an interface run.
///
/// # Errors
/// As for [`ingress_programs`].
pub async fn egress_programs(ifindex: u32) -> Result<Vec<String>, NetlinkError> {
    programs(ifindex, TrafficFilterGetRequest::egress).await
}

async fn programs(
    ifindex: u32,
    side: impl FnOnce(TrafficFilterGetRequest) -> TrafficFilterGetRequest,
) -> Result<Vec<String>, NetlinkError> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(NetlinkError::Socket)?;
    let connection = tokio::spawn(connection);
    let index = i32::try_from(ifindex).unwrap_or_default();
    let mut filters = side(handle.traffic_filter(index).get()).execute();
    let mut names = Vec::new();
    let read = async {
        while let Some(filter) = filters.try_next().await? {
            for attribute in filter.attributes {
                let TcAttribute::Options(options) = attribute else {
                    continue;
                };
                names.extend(options.into_iter().filter_map(|option| match option {
                    TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => Some(name),
                    _ => None,
                }));
            }
        }
        Ok::<_, rtnetlink::Error>(())
    };
    let result = read.await;
    connection.abort();
    result.map_err(|error| NetlinkError::Request {
        what: "traffic filters",
        error,
    })?;
    Ok(names)
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
