//! What can be asked of the driver of an interface with an XDP program.

use crate::kernel::netlink::{LinkKind, XdpFeatures, driver, xdp_features, xdp_link};

/// Drivers that send what is redirected to them, by any CPU and as long as they have a program themselves, and whose own
/// programs may redirect, in Linux 5.15 and later (their `ndo_xdp_xmit`). For kernels before 6.3, which don't tell.
///
/// Not i40e, ice and `mlx5_core`: they refuse what comes from CPUs with numbers above their queues'.
const TRANSMITTING: [&str; 7] = [
    // bnxt_xdp_xmit, drivers/net/ethernet/broadcom/bnxt/bnxt_xdp.c
    "bnxt_en",
    // ena_xdp_xmit, drivers/net/ethernet/amazon/ena/ena_netdev.c
    "ena",
    // igb_xdp_xmit, drivers/net/ethernet/intel/igb/igb_main.c
    "igb",
    // igc_xdp_xmit, drivers/net/ethernet/intel/igc/igc_main.c
    "igc",
    // ixgbe_xdp_xmit, drivers/net/ethernet/intel/ixgbe/ixgbe_main.c
    "ixgbe",
    // qede_xdp_transmit, drivers/net/ethernet/qlogic/qede/qede_fp.c
    "qede",
    // virtnet_xdp_xmit, drivers/net/virtio_net.c
    "virtio_net",
];

/// What a driver does with what XDP programs say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XdpCapabilities {
    /// It sends frames back that its program reflects (`XDP_TX`).
    pub reflects: bool,
    /// Its program may redirect frames to other interfaces.
    pub redirects: bool,
    /// It sends frames that programs on other interfaces redirect to it.
    pub transmits: bool,
    /// Why not all of these, for people.
    pub limit: Option<String>,
}

impl XdpCapabilities {
    /// Asks kernel and driver; `None` if there is no such interface.
    pub async fn of(ifindex: u32, interface: &str) -> Option<Self> {
        let features = xdp_features(ifindex).await;
        let driver = match features {
            Some(_) => None,
            None => driver(ifindex).await,
        };
        // Asked last: what is still there was there to tell its features.
        let is_veth = xdp_link(ifindex).await.ok()?.kind == LinkKind::Veth;
        Some(Self::known(interface, features, is_veth, driver.as_deref()))
    }

    fn known(
        interface: &str,
        features: Option<XdpFeatures>,
        is_veth: bool,
        driver: Option<&str>,
    ) -> Self {
        let is_known = driver.is_some_and(|driver| TRANSMITTING.contains(&driver));
        let redirects = features.map_or(is_known, XdpFeatures::redirects);
        let transmits = features.map_or(is_known, XdpFeatures::transmits);
        // Every driver that runs programs can send back what it received (`NETDEV_XDP_ACT_BASIC`), but a veth needs the
        // other end's consent for that as well.
        let reflects = if is_veth {
            transmits
        } else {
            features.is_none_or(XdpFeatures::runs_programs)
        };
        let limit = (!reflects || !redirects || !transmits)
            .then(|| limit(interface, features, is_veth, driver, transmits));
        Self {
            reflects,
            redirects,
            transmits,
            limit,
        }
    }
}

fn limit(
    interface: &str,
    features: Option<XdpFeatures>,
    is_veth: bool,
    driver: Option<&str>,
    transmits: bool,
) -> String {
    match (features, is_veth) {
        (Some(_), true) => format!(
            "{interface} receives by XDP and can't send by it (no `ndo-xmit` in `xdp-features`), so the TC path serves it; \
             a veth can as soon as its peer has GRO on (`ethtool -K PEER gro on`) or an XDP program"
        ),
        (Some(_), false) if transmits => format!(
            "XDP programs on {interface} can't send through other interfaces (no `redirect` in `xdp-features`), so the TC \
             path serves what comes in there"
        ),
        (Some(_), false) => format!(
            "{interface} receives by XDP and can't send by it (no `ndo-xmit` in `xdp-features`), so the TC path serves \
             what leaves there"
        ),
        (None, true) => format!(
            "{interface} is a veth, and this kernel (before 6.3) doesn't tell whether its peer takes what XDP sends, so \
             the TC path serves it"
        ),
        (None, false) => format!(
            "this kernel (before 6.3) doesn't tell whether {interface} can send by XDP, and its driver{} is none that is \
             known to, so the TC path serves what leaves there, and what comes in there for other interfaces",
            driver
                .map(|driver| format!(" {driver}"))
                .unwrap_or_default()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `reflects`, `redirects`, `transmits`.
    fn flags(capabilities: &XdpCapabilities) -> [bool; 3] {
        [
            capabilities.reflects,
            capabilities.redirects,
            capabilities.transmits,
        ]
    }

    fn told(features: u64, is_veth: bool) -> XdpCapabilities {
        XdpCapabilities::known("eth0", Some(XdpFeatures::new(features)), is_veth, None)
    }

    fn untold(is_veth: bool, driver: Option<&str>) -> XdpCapabilities {
        XdpCapabilities::known("eth0", None, is_veth, driver)
    }

    #[test]
    fn a_kernel_that_tells_is_believed() {
        let all = told(0b111, false);
        assert_eq!(flags(&all), [true, true, true]);
        assert_eq!(all.limit, None);
        assert_eq!(flags(&told(0b011, false)), [true, true, false]);
        assert_eq!(flags(&told(0b001, false)), [true, false, false]);
        assert_eq!(flags(&told(0b101, false)), [true, false, true]);
        assert_eq!(flags(&told(0, false)), [false, false, false]);
        // A driver that the list knows, on a kernel that says otherwise.
        let features = Some(XdpFeatures::new(0b011));
        let capabilities = XdpCapabilities::known("eth0", features, false, Some("virtio_net"));
        assert_eq!(flags(&capabilities), [true, true, false]);
    }

    #[test]
    fn an_older_kernel_has_only_the_drivers_that_are_known_to_transmit() {
        assert_eq!(flags(&untold(false, Some("virtio_net"))), [true; 3]);
        for driver in [Some("nfp"), Some("mlx4_core"), Some("i40e"), None] {
            let capabilities = untold(false, driver);
            assert_eq!(flags(&capabilities), [true, false, false], "{driver:?}");
        }
        let limit = untold(false, Some("nfp")).limit.unwrap();
        assert!(limit.contains("its driver nfp is none"), "{limit}");
    }

    #[test]
    fn a_veth_sends_only_where_its_peer_is_known_to_take_it() {
        assert_eq!(flags(&told(0b111, true)), [true; 3]);
        assert_eq!(flags(&told(0b011, true)), [false, true, false]);
        assert_eq!(flags(&untold(true, None)), [false; 3]);
    }

    #[test]
    fn whatever_is_missing_is_told() {
        for features in 0..8 {
            for is_veth in [false, true] {
                let capabilities = told(features, is_veth);
                let is_whole = flags(&capabilities) == [true; 3];
                assert_eq!(capabilities.limit.is_none(), is_whole, "{capabilities:?}");
            }
        }
    }
}
