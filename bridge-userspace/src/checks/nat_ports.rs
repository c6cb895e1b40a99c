//! Whether ports are left for NAT.

use crate::kernel::sysctl::{IP_LOCAL_PORT_RANGE, IP_LOCAL_RESERVED_PORTS};
use crate::model::{Finding, Problem, Subject};

/// Fewer than this are told: an office with one busy service may come close.
pub const FEW: u32 = 8_192;

/// Checks that a port is left to translate connections to. `free` is how many there are on an address that the node uses,
/// too ([`free_nat_ports`](crate::plan::map_state::free_nat_ports)), which does not matter where no client is translated to
/// one.
///
/// # Errors
/// If there is none.
pub fn check_nat_ports(free: u32, is_shared: bool) -> Result<(), Finding> {
    if free > 0 || !is_shared {
        return Ok(());
    }
    Err(Finding::failure(
        Subject::NatPorts,
        format!(
            "no port is left for NAT: {IP_LOCAL_PORT_RANGE}, {IP_LOCAL_RESERVED_PORTS} and listening sockets cover all \
             from 1024 on"
        ),
        "narrow the range, for example to `32768 60999`",
    ))
}

/// What there is to say about the number of ports, if there are few.
#[must_use]
pub fn few_nat_ports(free: u32, is_shared: bool) -> Option<Problem> {
    (is_shared && free < FEW).then(|| {
        Problem::new(
            Subject::NatPorts,
            format!(
                "only {free} ports are left for NAT towards each port of a backend: {IP_LOCAL_PORT_RANGE}, \
                 {IP_LOCAL_RESERVED_PORTS} and listening sockets cover the others"
            ),
            "narrow the range, for example to `32768 60999`, or give a --snat-address that the node does not use itself",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_ports_are_a_remark_where_they_are_used() {
        assert_eq!(few_nat_ports(8_192, true), None);
        assert_eq!(few_nat_ports(535, false), None);
        let problem = few_nat_ports(535, true).unwrap();
        assert!(
            problem.what.starts_with("only 535 ports are left for NAT"),
            "{}",
            problem.what
        );
    }

    #[test]
    fn one_free_port_is_enough_and_none_is_an_error() {
        assert_eq!(check_nat_ports(1, true), Ok(()));
        assert_eq!(check_nat_ports(0, false), Ok(()));
        assert_eq!(
            check_nat_ports(0, true).unwrap_err().to_string(),
            "no port is left for NAT: net.ipv4.ip_local_port_range, net.ipv4.ip_local_reserved_ports and listening \
             sockets cover all from 1024 on; narrow the range, for example to `32768 60999`"
        );
    }
}
