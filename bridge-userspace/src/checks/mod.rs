//! Whether this host can do what `run` is asked for, found out before anything in the kernel is touched.
//!
//! Each check judges facts that were read before, changes nothing, and adds what it finds to [`Findings`]. So they can be
//! asked at any time, whether a bridge runs or not, and be tested without the host that they judge. `run` refuses to
//! start on errors and shows all of them; warnings are logged.
//!
//! | file | facts | judges |
//! |---|---|---|
//! | `machine` | [`MachineFacts`] | capabilities, kernel, BTF, bpf filesystem |
//! | `instance` | process that holds the lock | whether another bridge works on the same tables |
//! | `pin_directory` | owner and mode of the pin directory | whether another user can change what is pinned |
//! | `network` | [`NetworkState`], [`DesiredState`] | uplink, overlapping networks, the DNS relay's addresses |
//! | `hooks` | [`HookFacts`] | whether another bridge is attached where this one is to be |
//! | `forwarding` | `net.ipv4.ip_forward` | whether the kernel forwards what is left to it |
//! | `nat_ports` | ports in use | whether any is left for NAT |
//! | `xdp` | [`XdpFacts`] | whether the uplink can have XDP, if that is asked for |
//!
//! [`Findings`]: crate::model::Findings
//! [`NetworkState`]: crate::kernel::netlink::NetworkState
//! [`DesiredState`]: crate::cluster::DesiredState

mod forwarding;
mod hooks;
mod instance;
mod machine;
mod nat_ports;
mod network;
mod pin_directory;
mod xdp;

pub use self::forwarding::{Forwarding, check_forwarding};
pub use self::hooks::{HookFacts, check_hooks};
pub use self::instance::check_instance;
pub use self::machine::{Fact, MachineFacts, check_bpffs, check_machine};
pub use self::nat_ports::{check_nat_ports, few_nat_ports};
pub use self::network::{check_network, check_office};
pub use self::pin_directory::judged_pins;
pub use self::xdp::{XdpFacts, check_xdp};
