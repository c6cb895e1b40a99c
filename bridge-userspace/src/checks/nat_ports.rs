//! Whether ports are left for NAT.

use crate::kernel::sysctl::{IP_LOCAL_PORT_RANGE, IP_LOCAL_RESERVED_PORTS};
use crate::model::{Finding, Subject};

/// Checks that a port is left to translate connections to. `free` is how many there are
/// ([`free_nat_ports`](crate::plan::map_state::free_nat_ports)).
///
/// # Errors
/// If there is none.
pub fn check_nat_ports(free: u32) -> Result<(), Finding> {
    if free > 0 {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_free_port_is_enough_and_none_is_an_error() {
        assert_eq!(check_nat_ports(1), Ok(()));
        assert_eq!(
            check_nat_ports(0).unwrap_err().to_string(),
            "no port is left for NAT: net.ipv4.ip_local_port_range, net.ipv4.ip_local_reserved_ports and listening \
             sockets cover all from 1024 on; narrow the range, for example to `32768 60999`"
        );
    }
}
