//! Whether the uplink can have XDP, if it is asked for.

use crate::config::{Config, Datapath};
use crate::datapath::{XdpObstacle, XdpRefusal, foreign_program};
use crate::kernel::netlink::NetworkState;
use crate::maps::Pins;
use crate::model::UsageError;

/// Checks with `--datapath xdp` that XDP would get the uplink's packets right, and that nobody else has a program there. What
/// the driver itself has against one, it tells when it gets one; its `xdp-features` say too little (those of a veth depend on
/// its queues at the moment).
///
/// # Errors
/// When it can't have XDP; [`UsageError`] where that is how the host's network is.
pub async fn check_xdp(config: &Config, pins: &Pins, network: &NetworkState) -> anyhow::Result<()> {
    let uplink = network.link_named(&config.uplink);
    let Some(uplink) = uplink.filter(|_| config.datapath == Datapath::Xdp) else {
        return Ok(());
    };
    if let Some(obstacle) = XdpObstacle::at(uplink, network) {
        return Err(UsageError::new(format!("--datapath xdp: {obstacle}")).into());
    }
    let interface = uplink.name.clone();
    match foreign_program(pins, uplink.index).await {
        Ok(None) => Ok(()),
        Ok(Some((id, name))) => Err(XdpRefusal::Occupied {
            interface,
            name,
            id,
        }),
        Err(source) => Err(XdpRefusal::Unknown { interface, source }),
    }?;
    Ok(())
}
