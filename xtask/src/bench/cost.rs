//! The time that a program takes for one packet.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use aya::programs::ProgramFd;

use super::bridge::Bridge;
use super::layout::{Pattern, kind};
use super::packets::Range;
use super::plan::{Contestant, Direction, FLOWS, Network, Packet, Target};
use super::program_timer::{Hook, ProgramTimer};
use super::topology::{CLUSTER, End, Topology, UPLINK};
use super::workload::header;

/// Packets in one run of the kernel.
const COUNT: u32 = 1 << 18;

/// `TC_ACT_REDIRECT` (`linux/pkt_cls.h`).
const TC_REDIRECT: u32 = 7;
/// `TC_ACT_UNSPEC` (`linux/pkt_cls.h`).
const TC_UNSPEC: u32 = u32::MAX;
/// `TC_ACT_OK` (`linux/pkt_cls.h`).
const TC_OK: u32 = 0;
/// `XDP_PASS` (`linux/bpf.h`).
const XDP_PASS: u32 = 2;
/// `XDP_TX` (`linux/bpf.h`).
const XDP_TX: u32 = 3;
/// `XDP_REDIRECT` (`linux/bpf.h`).
const XDP_REDIRECT: u32 = 4;

/// Nanoseconds for `packet` in the programs of `bridge`, or in one that does nothing. They include writing the packet
/// before each run.
pub fn nanoseconds(
    range: &mut Range<'_>,
    object: &Path,
    bridge: &Bridge,
    contestant: Contestant,
    packet: Packet,
) -> Result<f64> {
    range.open(Target::Pod, FLOWS)?;
    range.open(Target::Service, FLOWS)?;
    let topology = range.setup().topology;
    let end = if packet == Packet::FromPod {
        CLUSTER
    } else {
        UPLINK
    };
    let hook = if contestant == Contestant::Xdp {
        Hook::Xdp {
            ingress: Topology::index(&topology.node, end)?,
        }
    } else {
        Hook::Tc
    };
    let pattern = pattern(range, hook, packet)?;
    let mut timer = ProgramTimer::load(object)?;
    let program = program(&mut timer, bridge, hook, end, packet)?;
    let (nanoseconds, verdict) = timer
        .run(&topology.node, hook, &program, pattern, COUNT)
        .with_context(|| format!("run the program on packets of the kind {packet:?}"))?;
    let allowed: &[u32] = match (hook, packet) {
        (Hook::Tc, Packet::Baseline) => &[TC_OK],
        (Hook::Tc, Packet::NotOurs) => &[TC_UNSPEC],
        (Hook::Tc, _) => &[TC_REDIRECT],
        (Hook::Xdp { .. }, Packet::Baseline | Packet::NotOurs) => &[XDP_PASS],
        (Hook::Xdp { .. }, _) => &[XDP_TX, XDP_REDIRECT],
    };
    ensure!(
        allowed.contains(&verdict),
        "the program's verdict on packets of the kind {packet:?} is {verdict}, not one of {allowed:?}"
    );
    Ok(nanoseconds)
}

fn program(
    timer: &mut ProgramTimer,
    bridge: &Bridge,
    hook: Hook,
    end: End,
    packet: Packet,
) -> Result<ProgramFd> {
    match hook {
        _ if packet == Packet::Baseline => timer.baseline(hook),
        Hook::Xdp { .. } => bridge.xdp_program(end),
        Hook::Tc if packet == Packet::FromPod => bridge.tc_program("cluster_ingress"),
        Hook::Tc => bridge.tc_program("uplink_ingress"),
    }
}

fn pattern(range: &Range<'_>, hook: Hook, packet: Packet) -> Result<Pattern> {
    let setup = range.setup();
    let (direction, target) = match packet {
        Packet::ToService => (Direction::Forward, Target::Service),
        Packet::FromPod => (Direction::Reply, Target::Pod),
        _ => (Direction::Forward, Target::Pod),
    };
    let mut pattern = setup.workload(direction, target, 0, FLOWS)?.pattern;
    if packet == Packet::NotOurs {
        pattern.kind = kind::NOT_OURS;
    }
    if hook == Hook::Tc {
        // The kernel runs it on the loopback device, and on packets that it has decapsulated.
        pattern.encapsulated = 0;
        pattern.ethernet = header([0; 6], [0; 6]);
    } else {
        debug_assert!(
            (pattern.encapsulated != 0)
                == (packet == Packet::FromPod && setup.topology.network == Network::Vxlan)
        );
    }
    Ok(pattern)
}
