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

/// Frames in one batch of the kernel (`batch_size` of `BPF_PROG_TEST_RUN`).
const BATCH: u32 = 64;

// SAFETY: plain integers without padding.
unsafe impl Pod for Pattern {}
// SAFETY: plain integers without padding.
unsafe impl Pod for Expectation {}
// SAFETY: plain integers without padding.
unsafe impl Pod for Detour {}

/// The loaded object. Its programs share tables; two loads share none.
pub struct Traffic {
    ebpf: Ebpf,
}

impl Traffic {
    /// Opens the object file and makes its tables; the programs are loaded when they are asked for.
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

    /// Loads an XDP program.
    pub fn xdp(&mut self, name: &str) -> Result<&mut Xdp> {
        let program: &mut Xdp = self.program(name)?.try_into()?;
        if program.fd().is_err() {
            program.load().with_context(|| format!("load {name}"))?;
        }
        Ok(program)
    }

    /// Loads a TC program.
    pub fn tc(&mut self, name: &str) -> Result<&mut SchedClassifier> {
        let program: &mut SchedClassifier = self.program(name)?.try_into()?;
        if program.fd().is_err() {
            program.load().with_context(|| format!("load {name}"))?;
        }
        Ok(program)
    }

    /// Writes the entry of a table that has one.
    pub fn set<V: Pod>(&mut self, table: &str, value: V) -> Result<()> {
        Array::<_, V>::try_from(self.map_mut(table)?)?
            .set(0, value, 0)
            .with_context(|| format!("write {table}"))
    }

    pub fn map_mut(&mut self, table: &str) -> Result<&mut Map> {
        self.ebpf
            .map_mut(table)
            .with_context(|| format!("the object has no table {table}"))
    }

    /// Attaches the XDP program `name` to an interface until this value is dropped.
    fn attach(&mut self, name: &str, namespace: &Namespace, end: End) -> Result<()> {
        let program = self.xdp(name)?;
        namespace
            .run_in(|| Ok(program.attach(end.name, XdpMode::Driver)?))
            .map(drop)
            .with_context(|| format!("attach {name} to {}", end.name))
    }
}

/// The packet generator.
pub struct Generator(Traffic);

/// What the generator has sent.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    pub packets: u64,
    /// Time from the first packet to the last one, including the work of the path.
    pub elapsed: Duration,
}

impl Generator {
    pub fn load(object: &Path) -> Result<Self> {
        let mut traffic = Traffic::load(object)?;
        traffic.xdp("generator")?;
        Ok(Self(traffic))
    }

    /// Sets the pattern; the next packet is that of its first flow.
    pub fn start(&mut self, pattern: Pattern) -> Result<()> {
        self.0.set("pattern", pattern)?;
        self.0.set("position", 0_u32)
    }

    /// Sends the next `count` packets of the pattern from the namespace that the interface is in.
    pub fn send(&mut self, from: &Namespace, encapsulated: bool, count: u32) -> Result<Sent> {
        let frame = vec![0; FRAME + if encapsulated { ENCAPSULATION } else { 0 }];
        let program = self.0.xdp("generator")?;
        let sent = from.run_in(|| {
            machine::pin_thread(Cpu::Last)?;
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

/// The time in which packets were sent and forwarded, from the time of the whole call and the time that the kernel
/// reports. The kernel leaves out the 20 to 60 ms in which it installs and removes the generator (RCU grace periods), but
/// also the time in which it yields to other threads, and these may be forwarding packets.
fn on_the_way(counted: Duration, call: Duration) -> Duration {
    const AROUND: Duration = Duration::from_millis(80);
    counted.max(call.saturating_sub(AROUND))
}

/// The counters of a sink, in packets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted {
    /// IPv4 packets as expected.
    pub expected: u64,
    /// Other IPv4 packets.
    pub other: u64,
    /// Packets with a wrong checksum.
    pub bad_checksum: u64,
}

/// Drops and counts what arrives at an interface.
pub struct Sink(Traffic);

impl Sink {
    pub fn attach(object: &Path, namespace: &Namespace, end: End) -> Result<Self> {
        let mut traffic = Traffic::load(object)?;
        traffic.attach("sink", namespace, end)?;
        Ok(Self(traffic))
    }

    /// Sets which packets are expected, and resets the counters.
    pub fn expect(&mut self, expectation: Expectation) -> Result<()> {
        self.0.set("expectation", expectation)
    }

    /// The counters, summed over all CPUs.
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

/// The plain XDP redirect, in both directions.
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

/// Octets in the words that the programs copy.
pub fn words<const N: usize>(octets: &[u8]) -> [u16; N] {
    let mut words = [0; N];
    for (word, pair) in words.iter_mut().zip(octets.chunks_exact(2)) {
        *word = u16::from_ne_bytes([pair[0], pair[1]]);
    }
    words
}
