//! Whether the uplink can have XDP, if it is asked for.

use crate::config::{Config, Datapath};
use crate::datapath::{Pins, XdpRefusal, foreign_program};
use crate::netlink::NetworkState;

/// Checks with `--datapath xdp` that nobody else has a program on the uplink. What the driver itself has against one, it
/// tells when it gets one; its `xdp-features` say too little (those of a veth depend on its queues at the moment).
///
/// # Errors
/// When it can't have XDP.
pub async fn check_xdp(
    config: &Config,
    pins: &Pins,
    network: &NetworkState,
) -> Result<(), XdpRefusal> {
    let uplink = network.link_named(&config.uplink);
    let Some(uplink) = uplink.filter(|_| config.datapath == Datapath::Xdp) else {
        return Ok(());
    };
    let interface = uplink.name.clone();
    match foreign_program(pins, uplink.index).await {
        Ok(None) => Ok(()),
        Ok(Some((id, name))) => Err(XdpRefusal::Occupied {
            interface,
            name,
            id,
        }),
        Err(source) => Err(XdpRefusal::Unknown { interface, source }),
    }
}
