//! IPv4 networks as people write them, and the ways in which two of them contradict each other.

use std::error::Error;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// Why a text is no usable IPv4 network. As text it is cause and remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CidrError {
    /// Not `address/prefix` at all.
    Malformed(String),
    /// An address without a prefix length.
    NoPrefix(Ipv4Addr),
    /// The prefix length is above 32.
    PrefixTooLong(String),
    /// Bits to the right of the prefix are set.
    HostBits {
        /// What was written.
        given: String,
        /// What was meant, most likely.
        network: Ipv4Net,
    },
    /// An IPv6 network or address.
    Ipv6(String),
    /// A network whose packets never come from or go to ordinary hosts.
    Unusable {
        /// The network.
        network: Ipv4Net,
        /// What is special about it.
        what: &'static str,
    },
}

impl CidrError {
    /// What is wrong.
    #[must_use]
    pub fn cause(&self) -> String {
        match self {
            Self::Malformed(text) => format!("`{text}` is not an IPv4 network"),
            Self::NoPrefix(address) => format!("`{address}` has no prefix length"),
            Self::PrefixTooLong(text) => format!("`{text}` has a prefix length above 32"),
            Self::HostBits { given, .. } => format!("`{given}` is a host's address"),
            Self::Ipv6(text) => format!("`{text}` is IPv6"),
            Self::Unusable { network, what } => {
                format!("`{network}` is {what} and cannot be used here")
            }
        }
    }

    /// What to write instead.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Malformed(_) => "write it like 192.168.0.0/22".to_owned(),
            Self::NoPrefix(address) => format!("write {address}/32 for this one host"),
            Self::PrefixTooLong(_) => "write one from 1 to 32".to_owned(),
            Self::HostBits { network, .. } => format!("its network is {network}"),
            Self::Ipv6(_) => {
                "office-bridge joins IPv4 networks only and lets IPv6 pass untouched".to_owned()
            }
            Self::Unusable { .. } => "give only networks that hosts really have".to_owned(),
        }
    }
}

impl fmt::Display for CidrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.cause(), self.remedy())
    }
}

impl Error for CidrError {}

/// Reads an IPv4 network in CIDR notation.
///
/// # Errors
/// When the text isn't one, when it is IPv6, when host bits are set, and for networks that no
/// office, pod or service can have: everything, `0.0.0.0/8`, loopback, link-local, multicast and
/// reserved addresses (RFC 6890).
pub fn parse_cidr(text: &str) -> Result<Ipv4Net, CidrError> {
    let text = text.trim();
    if text.parse::<Ipv6Net>().is_ok() || text.parse::<Ipv6Addr>().is_ok() {
        return Err(CidrError::Ipv6(text.to_owned()));
    }
    let Some((address, prefix)) = text.split_once('/') else {
        return Err(match text.parse() {
            Ok(address) => CidrError::NoPrefix(address),
            Err(_) => CidrError::Malformed(text.to_owned()),
        });
    };
    let malformed = || CidrError::Malformed(text.to_owned());
    let address: Ipv4Addr = address.parse().map_err(|_| malformed())?;
    if prefix.is_empty() || !prefix.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(malformed());
    }
    let network = prefix
        .parse()
        .ok()
        .and_then(|prefix| Ipv4Net::new(address, prefix).ok())
        .ok_or_else(|| CidrError::PrefixTooLong(text.to_owned()))?;
    if network.network() != address {
        return Err(CidrError::HostBits {
            given: text.to_owned(),
            network: network.trunc(),
        });
    }
    match unusable(network) {
        Some(what) => Err(CidrError::Unusable { network, what }),
        None => Ok(network),
    }
}

fn unusable(network: Ipv4Net) -> Option<&'static str> {
    const SPECIAL: [(Ipv4Addr, u8, &str); 5] = [
        (Ipv4Addr::UNSPECIFIED, 8, "\"this network\" (RFC 6890)"),
        (Ipv4Addr::new(127, 0, 0, 0), 8, "loopback"),
        (Ipv4Addr::new(169, 254, 0, 0), 16, "link-local"),
        (Ipv4Addr::new(224, 0, 0, 0), 4, "multicast"),
        (Ipv4Addr::new(240, 0, 0, 0), 4, "reserved (RFC 1112)"),
    ];
    if network.prefix_len() == 0 {
        return Some("every address there is");
    }
    SPECIAL.iter().find_map(|&(address, prefix, what)| {
        let special = Ipv4Net::new_assert(address, prefix);
        overlaps(special, network).then_some(what)
    })
}

/// Whether two networks have an address in common.
#[must_use]
pub fn overlaps(a: Ipv4Net, b: Ipv4Net) -> bool {
    a.contains(&b) || b.contains(&a)
}

/// The addresses that two networks have in common: the smaller one, as one contains the other.
#[must_use]
pub fn intersection(a: Ipv4Net, b: Ipv4Net) -> Option<Ipv4Net> {
    if a.contains(&b) {
        Some(b)
    } else if b.contains(&a) {
        Some(a)
    } else {
        None
    }
}

/// The longest prefix of an address that is one of those told by `is_there`.
pub fn longest_prefix(address: Ipv4Addr, is_there: impl Fn(&Ipv4Net) -> bool) -> Option<Ipv4Net> {
    (0..=32)
        .rev()
        .filter_map(|len| Ipv4Net::new(address, len).ok())
        .map(|prefix| prefix.trunc())
        .find(is_there)
}

/// What a network is for, and who said so; only for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labelled {
    /// The network.
    pub network: Ipv4Net,
    /// `office CIDR`, `pod CIDR`, `service CIDR`.
    pub role: &'static str,
    /// Where it was found, e.g. `command line` or `Node worker-1 spec.podCIDRs`.
    pub source: String,
}

impl fmt::Display for Labelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({})", self.role, self.network, self.source)
    }
}

/// Two networks that must not share an address, but do. As text it is cause and remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Conflict {
    /// The same network twice for the same purpose.
    Duplicate(Labelled),
    /// One lies inside the other, for the same purpose.
    Nested {
        /// The bigger network.
        outer: Labelled,
        /// The smaller network.
        inner: Labelled,
    },
    /// The same addresses for two purposes.
    TwoRoles {
        /// The bigger network, or either one if they are equal.
        outer: Labelled,
        /// The smaller network.
        inner: Labelled,
    },
}

impl Conflict {
    /// The conflict between two networks that are explicitly given, if there is one.
    fn between(first: &Labelled, second: &Labelled) -> Option<Self> {
        if !overlaps(first.network, second.network) {
            return None;
        }
        let (outer, inner) = if first.network.contains(&second.network) {
            (first.clone(), second.clone())
        } else {
            (second.clone(), first.clone())
        };
        Some(if first.role != second.role {
            Self::TwoRoles { outer, inner }
        } else if first.network == second.network {
            Self::Duplicate(inner)
        } else {
            Self::Nested { outer, inner }
        })
    }

    /// The smaller network.
    #[must_use]
    pub fn network(&self) -> Ipv4Net {
        match self {
            Self::Duplicate(inner) | Self::Nested { inner, .. } | Self::TwoRoles { inner, .. } => {
                inner.network
            }
        }
    }

    /// What is wrong.
    #[must_use]
    pub fn cause(&self) -> String {
        match self {
            Self::Duplicate(network) => format!("{network} is given twice"),
            Self::Nested { outer, inner } => format!("{inner} lies inside {outer}"),
            Self::TwoRoles { outer, inner } => format!(
                "{outer} contains {inner}: the same address would be on both sides of the bridge"
            ),
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Duplicate(_) => "remove one",
            Self::Nested { .. } => "remove one of the two",
            Self::TwoRoles { outer, .. } if outer.role == OFFICE => {
                "give only the networks that office hosts really have"
            }
            Self::TwoRoles { inner, .. } if inner.role == OFFICE => {
                "an office network inside the cluster's needs another address plan"
            }
            Self::TwoRoles { .. } => "pods and services cannot share addresses",
        }
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.cause(), self.remedy())
    }
}

impl Error for Conflict {}

/// The conflicts between explicitly given networks, in the order given: duplicates, networks nested within their own
/// role, and networks of two roles that overlap.
pub fn conflicts(networks: &[Labelled]) -> impl Iterator<Item = Conflict> + '_ {
    pairs(networks).filter_map(|(first, second)| Conflict::between(first, second))
}

/// The conflicts between networks of different roles.
///
/// Unlike [`conflicts`] this lets networks of one role nest: what a cluster reports about
/// itself may repeat itself.
pub fn role_conflicts(networks: &[Labelled]) -> impl Iterator<Item = Conflict> + '_ {
    pairs(networks)
        .filter(|(first, second)| first.role != second.role)
        .filter_map(|(first, second)| Conflict::between(first, second))
}

fn pairs(networks: &[Labelled]) -> impl Iterator<Item = (&Labelled, &Labelled)> {
    networks
        .iter()
        .enumerate()
        .flat_map(|(index, second)| networks[..index].iter().map(move |first| (first, second)))
}

/// Role of the networks that clients come from.
pub const OFFICE: &str = "office CIDR";
/// Role of the networks that pods live in.
pub const POD: &str = "pod CIDR";
/// Role of the networks that service VIPs come from.
pub const SERVICE: &str = "service CIDR";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn labelled(text: &str, role: &'static str) -> Labelled {
        Labelled {
            network: net(text),
            role,
            source: "command line".to_owned(),
        }
    }

    #[test]
    fn host_bits_are_refused_and_the_right_network_is_named() {
        let error = parse_cidr("192.168.1.7/22").unwrap_err();
        assert_eq!(
            error.to_string(),
            "`192.168.1.7/22` is a host's address; its network is 192.168.0.0/22"
        );
    }

    #[test]
    fn an_address_alone_is_told_its_prefix() {
        assert_eq!(
            parse_cidr("10.60.20.1").unwrap_err(),
            CidrError::NoPrefix(Ipv4Addr::new(10, 60, 20, 1))
        );
    }

    #[test]
    fn ipv6_is_named_as_such() {
        for text in ["fd00::/8", "fd00::1", "::/0"] {
            assert_eq!(parse_cidr(text), Err(CidrError::Ipv6(text.to_owned())));
        }
    }

    #[test]
    fn malformed_networks_are_refused() {
        for text in [
            "",
            "/",
            "office",
            "10.0.0/8",
            "10.0.0.0/",
            "10.0.0.0/x",
            "10.0.0.0/+8",
            "10.0.0.0/-1",
            "10.0.0.0/8/8",
            "010.0.0.0/8",
        ] {
            assert_eq!(
                parse_cidr(text),
                Err(CidrError::Malformed(text.to_owned())),
                "{text}"
            );
        }
        for text in ["10.0.0.0/33", "10.0.0.0/256", "10.0.0.0/99999999999"] {
            assert_eq!(
                parse_cidr(text),
                Err(CidrError::PrefixTooLong(text.to_owned()))
            );
        }
    }

    #[test]
    fn networks_that_no_host_has_are_refused() {
        for text in [
            "0.0.0.0/0",
            "0.0.0.0/8",
            "127.0.0.0/8",
            "127.0.0.1/32",
            "169.254.20.0/24",
            "224.0.0.0/4",
            "255.255.255.255/32",
            "128.0.0.0/1",
        ] {
            assert!(
                matches!(parse_cidr(text), Err(CidrError::Unusable { .. })),
                "{text}"
            );
        }
    }

    #[test]
    fn big_service_networks_and_single_hosts_are_accepted() {
        for text in [
            "10.96.0.0/12",
            "10.0.0.0/8",
            "10.60.20.1/32",
            "192.168.0.0/22",
        ] {
            assert_eq!(parse_cidr(text), Ok(net(text)));
        }
    }

    #[test]
    fn an_office_network_that_contains_the_pods_is_a_conflict() {
        let networks = [
            labelled("10.0.0.0/8", OFFICE),
            labelled("10.244.30.0/24", POD),
        ];
        let found: Vec<Conflict> = conflicts(&networks).collect();
        assert_eq!(
            found[0].to_string(),
            "office CIDR 10.0.0.0/8 (command line) contains pod CIDR 10.244.30.0/24 (command \
             line): the same address would be on both sides of the bridge; give only the \
             networks that office hosts really have"
        );
    }

    #[test]
    fn duplicates_and_nested_networks_of_one_role_are_conflicts() {
        let same = [labelled("10.0.0.0/8", POD), labelled("10.0.0.0/8", POD)];
        assert!(matches!(
            conflicts(&same).next(),
            Some(Conflict::Duplicate(_))
        ));
        let nested = [labelled("10.1.0.0/16", POD), labelled("10.0.0.0/8", POD)];
        assert!(matches!(
            conflicts(&nested).next(),
            Some(Conflict::Nested { outer, .. }) if outer.network == net("10.0.0.0/8")
        ));
        assert_eq!(role_conflicts(&nested).next(), None);
    }

    #[test]
    fn every_conflict_is_found() {
        let networks = [
            labelled("10.0.0.0/8", OFFICE),
            labelled("10.244.0.0/16", POD),
            labelled("10.244.0.0/16", POD),
            labelled("10.96.0.0/12", SERVICE),
        ];
        assert_eq!(conflicts(&networks).count(), 4);
        assert_eq!(role_conflicts(&networks).count(), 3);
    }

    fn any_net() -> impl Strategy<Value = Ipv4Net> {
        (any::<u32>(), 1u8..=32)
            .prop_map(|(bits, prefix)| Ipv4Net::new_assert(Ipv4Addr::from(bits), prefix).trunc())
    }

    proptest! {
        #[test]
        fn what_is_accepted_reads_back_the_same(bits in any::<u32>(), prefix in 0u8..=32) {
            let given = Ipv4Net::new_assert(Ipv4Addr::from(bits), prefix);
            match parse_cidr(&given.to_string()) {
                Ok(parsed) => prop_assert_eq!(parsed, given),
                Err(CidrError::HostBits { network, .. }) => {
                    prop_assert_eq!(network, given.trunc());
                    prop_assert_ne!(given, given.trunc());
                }
                Err(CidrError::Unusable { network, .. }) => prop_assert_eq!(network, given),
                Err(error) => prop_assert!(false, "{}", error),
            }
        }

        #[test]
        fn overlap_is_sharing_the_first_address_of_one(a in any_net(), b in any_net()) {
            let expected = a.contains(&b.network()) || b.contains(&a.network());
            prop_assert_eq!(overlaps(a, b), expected);
            prop_assert_eq!(intersection(a, b).is_some(), expected);
        }

        #[test]
        fn any_text_is_answered_without_a_panic(text in ".{0,40}") {
            let _ = parse_cidr(&text);
        }
    }
}
