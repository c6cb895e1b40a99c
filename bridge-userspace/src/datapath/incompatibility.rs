//! Where XDP would get packets wrong, although the driver takes the program.

use std::collections::BTreeMap;

use crate::kernel::netlink::{Link, LinkKind, NetworkState, taker_of_tags};

/// Why packets that come in by an interface must not be XDP's. As text it is cause and remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}; {}", self.cause(), self.remedy())]
pub enum XdpIncompatibility {
    /// Packets of VLANs can't be told from untagged ones.
    HiddenTags {
        /// The interface.
        interface: String,
        /// Who takes tagged packets from it.
        taker: String,
        /// Features of the card that are to be off, by the names that `ethtool -K` takes; none where that is no help.
        switches: Vec<&'static str>,
    },
    /// The program would run on other interfaces than the one that it is attached to.
    Bond {
        /// The interface.
        interface: String,
    },
}

/// Incompatibilities by the index of the interface.
pub type XdpIncompatibilities = BTreeMap<u32, XdpIncompatibility>;

impl XdpIncompatibility {
    /// What is wrong.
    #[must_use]
    pub fn cause(&self) -> String {
        match self {
            Self::HiddenTags {
                interface, taker, ..
            } => format!(
                "no XDP on {interface}: VLAN tags are off the packets before XDP sees them, and those for {taker} would \
                 pass for untagged ones"
            ),
            Self::Bond { interface } => format!(
                "no XDP on {interface}: it is a bond, and XDP runs on the cards in it, which it doesn't know"
            ),
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::HiddenTags {
                taker, switches, ..
            } if switches.is_empty() => format!("remove {taker}, or use --datapath tc"),
            Self::HiddenTags {
                interface,
                switches,
                ..
            } => format!(
                "have the card leave them on (`ethtool -K {interface} {} off`), or use --datapath tc",
                switches.join(" off ")
            ),
            Self::Bond { .. } => "use --datapath tc, or auto".to_owned(),
        }
    }

    /// The incompatibility at an interface, if there is one.
    #[must_use]
    pub fn at(link: &Link, network: &NetworkState) -> Option<Self> {
        let interface = link.name.clone();
        if link.kind == LinkKind::Bond {
            return Some(Self::Bond { interface });
        }
        let taker = taker_of_tags(&network.links, link.index)?;
        // What is sent to a veth comes with the tag beside it, whatever the veth's own features are
        // (`veth_xdp_rcv_skb` in drivers/net/veth.c makes the frame of the packet alone).
        (link.kind == LinkKind::Veth || !link.strips_tags.is_empty()).then(|| Self::HiddenTags {
            interface,
            taker: taker.name.clone(),
            switches: link.strips_tags.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, kind: LinkKind) -> Link {
        Link {
            takes_tags: kind == LinkKind::Vlan,
            ..Link::example(index, name, kind)
        }
    }

    fn told(links: Vec<Link>) -> Option<String> {
        let network = NetworkState {
            links: links.into_iter().map(|link| (link.index, link)).collect(),
            ..NetworkState::default()
        };
        XdpIncompatibility::at(&network.links[&2], &network)
            .map(|incompatibility| incompatibility.to_string())
    }

    fn card(strips_tags: &[&'static str]) -> Link {
        Link {
            strips_tags: strips_tags.to_vec(),
            ..link(2, "eth0", LinkKind::Other)
        }
    }

    fn vlan(lower: u32) -> Link {
        Link {
            lower: Some(lower),
            ..link(9, "eth0.7", LinkKind::Vlan)
        }
    }

    #[test]
    fn a_card_that_takes_tags_off_below_a_vlan_is_told_with_what_to_do() {
        assert_eq!(
            told(vec![card(&["rxvlan"]), vlan(2)]).unwrap(),
            "no XDP on eth0: VLAN tags are off the packets before XDP sees them, and those for eth0.7 would pass for \
             untagged ones; have the card leave them on (`ethtool -K eth0 rxvlan off`), or use --datapath tc"
        );
    }

    #[test]
    fn tags_that_stay_on_or_that_nobody_takes_are_no_hindrance() {
        assert_eq!(told(vec![card(&[]), vlan(2)]), None);
        assert_eq!(told(vec![card(&["rxvlan"])]), None);
        assert_eq!(told(vec![card(&["rxvlan"]), vlan(3)]), None);
        let macvlan = Link {
            lower: Some(2),
            ..link(8, "macvlan0", LinkKind::Other)
        };
        assert_eq!(told(vec![card(&["rxvlan"]), macvlan]), None);
    }

    #[test]
    fn vlans_are_found_behind_other_devices_too() {
        let port = Link {
            master: Some(4),
            ..card(&["rxvlan"])
        };
        let bridge = link(4, "br0", LinkKind::Bridge);
        assert_eq!(told(vec![port.clone(), bridge.clone()]), None);
        let text = told(vec![port.clone(), bridge.clone(), vlan(4)]).unwrap();
        assert!(text.contains("those for eth0.7"), "{text}");
        let filtering = Link {
            takes_tags: true,
            ..bridge
        };
        let text = told(vec![port, filtering]).unwrap();
        assert!(text.contains("those for br0"), "{text}");
    }

    #[test]
    fn the_features_of_a_veth_are_no_cure() {
        let text = told(vec![link(2, "eth0", LinkKind::Veth), vlan(2)]).unwrap();
        assert!(
            text.ends_with("; remove eth0.7, or use --datapath tc"),
            "{text}"
        );
    }

    #[test]
    fn a_bond_is_left_to_tc() {
        let text = told(vec![link(2, "bond0", LinkKind::Bond)]).unwrap();
        assert!(text.starts_with("no XDP on bond0: it is a bond"), "{text}");
    }
}
