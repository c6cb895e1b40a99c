//! Whether another bridge, with a pin path of its own, takes the packets that are to be ours.

use std::collections::{BTreeMap, BTreeSet};

use crate::datapath::{HookError, Hooks, Occupant, Owner};
use crate::kernel::netlink::NetworkState;
use crate::maps::Pins;
use crate::model::program::{AttachPoints, Hook};
use crate::model::{Finding, Findings, Subject};

/// What stands at the hooks of the interfaces that ours are to be attached to.
#[derive(Debug)]
pub struct HookFacts {
    /// By the interface's name and the hook, in the order in which packets meet them.
    pub occupants: Result<Vec<(String, Hook, Vec<Occupant>)>, HookError>,
}

impl HookFacts {
    /// Asks the kernel. `reported` are the programs that an earlier `run` with these pins has told to be its own.
    pub async fn read(
        pins: &Pins,
        reported: &BTreeSet<u32>,
        wanted: &AttachPoints,
        network: &NetworkState,
    ) -> Self {
        Self {
            occupants: read(pins, reported, wanted, network).await,
        }
    }
}

async fn read(
    pins: &Pins,
    reported: &BTreeSet<u32>,
    wanted: &AttachPoints,
    network: &NetworkState,
) -> Result<Vec<(String, Hook, Vec<Occupant>)>, HookError> {
    let interfaces: BTreeMap<u32, &String> = wanted
        .values()
        .filter(|point| network.links.contains_key(&point.ifindex))
        .map(|point| (point.ifindex, &point.interface))
        .collect();
    let mut hooks = Hooks::open(pins, reported.iter().copied())?;
    let mut found = Vec::new();
    for (ifindex, interface) in interfaces {
        for hook in [Hook::Xdp, Hook::TcIngress, Hook::TcEgress] {
            found.push((interface.clone(), hook, hooks.at(ifindex, hook).await?));
        }
    }
    Ok(found)
}

/// Checks that no other bridge is attached there. Of two only one can translate a packet, and each would take the other's
/// place for its own.
pub fn check_hooks(facts: HookFacts, findings: &mut Findings) {
    let found = match facts.occupants {
        Ok(found) => found,
        Err(error) => {
            findings.push(Finding::failure(
                Subject::KernelNetwork,
                error.to_string(),
                "run as root, where netlink sockets and bpf(2) are allowed",
            ));
            return;
        }
    };
    // With `--datapath xdp` that check has told of it already.
    let is_told = |interface: &String| findings.concern(&Subject::Interface(interface.clone()));
    let told: BTreeSet<String> = found
        .iter()
        .map(|(interface, ..)| interface.clone())
        .filter(is_told)
        .collect();
    for (interface, hook, occupants) in found {
        if hook == Hook::Xdp && told.contains(&interface) {
            continue;
        }
        let others = occupants
            .iter()
            .filter(|occupant| occupant.owner == Owner::OtherInstance);
        for other in others {
            findings.push(Finding::failure(
                Subject::Interface(interface.clone()),
                format!("{other} is attached to {interface} ({})", hook.name()),
                format!(
                    "stop that one and run `office-bridge uninstall` with its --pin-path; if its pin path is gone, remove \
                     what is left by `{}`",
                    other.removal(&interface, hook)
                ),
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::Place;

    fn occupant(owner: Owner) -> Occupant {
        Occupant {
            place: Place::Filter {
                priority: 50,
                handle: 1,
                kind: "bpf".to_owned(),
                is_ours: true,
            },
            program: Some(57),
            name: "uplink_ingress".to_owned(),
            owner,
        }
    }

    fn findings_of(occupants: Vec<Occupant>) -> Findings {
        let mut findings = Findings::default();
        let facts = HookFacts {
            occupants: Ok(vec![("eth0".to_owned(), Hook::TcIngress, occupants)]),
        };
        check_hooks(facts, &mut findings);
        findings
    }

    #[test]
    fn another_instance_is_told_with_interface_program_and_what_to_do() {
        let findings = findings_of(vec![occupant(Owner::OtherInstance)]);
        assert_eq!(
            findings.to_string(),
            "another office-bridge's `uplink_ingress` (program 57) is attached to eth0 (tc-ingress): stop that one and run \
             `office-bridge uninstall` with its --pin-path; if its pin path is gone, remove what is left by `tc filter del \
             dev eth0 ingress pref 50 handle 0x1 bpf`"
        );
        assert!(!findings.is_usage());
    }

    #[test]
    fn neither_a_predecessor_nor_a_stranger_keeps_from_starting() {
        let found = vec![occupant(Owner::Ours), occupant(Owner::Stranger)];
        assert!(findings_of(found).is_empty());
    }
}
