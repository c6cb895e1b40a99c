//! Whether the uplink can have XDP, if it is asked for.

use crate::config::{Config, Datapath};
use crate::datapath::{XdpIncompatibility, XdpRefusal, foreign_program};
use crate::kernel::netlink::{Link, NetlinkError, NetworkState};
use crate::maps::Pins;
use crate::model::{Finding, Findings, Subject};

/// What the uplink's XDP hook has.
#[derive(Debug)]
pub struct XdpFacts {
    /// Id and name of somebody else's program there, if there is one.
    pub foreign_program: Result<Option<(u32, String)>, NetlinkError>,
}

impl XdpFacts {
    /// Asks the kernel; none where XDP is not asked for with `--datapath xdp`, or there is no uplink.
    pub async fn read(config: &Config, network: &NetworkState) -> Option<Self> {
        let uplink = demanded(config, network)?;
        let pins = Pins::new(&config.pin_path);
        Some(Self {
            foreign_program: foreign_program(&pins, uplink.index).await,
        })
    }
}

/// Checks with `--datapath xdp` that XDP would get the uplink's packets right, and that nobody else has a program there. What
/// the driver itself has against one, it tells when it gets one; its `xdp-features` say too little (those of a veth depend on
/// its queues at the moment).
pub fn check_xdp(
    config: &Config,
    network: &NetworkState,
    facts: Option<XdpFacts>,
    findings: &mut Findings,
) {
    let (Some(uplink), Some(facts)) = (demanded(config, network), facts) else {
        return;
    };
    let interface = || uplink.name.clone();
    if let Some(incompatibility) = XdpIncompatibility::at(uplink, network) {
        findings.push(Finding::usage(
            Subject::Interface(interface()),
            format!("--datapath xdp: {}", incompatibility.cause()),
            incompatibility.remedy(),
        ));
    }
    match facts.foreign_program {
        Ok(None) => {}
        Ok(Some((id, name))) => findings.push(XdpRefusal::Occupied {
            interface: interface(),
            name,
            id,
        }),
        Err(source) => findings.push(XdpRefusal::Unknown {
            interface: interface(),
            source,
        }),
    }
}

/// The uplink, if it has to have XDP.
fn demanded<'a>(config: &Config, network: &'a NetworkState) -> Option<&'a Link> {
    let uplink = network.link_named(&config.uplink)?;
    (config.datapath == Datapath::Xdp).then_some(uplink)
}
