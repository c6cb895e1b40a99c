//! Why a packet goes no further: the one list of reasons, and what to say of each.
//!
//! The list is append-only. A reason's number is its place in the `counters` table, which outlives the program, and its
//! name is what metrics and scripts ask for: a new reason comes at the end, with the next number, and none goes.

macro_rules! drop_reasons {
    ($($reason:ident = $number:literal $name:literal {
        sender_gets: $sender_gets:literal,
        meaning: $meaning:literal,
        remedy: $remedy:literal,
    })+) => {
        /// Why a packet goes no further. Counters, logs, commands and the manual use these words.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum DropReason {
            $(
                #[doc = $meaning]
                $reason = $number,
            )+
        }

        impl DropReason {
            /// Every reason, by its number.
            pub const ALL: &[Self] = &[$(Self::$reason),+];

            /// The reason with this number.
            #[must_use]
            #[inline(always)]
            pub const fn from_number(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$reason),)+
                    _ => None,
                }
            }

            /// The name that commands and metrics show.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$reason => $name,)+
                }
            }

            /// What the sender of the packet is told, or `nothing`.
            #[must_use]
            pub const fn sender_gets(self) -> &'static str {
                match self {
                    $(Self::$reason => $sender_gets,)+
                }
            }

            /// What has happened, in a sentence.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$reason => $meaning,)+
                }
            }

            /// What an operator does about it. Commands and settings stand in backticks.
            #[must_use]
            pub const fn remedy(self) -> &'static str {
                match self {
                    $(Self::$reason => $remedy,)+
                }
            }
        }
    };
}

drop_reasons! {
    TtlExceeded = 0 "ttl-exceeded" {
        sender_gets: "ICMP time exceeded",
        meaning: "The TTL ended here.",
        remedy: "Nothing: traceroute. Large numbers: a routing loop.",
    }
    TooBig = 1 "too-big" {
        sender_gets: "ICMP fragmentation needed",
        meaning: "Larger than the way to the pod takes.",
        remedy: "Nothing: path-MTU discovery. Steadily growing: a firewall keeps ICMP from the sender.",
    }
    NoService = 2 "no-service" {
        sender_gets: "RST, ICMP port or host unreachable",
        meaning: "No service has this VIP and port.",
        remedy: "`office-bridge services`; refresh the manifests; check the port.",
    }
    NoBackend = 3 "no-backend" {
        sender_gets: "RST, ICMP port or host unreachable",
        meaning: "The service has no ready pod.",
        remedy: "`kubectl get endpointslices -n NAMESPACE -l kubernetes.io/service-name=NAME`.",
    }
    NoRoute = 4 "no-route" {
        sender_gets: "ICMP host unreachable, or nothing",
        meaning: "The kernel has no route to the pod, or back to the client.",
        remedy: "`ip route get ADDRESS` on this node. A pod network without a node: the address is wrong.",
    }
    LocalBackend = 5 "local-backend" {
        sender_gets: "nothing",
        meaning: "The service's backend is an address of this node itself, and the uplink's egress is not ready for it.",
        remedy: "`office-bridge status`: what keeps the program from the uplink's egress.",
    }
    NoFlow = 6 "no-flow" {
        sender_gets: "RST",
        meaning: "The middle of a TCP connection that the tables don't know.",
        remedy: "Reconnect. Often: raise `timeouts.tcpEstablished`; check that both directions pass through this node.",
    }
    NoNatPort = 7 "no-nat-port" {
        sender_gets: "ICMP administratively prohibited",
        meaning: "32 ports tried towards one backend port were all taken.",
        remedy: "`flows list --backend ADDRESS:PORT`; add `snatAddress`es.",
    }
    TableFull = 8 "table-full" {
        sender_gets: "ICMP administratively prohibited",
        meaning: "No room for another flow.",
        remedy: "`flows list` for who has them; a larger `flowCapacity` (after `uninstall`).",
    }
    FragmentUnknown = 9 "fragment-unknown" {
        sender_gets: "nothing",
        meaning: "A later fragment whose first was dropped or did not come within 2 seconds, or that there was no room to hold back.",
        remedy: "Smaller datagrams; some device loses or reorders. Next to `fragment-held` in large numbers: a flood.",
    }
    UnsupportedProtocol = 10 "unsupported-protocol" {
        sender_gets: "nothing",
        meaning: "Not TCP, UDP or ping, to a service.",
        remedy: "Address a pod.",
    }
    IcmpUnmatched = 11 "icmp-unmatched" {
        sender_gets: "nothing",
        meaning: "An ICMP error, addressed to a service, about a packet that no flow knows or that it quotes too little of.",
        remedy: "Nothing; such errors are late or forged.",
    }
    RewriteFailed = 12 "rewrite-failed" {
        sender_gets: "nothing",
        meaning: "The kernel could not change the packet, most likely for want of memory.",
        remedy: "`dmesg`; report it.",
    }
    NotOffice = 13 "not-office" {
        sender_gets: "ICMP administratively prohibited",
        meaning: "To a service, from a source that is in no office network: nothing on this node would translate it.",
        remedy: "`office-bridge status` names the networks: add those that are the office's as `officeCidr`.",
    }
    FragmentOverlap = 14 "fragment-overlap" {
        sender_gets: "nothing",
        meaning: "A fragment that covers what another one has brought, or that goes beyond its datagram's end.",
        remedy: "Nothing; a device that repeats fragments, or an attack.",
    }
    FragmentTiny = 15 "fragment-tiny" {
        sender_gets: "nothing",
        meaning: "A first fragment without the whole transport header, one that would replace a part of it, or one that is empty or ends within 8 bytes.",
        remedy: "Nothing; an attack, or a broken sender.",
    }
    ClientLimit = 16 "client-limit" {
        sender_gets: "ICMP administratively prohibited",
        meaning: "The client has, or opens, more flows than one client may.",
        remedy: "`office-bridge flows top` names it. If it is many hosts behind one address: raise `clientFlowRate`, `clientFlows` or `clientNatPorts`.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_only_appended() {
        // A new reason gets a line at the end. A line that changes or goes breaks counters that are pinned, dashboards
        // and scripts.
        const KNOWN: &[(u8, &str)] = &[
            (0, "ttl-exceeded"),
            (1, "too-big"),
            (2, "no-service"),
            (3, "no-backend"),
            (4, "no-route"),
            (5, "local-backend"),
            (6, "no-flow"),
            (7, "no-nat-port"),
            (8, "table-full"),
            (9, "fragment-unknown"),
            (10, "unsupported-protocol"),
            (11, "icmp-unmatched"),
            (12, "rewrite-failed"),
            (13, "not-office"),
            (14, "fragment-overlap"),
            (15, "fragment-tiny"),
            (16, "client-limit"),
        ];
        let all: std::vec::Vec<(u8, &str)> = DropReason::ALL
            .iter()
            .map(|&reason| (reason as u8, reason.name()))
            .collect();
        assert_eq!(all, KNOWN);
        for &(number, name) in KNOWN {
            assert_eq!(DropReason::from_number(number).unwrap().name(), name);
        }
    }

    #[test]
    fn every_reason_says_what_happens_and_what_to_do() {
        for reason in DropReason::ALL {
            assert!(!reason.sender_gets().is_empty(), "{reason:?}");
            for sentence in [reason.meaning(), reason.remedy()] {
                assert!(sentence.ends_with('.'), "{reason:?}: {sentence}");
            }
        }
    }
}
