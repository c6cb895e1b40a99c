//! Kernel settings of the network namespace that the calling thread is in.

use std::fmt;
use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use crate::model::ports::PortSet;
use crate::model::{Finding, Subject};

/// A setting under `/proc/sys`, by its dotted name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sysctl(&'static str);

/// Whether the kernel forwards IPv4 packets between interfaces.
pub const IP_FORWARD: Sysctl = Sysctl("net.ipv4.ip_forward");
/// Which ports the kernel gives to its own outgoing connections.
pub const IP_LOCAL_PORT_RANGE: Sysctl = Sysctl("net.ipv4.ip_local_port_range");
/// Which of those it leaves out.
pub const IP_LOCAL_RESERVED_PORTS: Sysctl = Sysctl("net.ipv4.ip_local_reserved_ports");
/// TTL of packets that nothing else decides it for.
pub const IP_DEFAULT_TTL: Sysctl = Sysctl("net.ipv4.ip_default_ttl");

/// Why a setting cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// `/proc/sys` refuses.
    #[error("cannot {action} {name}: {error}")]
    Io {
        /// `read` or `set`.
        action: &'static str,
        /// The setting.
        name: Sysctl,
        /// What the system says.
        error: io::Error,
    },
    /// The value has another form than it had in all kernels so far.
    #[error("{name} reads `{value}`, which is not understood")]
    Value {
        /// The setting.
        name: Sysctl,
        /// What it reads.
        value: String,
    },
}

impl From<SysctlError> for Finding {
    fn from(error: SysctlError) -> Self {
        let (name, remedy) = match &error {
            SysctlError::Io {
                action: "set",
                name,
                ..
            } => (
                name,
                "set it by hand (`sysctl -w`) and leave out --manage-sysctls",
            ),
            SysctlError::Io { name, .. } => (name, "run as root, with /proc/sys mounted"),
            SysctlError::Value { name, .. } => (name, "set it to a value as documented"),
        };
        Self::failure(
            Subject::Sysctl(name.name().into()),
            error.to_string(),
            remedy,
        )
    }
}

impl fmt::Display for Sysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Sysctl {
    /// Its dotted name.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.0
    }

    fn path(self) -> PathBuf {
        PathBuf::from("/proc/sys").join(self.0.replace('.', "/"))
    }

    /// The setting's value, without the final newline.
    ///
    /// # Errors
    /// When the kernel has no such setting or refuses.
    pub fn read(self) -> Result<String, SysctlError> {
        match fs::read_to_string(self.path()) {
            Ok(value) => Ok(value.trim().to_owned()),
            Err(error) => Err(SysctlError::Io {
                action: "read",
                name: self,
                error,
            }),
        }
    }

    /// Changes the setting until the next reboot.
    ///
    /// # Errors
    /// When the kernel has no such setting or refuses, e.g. as `/proc/sys` is read-only in a
    /// container.
    pub fn write(self, value: &str) -> Result<(), SysctlError> {
        fs::write(self.path(), value).map_err(|error| SysctlError::Io {
            action: "set",
            name: self,
            error,
        })
    }

    /// The setting's value as a switch.
    ///
    /// # Errors
    /// As for [`Sysctl::read`], and for anything but a number.
    pub fn is_on(self) -> Result<bool, SysctlError> {
        let value = self.read()?;
        match value.parse::<u32>() {
            Ok(number) => Ok(number != 0),
            Err(_) => Err(SysctlError::Value { name: self, value }),
        }
    }
}

/// The ports that the kernel gives to the node's own outgoing connections.
///
/// # Errors
/// When the setting cannot be read.
pub fn local_port_range() -> Result<RangeInclusive<u16>, SysctlError> {
    let value = IP_LOCAL_PORT_RANGE.read()?;
    let mut words = value.split_whitespace().map(str::parse);
    match (words.next(), words.next(), words.next()) {
        (Some(Ok(first)), Some(Ok(last)), None) => Ok(first..=last),
        _ => Err(SysctlError::Value {
            name: IP_LOCAL_PORT_RANGE,
            value,
        }),
    }
}

/// The TTL of packets that nothing else decides it for.
///
/// # Errors
/// When the setting cannot be read.
pub fn default_ttl() -> Result<u8, SysctlError> {
    let value = IP_DEFAULT_TTL.read()?;
    value.parse().map_err(|_| SysctlError::Value {
        name: IP_DEFAULT_TTL,
        value,
    })
}

/// The ports that somebody has told the kernel to leave alone.
///
/// # Errors
/// When the setting cannot be read.
pub fn local_reserved_ports() -> Result<PortSet, SysctlError> {
    let value = IP_LOCAL_RESERVED_PORTS.read()?;
    port_list(&value).ok_or(SysctlError::Value {
        name: IP_LOCAL_RESERVED_PORTS,
        value,
    })
}

/// The notation of `proc_do_large_bitmap` (kernel/sysctl.c): `8080,9000-9010`.
fn port_list(value: &str) -> Option<PortSet> {
    let mut ports = PortSet::new();
    for item in value.split(',').filter(|item| !item.trim().is_empty()) {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        ports.insert_range(first.trim().parse().ok()?..=last.trim().parse().ok()?);
    }
    Some(ports)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_kernels_own_settings_are_understood() {
        let range = local_port_range().unwrap();
        assert!(range.start() < range.end());
        local_reserved_ports().unwrap();
        IP_FORWARD.is_on().unwrap();
    }

    #[test]
    fn a_port_list_that_is_not_understood_is_not_taken_for_an_empty_one() {
        assert!(port_list("8080,x").is_none());
        assert!(port_list("70000").is_none());
        assert!(port_list("").unwrap().is_empty());
    }

    #[test]
    fn an_unknown_setting_is_named_in_the_error() {
        let error = Sysctl("net.ipv4.no_such_setting").read().unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("cannot read net.ipv4.no_such_setting: ")
        );
    }

    proptest! {
        #[test]
        fn a_port_list_reads_back_as_the_same_set(
            ports in proptest::collection::btree_set(any::<u16>(), 0..50),
        ) {
            let set: PortSet = ports.into_iter().collect();
            prop_assert_eq!(port_list(&set.to_string()), Some(set));
        }
    }
}
