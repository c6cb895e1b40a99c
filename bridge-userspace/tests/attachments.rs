//! What is attached where, in a network namespace of its own. Needs root, and BPF; where either is missing the test
//! fails.

mod pinned;

use std::collections::BTreeSet;
use std::process::Command;

use aya::programs::{SchedClassifier, TcAttachType};
use bridge_userspace::datapath::{
    Attachments, Datapath, Mode, TcAttach, XdpIncompatibilities, attached,
};
use bridge_userspace::maps::Pins;
use bridge_userspace::model::program::{AttachPoint, AttachPoints, Program};
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, unshare};

use self::pinned::Pinned;

const INTERFACE: &str = "flannel.1";
const PROGRAMS: [Program; 2] = [Program::ClusterIngress, Program::ClusterEgress];

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status();
    assert!(status.unwrap().success(), "ip {arguments}");
}

/// Makes the interface and gives the points that are wanted at it.
fn interface() -> AttachPoints {
    ip(&format!("link add {INTERFACE} type veth peer name peer"));
    let ifindex = if_nametoindex(INTERFACE).unwrap();
    let points = PROGRAMS.map(|program| AttachPoint {
        ifindex,
        interface: INTERFACE.to_owned(),
        program,
    });
    points
        .into_iter()
        .map(|point| (point.key(), point))
        .collect()
}

fn programs_there() -> usize {
    [TcAttachType::Ingress, TcAttachType::Egress]
        .map(|hook| {
            let (_, programs) = SchedClassifier::query_tcx(INTERFACE, hook).unwrap();
            programs.len()
        })
        .iter()
        .sum()
}

async fn are_attached(pins: &Pins, points: &AttachPoints) -> bool {
    for point in points.values() {
        if attached(pins, point, Mode::Tcx).await != Some(Mode::Tcx) {
            return false;
        }
    }
    true
}

#[test]
fn an_interface_that_is_gone_is_not_taken_for_its_namesake() {
    unshare(CloneFlags::CLONE_NEWNET).expect("root is needed");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let pinned = Pinned::new("namesake");
    let pins = pinned.pins();
    let mut datapath = Datapath::load(pins, 64).expect("root and a bpf filesystem are needed");
    runtime.block_on(async {
        let none = XdpIncompatibilities::new();
        let mut attachments = Attachments::new(TcAttach::Auto, pins, BTreeSet::new()).await;
        assert_eq!(attachments.tc_mode(), Mode::Tcx, "a kernel with TCX");
        let old = interface();
        attachments
            .reconcile(&mut datapath, &old, &none)
            .await
            .unwrap();
        assert!(are_attached(pins, &old).await);
        assert_eq!(programs_there(), PROGRAMS.len());

        ip(&format!("link del {INTERFACE}"));
        let new = interface();
        assert_ne!(old, new);
        // What was found out before is acted upon afterwards.
        let outdated = attachments.reconcile(&mut datapath, &old, &none).await;
        let error = outdated.unwrap_err().to_string();
        assert!(error.contains("No such device"), "{error}");
        assert_eq!(programs_there(), 0, "at the namesake");

        attachments
            .reconcile(&mut datapath, &new, &none)
            .await
            .unwrap();
        assert!(are_attached(pins, &new).await);
        assert_eq!(programs_there(), PROGRAMS.len());
    });
}
