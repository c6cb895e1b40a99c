//! What a problem or a finding is about.

use std::borrow::Cow;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// What a problem or a finding is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Subject {
    /// The cluster as a whole, and the way to it.
    Cluster,
    /// An object of the cluster: kind and name.
    Object(String),
    /// A network interface, by name.
    Interface(String),
    /// The kernel's routes, neighbours and addresses.
    KernelNetwork,
    /// Tables and programs in the kernel.
    Datapath,
    /// Bringing tables and programs to the wanted state.
    Reconciliation,
    /// The DNS relay.
    Dns,
    /// A task of the process, by name.
    Task(String),
    /// A setting of `run`, by the name of its field in the configuration file.
    Setting(Cow<'static, str>),
    /// A place in the configuration file.
    ConfigurationFile {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1, where it is known.
        line: Option<u64>,
    },
    /// The rights of this process.
    Privileges,
    /// The running kernel.
    Kernel,
    /// The directory of the pinned tables.
    PinPath(PathBuf),
    /// Another process that works on the same tables.
    Instance,
    /// A network of the office or of the cluster.
    Network(Ipv4Net),
    /// An address of this host.
    Address(Ipv4Addr),
    /// An address and port to listen on or to ask.
    Socket(SocketAddr),
    /// A kernel setting, by its dotted name.
    Sysctl(Cow<'static, str>),
    /// The ports that connections are translated to.
    NatPorts,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster => f.write_str("cluster"),
            Self::Object(name) => f.write_str(name),
            Self::Interface(name) => write!(f, "interface {name}"),
            Self::KernelNetwork => f.write_str("kernel network"),
            Self::Datapath => f.write_str("datapath"),
            Self::Reconciliation => f.write_str("reconciliation"),
            Self::Dns => f.write_str("dns"),
            Self::Task(name) => write!(f, "task {name}"),
            Self::Setting(field) => write!(f, "setting {field}"),
            Self::ConfigurationFile {
                path,
                line: Some(line),
            } => write!(f, "file {}:{line}", path.display()),
            Self::ConfigurationFile { path, line: None } => write!(f, "file {}", path.display()),
            Self::Privileges => f.write_str("privileges"),
            Self::Kernel => f.write_str("kernel"),
            Self::PinPath(path) => write!(f, "directory {}", path.display()),
            Self::Instance => f.write_str("other instance"),
            Self::Network(network) => write!(f, "network {network}"),
            Self::Address(address) => write!(f, "address {address}"),
            Self::Socket(socket) => write!(f, "socket {socket}"),
            Self::Sysctl(name) => write!(f, "sysctl {name}"),
            Self::NatPorts => f.write_str("NAT ports"),
        }
    }
}
