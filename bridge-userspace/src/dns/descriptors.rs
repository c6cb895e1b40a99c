//! File descriptors: every query in flight holds one.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::config::Limits;

/// Descriptors for everything that is not counted by a limit: listening sockets, idle and unwelcome
/// connections, and the rest of the process.
const OTHERS: usize = 1024;

/// Raises this process's limit of open files to what `limits` need. Where that is not permitted, as
/// many queries are let in flight as there is room for.
pub fn provide(limits: Limits) -> Limits {
    let needed = limits.in_flight + limits.tcp_connections + OTHERS;
    let available = raise(u64::try_from(needed).unwrap_or(u64::MAX));
    let missing = needed.saturating_sub(usize::try_from(available).unwrap_or(usize::MAX));
    if missing == 0 {
        return limits;
    }
    let in_flight = limits.in_flight.saturating_sub(missing).max(1);
    tracing::warn!(
        open_files = available,
        in_flight,
        "too few open files are permitted for the DNS relay's {} queries in flight; raise LimitNOFILE (`ulimit -Hn`) to {needed}",
        limits.in_flight,
    );
    Limits {
        in_flight,
        ..limits
    }
}

/// The limit reached.
fn raise(needed: u64) -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return 0;
    };
    if soft >= needed {
        return soft;
    }
    // Past the hard limit takes CAP_SYS_RESOURCE.
    for (soft, hard) in [(needed, hard.max(needed)), (needed.min(hard), hard)] {
        if setrlimit(Resource::RLIMIT_NOFILE, soft, hard).is_ok() {
            return soft;
        }
    }
    soft
}
