//! The command line. `run` takes the same settings from a file; see [`crate::config`].

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::Ipv4Net;

use crate::config::{DEFAULT_PIN_PATH, RunArgs};
use crate::model::networks::{CidrError, parse_cidr};

/// Joins an office network to a Kubernetes cluster through this node.
#[derive(Debug, Parser)]
#[command(name = "office-bridge", version = env!("OFFICE_BRIDGE_VERSION"), propagate_version = true)]
#[command(after_help = "Exit codes: 0 fine, 1 failed, 2 wrong usage.")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Forward: attach to the interfaces, fill the tables and follow the cluster
    ///
    /// Stopping it leaves the forwarding running; `office-bridge uninstall` ends it. A second
    /// `run` takes over the flows of the first one.
    Run(Box<RunArgs>),
    /// Show readiness, attachment per interface, networks with their source, and drop counters
    Status(ListArgs),
    /// List or flush the flows in the tables
    #[command(subcommand)]
    Flows(FlowsCommand),
    /// List service addresses and their backends as the datapath has them
    Services(ListArgs),
    /// Detach from every interface and remove all tables, flows included
    Uninstall(PinArgs),
}

/// What to do with the flows.
#[derive(Debug, Subcommand)]
pub enum FlowsCommand {
    /// List flows
    List {
        /// Which flows.
        #[command(flatten)]
        filter: FlowFilter,
        /// How and from where.
        #[command(flatten)]
        list: ListArgs,
    },
    /// List clients, those with the most flows first, and how often each was refused more
    Top(ListArgs),
    /// Remove flows: all of them, or those that every given filter matches
    Flush {
        /// Which flows.
        #[command(flatten)]
        filter: FlowFilter,
        /// How and from where.
        #[command(flatten)]
        list: ListArgs,
    },
}

/// Where the pinned tables are.
#[derive(Debug, Clone, Args)]
pub struct PinArgs {
    /// Directory of the pinned tables, on a bpf filesystem
    #[arg(long, value_name = "DIR", default_value = DEFAULT_PIN_PATH)]
    pub pin_path: PathBuf,
}

/// Common to all commands that show something.
#[derive(Debug, Clone, Args)]
pub struct ListArgs {
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: OutputFormat,
    /// Where the tables are.
    #[command(flatten)]
    pub pin: PinArgs,
}

/// How a listing is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// Columns for people
    #[default]
    Table,
    /// JSON for scripts
    Json,
}

/// A choice of flows; each given part has to match.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct FlowFilter {
    /// Office host: ADDRESS, ADDRESS:PORT or CIDR
    #[arg(long, value_name = "ENDPOINT")]
    pub client: Option<EndpointFilter>,
    /// What the client addressed, a pod or a service: ADDRESS, ADDRESS:PORT or CIDR
    #[arg(long, value_name = "ENDPOINT")]
    pub destination: Option<EndpointFilter>,
    /// The pod that really gets it: ADDRESS, ADDRESS:PORT or CIDR
    #[arg(long, value_name = "ENDPOINT")]
    pub backend: Option<EndpointFilter>,
    /// Transport protocol
    #[arg(long, value_enum)]
    pub protocol: Option<FlowProtocol>,
}

/// A protocol that flows can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FlowProtocol {
    /// ICMP echo
    Icmp,
    /// TCP
    Tcp,
    /// UDP
    Udp,
}

impl FlowProtocol {
    /// The protocol's number in the IPv4 header (IANA "Assigned Internet Protocol Numbers").
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Icmp => 1,
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

/// Addresses and, possibly, one port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndpointFilter {
    /// The addresses; a single one is a /32.
    pub network: Ipv4Net,
    /// The port, or the ICMP identifier, in host order.
    pub port: Option<u16>,
}

impl EndpointFilter {
    /// Whether an address and port (host order) match.
    #[must_use]
    pub fn matches(&self, address: Ipv4Addr, port: u16) -> bool {
        self.network.contains(&address) && self.port.is_none_or(|wanted| wanted == port)
    }
}

/// Why a text is no [`EndpointFilter`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointFilterError {
    /// The network part.
    #[error(transparent)]
    Cidr(#[from] CidrError),
    /// The port part.
    #[error("`{0}` is no port")]
    Port(String),
    /// No address at all.
    #[error("`{0}` is neither an IPv4 address, ADDRESS:PORT nor a CIDR")]
    Address(String),
}

impl FromStr for EndpointFilter {
    type Err = EndpointFilterError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains('/') {
            let network = parse_cidr(text)?;
            return Ok(Self {
                network,
                port: None,
            });
        }
        let no_address = || EndpointFilterError::Address(text.to_owned());
        let (address, port): (Ipv4Addr, _) = match text.split_once(':') {
            Some((address, port)) => {
                let address = address.parse().map_err(|_| no_address())?;
                let number = port
                    .parse()
                    .map_err(|_| EndpointFilterError::Port(port.to_owned()))?;
                (address, Some(number))
            }
            None => (text.parse().map_err(|_| no_address())?, None),
        };
        Ok(Self {
            network: Ipv4Net::from(address),
            port,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_endpoint_filter_is_an_address_a_socket_or_a_network() {
        let matches = |filter: &str, address: &str, port| {
            filter
                .parse::<EndpointFilter>()
                .unwrap()
                .matches(address.parse().unwrap(), port)
        };
        assert!(matches("192.168.0.10", "192.168.0.10", 5000));
        assert!(!matches("192.168.0.10", "192.168.0.11", 5000));
        assert!(matches("192.168.0.10:5000", "192.168.0.10", 5000));
        assert!(!matches("192.168.0.10:5000", "192.168.0.10", 5001));
        assert!(matches("192.168.0.0/22", "192.168.3.255", 1));
        assert!(!matches("192.168.0.0/22", "192.168.4.0", 1));
    }

    #[test]
    fn an_endpoint_filter_that_cannot_be_meant_is_refused() {
        for text in [
            "",
            "pod",
            "10.0.0.1:",
            "10.0.0.1:65536",
            "10.0.0.1/8",
            "fe80::1",
        ] {
            assert!(text.parse::<EndpointFilter>().is_err(), "{text}");
        }
    }

    #[test]
    fn commands_read_as_the_design_has_them() {
        for line in [
            "office-bridge status -o json",
            "office-bridge flows list --client 192.168.0.10 --protocol udp -o json",
            "office-bridge flows flush --destination 10.96.0.10:53 --backend 10.244.1.0/24",
            "office-bridge services -o table --pin-path /sys/fs/bpf/x",
            "office-bridge uninstall --pin-path /sys/fs/bpf/x",
        ] {
            Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{error}"));
        }
        assert!(Cli::try_parse_from(["office-bridge", "flows"]).is_err());
        assert!(Cli::try_parse_from(["office-bridge", "status", "-o", "yaml"]).is_err());
    }
}
