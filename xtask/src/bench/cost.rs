//! What a program takes for one packet, run by the kernel over and over.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use aya::programs::ProgramFd;

use super::bridge::Bridge;
use super::gauge::{Gauge, Hook};
use super::layout::{Pattern, kind};
use super::packets::Range;
use super::plan::{Contestant, Direction, FLOWS, Network, Packet, Target};
use super::stage::header;
use super::topology::{CLUSTER, End, Topology, UPLINK};

/// Packets of one run.
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

/// Nanoseconds for `packet` in the programs of `bridge`, or in one that does nothing. What is written before each
/// packet is in it.
pub fn nanoseconds(
    range: &mut Range<'_>,
    object: &Path,
    bridge: &Bridge,
    contestant: Contestant,
    packet: Packet,
) -> Result<f64> {
    range.open(Target::Pod, FLOWS)?;
    range.open(Target::Service, FLOWS)?;
    let topology = range.stage().topology;
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
    let mut gauge = Gauge::load(object)?;
    let program = program(&mut gauge, bridge, hook, end, packet)?;
    let (nanoseconds, verdict) = gauge
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
    gauge: &mut Gauge,
    bridge: &Bridge,
    hook: Hook,
    end: End,
    packet: Packet,
) -> Result<ProgramFd> {
    match hook {
        _ if packet == Packet::Baseline => gauge.baseline(hook),
        Hook::Xdp { .. } => bridge.xdp_program(end),
        Hook::Tc if packet == Packet::FromPod => bridge.tc_program("cluster_ingress"),
        Hook::Tc => bridge.tc_program("uplink_ingress"),
    }
}

fn pattern(range: &Range<'_>, hook: Hook, packet: Packet) -> Result<Pattern> {
    let stage = range.stage();
    let (direction, target) = match packet {
        Packet::ToService => (Direction::Forward, Target::Service),
        Packet::FromPod => (Direction::Reply, Target::Pod),
        _ => (Direction::Forward, Target::Pod),
    };
    let mut pattern = stage.scene(direction, target, 0, FLOWS)?.pattern;
    if packet == Packet::NotOurs {
        pattern.kind = kind::NOT_OURS;
    }
    if hook == Hook::Tc {
        // The kernel runs it on the loopback device, and the kernel has opened the tunnel.
        pattern.encapsulated = 0;
        pattern.ethernet = header([0; 6], [0; 6]);
    } else {
        debug_assert!(
            (pattern.encapsulated != 0)
                == (packet == Packet::FromPod && stage.topology.network == Network::Vxlan)
        );
    }
    Ok(pattern)
}
