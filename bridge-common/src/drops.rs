//! Why a packet goes no further: the one list of reasons.

macro_rules! drop_reasons {
    ($($(#[$doc:meta])+ $reason:ident = $name:literal,)+) => {
        /// Why a packet goes no further. Counters, logs and commands use these words.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum DropReason {
            $($(#[$doc])+ $reason,)+
        }

        impl DropReason {
            /// Every reason, in the order of the counters.
            pub const ALL: &[Self] = &[$(Self::$reason),+];

            /// The reason with this number.
            #[must_use]
            #[inline(always)]
            pub const fn from_number(number: u8) -> Option<Self> {
                match number {
                    $(number if number == Self::$reason as u8 => Some(Self::$reason),)+
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
        }
    };
}

drop_reasons! {
    /// The TTL ran out here; answered with ICMP time exceeded.
    TtlExceeded = "ttl-exceeded",
    /// Larger than the egress MTU; answered with ICMP fragmentation needed.
    TooBig = "too-big",
    /// No service has this address and port; answered with ICMP port unreachable or a TCP reset.
    NoService = "no-service",
    /// The service has no ready backend; answered like [`Self::NoService`].
    NoBackend = "no-backend",
    /// The kernel has no route to the backend or back to the client.
    NoRoute = "no-route",
    /// The backend is an address of this node itself.
    LocalBackend = "local-backend",
    /// TCP in the middle of a connection that the tables do not know; answered with a reset.
    NoFlow = "no-flow",
    /// Every NAT port tried towards this backend is taken; answered with ICMP type 3 code 13.
    NoNatPort = "no-nat-port",
    /// The flow tables are full; answered with ICMP type 3 code 13.
    TableFull = "table-full",
    /// A later fragment whose first one was not seen.
    FragmentUnknown = "fragment-unknown",
    /// A protocol that cannot be translated, addressed to a service.
    UnsupportedProtocol = "unsupported-protocol",
    /// An ICMP error, addressed to a service, about a packet that no flow knows or that it quotes too little of.
    IcmpUnmatched = "icmp-unmatched",
    /// The packet could not be written to, half-way through.
    RewriteFailed = "rewrite-failed",
}
