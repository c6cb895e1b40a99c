//! What the listeners share: transports, and which process holds a port, for the error of whoever finds it taken.

use std::fmt;
use std::net::SocketAddr;

use procfs::process::{FDTarget, Process, all_processes};

/// Transport of a message, the same towards a client and upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// One datagram each way.
    Udp,
    /// Messages on a connection.
    Tcp,
}

impl Transport {
    /// `UDP` or `TCP`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
        }
    }
}

/// A process that holds a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its name as the kernel has it (`/proc/PID/comm`).
    pub name: String,
    /// Its id in this pid namespace.
    pub pid: i32,
}

impl fmt::Display for Holder {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} (pid {})", self.name, self.pid)
    }
}

/// Who has a taken port, as the end of an error's clause.
#[must_use]
pub fn by(holder: Option<&Holder>) -> String {
    holder.map_or_else(
        || " by a process that can't be seen from here (see `ss -lnptu` on the host)".to_owned(),
        |holder| format!(" by {holder}"),
    )
}

/// Finds the process whose socket keeps `address` from being bound. None if there is none, or if
/// it is of another pid namespace or not ours to look into.
#[must_use]
pub fn holder(address: SocketAddr, transport: Transport) -> Option<Holder> {
    let inodes = conflicting_inodes(address, transport);
    if inodes.is_empty() {
        return None;
    }
    all_processes().ok()?.flatten().find_map(|process| {
        process
            .fd()
            .ok()?
            .flatten()
            .any(|fd| matches!(fd.target, FDTarget::Socket(inode) if inodes.contains(&inode)))
            .then_some(())?;
        Some(Holder {
            name: process.stat().ok()?.comm,
            pid: process.pid,
        })
    })
}

/// Sockets of this thread's network namespace that conflict with `address`.
fn conflicting_inodes(address: SocketAddr, transport: Transport) -> Vec<u64> {
    let thread = format!("/proc/self/task/{}", nix::unistd::gettid());
    let Ok(own) = Process::new_with_root(thread.into()) else {
        return Vec::new();
    };
    let conflicts = |local: SocketAddr| {
        let same = local.ip().to_canonical() == address.ip();
        local.port() == address.port()
            && (same || local.ip().is_unspecified() || address.ip().is_unspecified())
    };
    match transport {
        Transport::Udp => [own.udp(), own.udp6()]
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| conflicts(entry.local_address))
            .map(|entry| entry.inode)
            .collect(),
        Transport::Tcp => [own.tcp(), own.tcp6()]
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| conflicts(entry.local_address))
            // A socket in TIME_WAIT belongs to nobody any more.
            .filter(|entry| entry.inode != 0)
            .map(|entry| entry.inode)
            .collect(),
    }
}
