//! Which interfaces XDP may take packets from, and which it may send by, so that none is lost between two drivers.

use std::collections::{BTreeMap, BTreeSet};

use super::capabilities::XdpCapabilities;
use super::incompatibility::XdpIncompatibilities;

/// The ways through XDP, by indices of interfaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct XdpInterfaces {
    /// XDP takes packets that come in here.
    pub receive: BTreeSet<u32>,
    /// XDP sends packets out here, whichever of the others they came in by.
    pub send: BTreeSet<u32>,
}

impl XdpInterfaces {
    /// The interfaces to use, of those with these capabilities, which all have the program; nothing is taken in where there is an
    /// incompatibility.
    ///
    /// Whatever is taken in may have to go to any that sends. Only what comes in by the interface that it leaves by is not
    /// redirected, so the only one that takes packets in may send them back, transmit or not.
    pub(super) fn between(
        capabilities: &BTreeMap<u32, XdpCapabilities>,
        incompatibilities: &XdpIncompatibilities,
    ) -> Self {
        let open: Vec<_> = capabilities
            .iter()
            .filter(|(ifindex, _)| !incompatibilities.contains_key(ifindex))
            .collect();
        let mut ports = Self::default();
        if let [(&only, own)] = open[..] {
            ports.receive.insert(only);
            ports.send.extend(own.reflects.then_some(only));
            if own.redirects {
                ports
                    .send
                    .extend(transmitting(capabilities).filter(|&other| other != only));
            }
        } else {
            let redirecting = open
                .iter()
                .filter(|(_, capabilities)| capabilities.redirects);
            ports
                .receive
                .extend(redirecting.map(|(ifindex, _)| **ifindex));
            ports.send.extend(transmitting(capabilities));
        }
        if ports.receive.is_empty() || ports.send.is_empty() {
            return Self::default();
        }
        ports
    }
}

/// Those that anybody may redirect to, themselves included.
fn transmitting(capabilities: &BTreeMap<u32, XdpCapabilities>) -> impl Iterator<Item = u32> {
    capabilities
        .iter()
        .filter(|(_, capabilities)| capabilities.transmits && capabilities.reflects)
        .map(|(&ifindex, _)| ifindex)
}

#[cfg(test)]
mod tests {
    use super::super::incompatibility::XdpIncompatibility;
    use super::*;

    fn with(flags: &str) -> XdpCapabilities {
        XdpCapabilities {
            reflects: flags.contains('b'),
            redirects: flags.contains('r'),
            transmits: flags.contains('t'),
            limit: None,
        }
    }

    fn ports(capabilities: &[(u32, &str)], incompatibilities: &[u32]) -> (Vec<u32>, Vec<u32>) {
        let capabilities = capabilities
            .iter()
            .map(|&(ifindex, flags)| (ifindex, with(flags)))
            .collect();
        let incompatibility = XdpIncompatibility::Bond {
            interface: "bond0".to_owned(),
        };
        let incompatibilities = incompatibilities
            .iter()
            .map(|&ifindex| (ifindex, incompatibility.clone()))
            .collect();
        let ports = XdpInterfaces::between(&capabilities, &incompatibilities);
        (
            ports.receive.into_iter().collect(),
            ports.send.into_iter().collect(),
        )
    }

    #[test]
    fn a_single_card_only_has_to_send_back() {
        assert_eq!(ports(&[(2, "b")], &[]), (vec![2], vec![2]));
        assert_eq!(ports(&[(2, "rt")], &[]), (vec![], vec![]));
    }

    #[test]
    fn nothing_is_redirected_to_a_card_that_may_not_transmit() {
        assert_eq!(
            ports(&[(2, "brt"), (3, "brt")], &[]),
            (vec![2, 3], vec![2, 3])
        );
        // Requests come in by 2 and leave by 3; replies come in by 3 and are left to TC.
        assert_eq!(ports(&[(2, "br"), (3, "brt")], &[]), (vec![2, 3], vec![3]));
        assert_eq!(ports(&[(2, "b"), (3, "b")], &[]), (vec![], vec![]));
        assert_eq!(ports(&[(2, "br"), (3, "br")], &[]), (vec![], vec![]));
    }

    #[test]
    fn nothing_is_redirected_by_a_driver_that_may_not() {
        assert_eq!(ports(&[(2, "bt"), (3, "brt")], &[]), (vec![3], vec![2, 3]));
    }

    #[test]
    fn nothing_is_taken_where_an_interface_is_incompatible() {
        assert_eq!(ports(&[(2, "brt")], &[2]), (vec![], vec![]));
        assert_eq!(
            ports(&[(2, "brt"), (3, "brt")], &[2]),
            (vec![3], vec![2, 3])
        );
        assert_eq!(ports(&[(2, "brt"), (3, "b")], &[2]), (vec![3], vec![3]));
        assert_eq!(ports(&[(2, "brt"), (3, "brt")], &[2, 3]), (vec![], vec![]));
    }
}
