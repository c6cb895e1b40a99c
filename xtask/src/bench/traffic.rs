//! The generator, the sinks and the bare redirect: the `traffic` object of `bridge-ebpf`, loaded and run.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use aya::maps::{Array, Map, MapData, PerCpuArray};
use aya::programs::{Program, SchedClassifier, TestRun as _, TestRunAttrs, TestRunOptions};
use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, Pod};
use lab::netns::Namespace;

use super::layout::{Detour, ENCAPSULATION, Expectation, FRAME, Pattern, outcome};
use super::machine::{self, Cpu};
use super::topology::{CLUSTER, End, OFFICE, Topology, UPLINK, WORKER};

/// Frames that the kernel generates before it lets them go.
const BATCH: u32 = 64;

// SAFETY: plain integers without padding.
unsafe impl Pod for Pattern {}
// SAFETY: plain integers without padding.
unsafe impl Pod for Expectation {}
// SAFETY: plain integers without padding.
unsafe impl Pod for Detour {}

/// One load of the object: programs share tables within one, and with no other.
pub struct Traffic {
    ebpf: Ebpf,
}

impl Traffic {
    /// Loads the object file; no program of it yet.
    pub fn load(object: &Path) -> Result<Self> {
        let ebpf = Ebpf::load_file(object)
            .with_context(|| format!("load the generator and sink from {}", object.display()))?;
        Ok(Self { ebpf })
    }

    fn program(&mut self, name: &str) -> Result<&mut Program> {
        self.ebpf
            .program_mut(name)
            .with_context(|| format!("the object has no program {name}"))
    }

    /// A program for XDP, loaded.
    pub fn xdp(&mut self, name: &str) -> Result<&mut Xdp> {
        let program: &mut Xdp = self.program(name)?.try_into()?;
        if program.fd().is_err() {
            program.load().with_context(|| format!("load {name}"))?;
        }
        Ok(program)
    }

    /// A program for TC, loaded.
    pub fn tc(&mut self, name: &str) -> Result<&mut SchedClassifier> {
        let program: &mut SchedClassifier = self.program(name)?.try_into()?;
        if program.fd().is_err() {
            program.load().with_context(|| format!("load {name}"))?;
        }
        Ok(program)
    }

    /// Writes the one entry of a table.
    pub fn set<V: Pod>(&mut self, table: &str, value: V) -> Result<()> {
        Array::<_, V>::try_from(self.map_mut(table)?)?
            .set(0, value, 0)
            .with_context(|| format!("write {table}"))
    }

    /// A table.
    pub fn map_mut(&mut self, table: &str) -> Result<&mut Map> {
        self.ebpf
            .map_mut(table)
            .with_context(|| format!("the object has no table {table}"))
    }

    /// Attaches `name` to an interface, for as long as this value lives.
    fn attach(&mut self, name: &str, namespace: &Namespace, end: End) -> Result<()> {
        let program = self.xdp(name)?;
        namespace
            .run_in(|| Ok(program.attach(end.name, XdpMode::Driver)?))
            .map(drop)
            .with_context(|| format!("attach {name} to {}", end.name))
    }
}

/// Sends packets.
pub struct Generator(Traffic);

/// What went out.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// Packets.
    pub packets: u64,
    /// From the first to the last, with all that the path did meanwhile.
    pub elapsed: Duration,
}

impl Generator {
    /// Loads it.
    pub fn load(object: &Path) -> Result<Self> {
        let mut traffic = Traffic::load(object)?;
        traffic.xdp("generator")?;
        Ok(Self(traffic))
    }

    /// Starts a pattern from its first flow.
    pub fn start(&mut self, pattern: Pattern) -> Result<()> {
        self.0.set("pattern", pattern)?;
        self.0.set("position", 0_u32)
    }

    /// Sends the next `count` packets of the pattern, from a namespace that has its interface.
    pub fn send(&mut self, from: &Namespace, encapsulated: bool, count: u32) -> Result<Sent> {
        let frame = vec![0; FRAME + if encapsulated { ENCAPSULATION } else { 0 }];
        let program = self.0.xdp("generator")?;
        let sent = from.run_in(|| {
            machine::stay_on(Cpu::Last)?;
            let started = Instant::now();
            let result = program.test_run(TestRunOptions {
                data_in: Some(&frame),
                repeat: count,
                attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                ..TestRunOptions::default()
            })?;
            Ok(Sent {
                packets: count.into(),
                elapsed: on_the_way(result.duration * count, started.elapsed()),
            })
        });
        sent.context("generate packets")
    }
}

/// How long packets were on their way in a call that took `call`, and of which the kernel has counted `counted`. It does
/// not count the 20 to 60 ms in which it puts the generator into place and removes it again (RCU grace periods), and not
/// what it does elsewhere when it lets other threads go first, which may be forwarding packets.
fn on_the_way(counted: Duration, call: Duration) -> Duration {
    const AROUND: Duration = Duration::from_millis(80);
    counted.max(call.saturating_sub(AROUND))
}

/// What a sink has counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted {
    /// As expected.
    pub expected: u64,
    /// IPv4 packets of another kind.
    pub other: u64,
    /// With a wrong checksum.
    pub bad_checksum: u64,
}

/// Drops and counts what arrives at an interface.
pub struct Sink(Traffic);

impl Sink {
    /// Attaches one.
    pub fn attach(object: &Path, namespace: &Namespace, end: End) -> Result<Self> {
        let mut traffic = Traffic::load(object)?;
        traffic.attach("sink", namespace, end)?;
        Ok(Self(traffic))
    }

    /// From now on these packets are expected, and nothing is counted yet.
    pub fn expect(&mut self, expectation: Expectation) -> Result<()> {
        self.0.set("expectation", expectation)
    }

    /// All that was counted since it was attached.
    pub fn counted(&self) -> Result<Counted> {
        let map = self.0.ebpf.map("outcomes").context("no table outcomes")?;
        let table = PerCpuArray::<&MapData, u64>::try_from(map)?;
        let sum = |index| Ok::<_, anyhow::Error>(table.get(&index, 0)?.iter().sum());
        Ok(Counted {
            expected: sum(outcome::EXPECTED)?,
            other: sum(outcome::OTHER)?,
            bad_checksum: sum(outcome::BAD_CHECKSUM)?,
        })
    }
}

/// The bare redirect, both ways.
pub struct Redirect {
    _both: [Traffic; 2],
}

impl Redirect {
    /// Attaches it to both ends of the node.
    pub fn attach(object: &Path, topology: &Topology) -> Result<Self> {
        let way = |from: End, to: End, peer: End| {
            let mut traffic = Traffic::load(object)?;
            let ifindex = Topology::index(&topology.node, to)?;
            let addresses = words(&[peer.mac, to.mac].concat());
            traffic.set("detour", Detour { ifindex, addresses })?;
            traffic.attach("redirect", &topology.node, from)?;
            Ok::<_, anyhow::Error>(traffic)
        };
        Ok(Self {
            _both: [way(UPLINK, CLUSTER, WORKER)?, way(CLUSTER, UPLINK, OFFICE)?],
        })
    }
}

/// Octets as the words that the programs copy.
pub fn words<const N: usize>(octets: &[u8]) -> [u16; N] {
    let mut words = [0; N];
    for (word, pair) in words.iter_mut().zip(octets.chunks_exact(2)) {
        *word = u16::from_ne_bytes([pair[0], pair[1]]);
    }
    words
}
