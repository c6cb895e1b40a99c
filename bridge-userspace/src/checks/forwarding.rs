//! Whether the kernel forwards what is left to it.

use super::machine::Fact;
use crate::config::Datapath;
use crate::kernel::sysctl::IP_FORWARD;
use crate::model::{Finding, Findings, Subject};

/// What is to be done about `net.ipv4.ip_forward` before the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarding {
    /// Leave it as it is.
    Keep,
    /// Set it to 1.
    SwitchOn,
}

/// Judges `net.ipv4.ip_forward`, and decides whether it is to be switched on.
///
/// The TC path forwards without it; what the kernel routes itself needs it, such as ICMP errors
/// on their way to pods and packets to services that are left to kube-proxy.
pub fn check_forwarding(
    is_on: &Fact<bool>,
    datapath: Datapath,
    manage_sysctls: bool,
    findings: &mut Findings,
) -> Forwarding {
    let subject = Subject::Sysctl(IP_FORWARD.name().into());
    match is_on {
        Ok(true) => {}
        Ok(false) if manage_sysctls => return Forwarding::SwitchOn,
        Ok(false) if datapath == Datapath::Stack => findings.push(Finding::failure(
            subject,
            format!(
                "{IP_FORWARD} is 0, and with --datapath stack the kernel forwards every packet"
            ),
            format!("`sysctl -w {IP_FORWARD}=1`, or run with --manage-sysctls"),
        )),
        Ok(false) => findings.push(Finding::warning(
            subject,
            format!(
                "{IP_FORWARD} is 0: the kernel forwards nothing by itself, so packets that are not ours to translate \
                 end here"
            ),
            "set it to 1 or run with --manage-sysctls",
        )),
        Err(error) => findings.push(Finding::failure(
            subject,
            error,
            "run where /proc/sys can be read",
        )),
    }
    Forwarding::Keep
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(
        is_on: &Fact<bool>,
        datapath: Datapath,
        manage_sysctls: bool,
    ) -> (Forwarding, Findings) {
        let mut findings = Findings::default();
        let todo = check_forwarding(is_on, datapath, manage_sysctls, &mut findings);
        (todo, findings)
    }

    #[test]
    fn a_kernel_that_forwards_is_left_alone() {
        for manage_sysctls in [false, true] {
            let (todo, findings) = judged(&Ok(true), Datapath::Stack, manage_sysctls);
            assert_eq!(todo, Forwarding::Keep);
            assert!(findings.is_empty());
        }
    }

    #[test]
    fn forwarding_is_switched_on_by_those_who_may() {
        let (todo, findings) = judged(&Ok(false), Datapath::Stack, true);
        assert_eq!(todo, Forwarding::SwitchOn);
        assert!(findings.is_empty());
    }

    #[test]
    fn without_forwarding_the_stack_path_is_an_error_and_the_others_get_a_warning() {
        let (todo, findings) = judged(&Ok(false), Datapath::Stack, false);
        assert_eq!(todo, Forwarding::Keep);
        assert_eq!(
            findings.to_string(),
            "net.ipv4.ip_forward is 0, and with --datapath stack the kernel forwards every packet: \
             `sysctl -w net.ipv4.ip_forward=1`, or run with --manage-sysctls"
        );
        let (_, findings) = judged(&Ok(false), Datapath::Auto, false);
        let warnings = findings.into_warnings().unwrap();
        assert_eq!(
            warnings.iter().next().unwrap().to_string(),
            "net.ipv4.ip_forward is 0: the kernel forwards nothing by itself, so packets that are not ours to \
             translate end here; set it to 1 or run with --manage-sysctls"
        );
    }

    #[test]
    fn a_setting_that_can_not_be_read_is_an_error() {
        let unknown = Err("cannot read net.ipv4.ip_forward: denied".to_owned());
        let (_, findings) = judged(&unknown, Datapath::Tc, true);
        assert!(findings.has_errors() && !findings.is_usage());
    }
}
