//! Whether the uplink can have XDP, if it is asked for.

use crate::config::{Config, Datapath};
use crate::datapath::{Pins, XdpRefusal, foreign_program};
use crate::netlink::{NetworkState, xdp_features};

/// Checks with `--datapath xdp` what can be told of the uplink without attaching anything: that its driver has XDP and
/// that nobody else uses it. An MTU that is too large only the driver knows.
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
        Ok(None) => {}
        Ok(Some((id, name))) => {
            return Err(XdpRefusal::Occupied {
                interface,
                name,
                id,
            });
        }
        Err(source) => return Err(XdpRefusal::Unknown { interface, source }),
    }
    if xdp_features(uplink.index)
        .await
        .is_some_and(|features| !features.runs_programs())
    {
        return Err(XdpRefusal::NoNative { interface });
    }
    Ok(())
}
