//! File descriptors: every query in flight holds one.

use super::config::Limits;
use crate::kernel::descriptors::raise_to;

/// Descriptors for everything that is not counted by a limit of the relay's: listening sockets, idle and unwelcome
/// connections, those of HTTP, and the rest of the process.
const OTHERS: usize = 1024;

/// Raises this process's limit of open files to what `limits` need. Where that is not permitted, as many queries and
/// connections are let in as there is room for.
pub fn provide(limits: Limits) -> Limits {
    let needed = limits.in_flight + limits.tcp_connections + OTHERS;
    let available = raise_to(u64::try_from(needed).unwrap_or(u64::MAX));
    let available = usize::try_from(available).unwrap_or(usize::MAX);
    let fitting = fit(limits, available);
    if fitting.in_flight < limits.in_flight {
        tracing::warn!(
            open_files = available,
            in_flight = fitting.in_flight,
            tcp_connections = fitting.tcp_connections,
            "too few open files are permitted for the DNS relay's {} queries in flight; raise LimitNOFILE (`ulimit -Hn`) to {needed}",
            limits.in_flight,
        );
    }
    fitting
}

/// Shares out what is available, half of it at least: whatever clients do, there is a descriptor left for the next query
/// of another one, and for the rest of the process.
fn fit(limits: Limits, available: usize) -> Limits {
    let room = available - OTHERS.min(available / 2);
    let wanted = limits.in_flight + limits.tcp_connections;
    if wanted <= room {
        return limits;
    }
    let tcp_connections = (limits.tcp_connections * room / wanted).max(1);
    Limits {
        in_flight: room.saturating_sub(tcp_connections).max(1),
        tcp_connections,
        ..limits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_enough_descriptors_nothing_is_cut() {
        let limits = Limits::default();
        let fitting = fit(limits, 6144);
        assert_eq!(fitting.in_flight, limits.in_flight);
        assert_eq!(fitting.tcp_connections, limits.tcp_connections);
    }

    #[test]
    fn connections_leave_descriptors_for_queries_however_few_there_are() {
        for available in [30, 512, 1024, 4096, 6143] {
            let fitting = fit(Limits::default(), available);
            let all = fitting.in_flight + fitting.tcp_connections;
            assert!(all <= available - OTHERS.min(available / 2), "{available}");
            assert!(
                fitting.in_flight > 3 * fitting.tcp_connections,
                "{available}"
            );
            assert!(fitting.tcp_connections > 0, "{available}");
        }
    }
}
