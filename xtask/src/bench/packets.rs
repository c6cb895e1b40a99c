//! Packet rates: what a generator sends, counted where it arrives.

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::layout::DISTINCT;
use super::plan::{Direction, Target};
use super::topology::{OFFICE, WORKER};
use super::traffic::{Counted, Generator, Sent, Sink};
use super::workload::{Setup, Workload};

/// Packets in one call of the generator.
const CHUNK: u32 = 1 << 17;
/// Packets whose checksums are verified before a measurement.
const VERIFIED: u32 = 1 << 10;
/// Number of the first new flow: above those of the other measurements, so that a new flow has never had a packet.
const FIRST_NEW: u32 = 3_000_000;

/// A generator, and a sink at either end.
pub struct Range<'a> {
    setup: Setup<'a>,
    generator: Generator,
    office: Sink,
    worker: Sink,
    /// Least duration of a measurement.
    window: Duration,
}

impl<'a> Range<'a> {
    pub fn new(setup: Setup<'a>, object: &Path, window: Duration) -> Result<Self> {
        Ok(Self {
            generator: Generator::load(object)?,
            office: Sink::attach(object, &setup.topology.office, OFFICE)?,
            worker: Sink::attach(object, &setup.topology.worker, WORKER)?,
            setup,
            window,
        })
    }

    pub fn setup(&self) -> &Setup<'a> {
        &self.setup
    }

    /// Packets delivered a second, of `flows` flows that are open already.
    pub fn rate(&mut self, direction: Direction, target: Target, flows: u32) -> Result<f64> {
        self.open(target, flows)?;
        let workload = self.setup.workload(direction, target, 0, flows)?;
        self.verify(direction, workload)?;
        self.generator.start(workload.pattern)?;
        let before = self.counted(direction)?;
        let mut total = Sent {
            packets: 0,
            elapsed: Duration::ZERO,
        };
        while total.elapsed < self.window || total.packets < u64::from(flows) {
            let sent = self.send(direction, workload, CHUNK)?;
            total.packets += sent.packets;
            total.elapsed += sent.elapsed;
        }
        self.delivered(direction, before, total)
    }

    /// Packets delivered a second, each of which opens a flow.
    pub fn new_flows(&mut self, target: Target, flows: u32) -> Result<f64> {
        let direction = Direction::Forward;
        let first = if target == Target::Pod { FIRST_NEW } else { 0 };
        ensure!(first + flows <= DISTINCT, "{flows} flows are not distinct");
        let workload = self.setup.workload(direction, target, first, flows)?;
        self.expect(direction, workload, false)?;
        self.generator.start(workload.pattern)?;
        let before = self.counted(direction)?;
        let sent = self.send(direction, workload, flows)?;
        self.delivered(direction, before, sent)
    }

    /// Packets a second at a sink on the uplink: the rate of the generator.
    pub fn ceiling(&mut self, uplink: &mut Sink, flows: u32) -> Result<f64> {
        let direction = Direction::Forward;
        let workload = self.setup.workload(direction, Target::Pod, 0, flows)?;
        self.generator.start(workload.pattern)?;
        let mut expectation = workload.expectation;
        expectation.tunnel_port = 0;
        uplink.expect(expectation)?;
        let mut total = Sent {
            packets: 0,
            elapsed: Duration::ZERO,
        };
        while total.elapsed < self.window {
            let sent = self.send(direction, workload, CHUNK)?;
            total.packets += sent.packets;
            total.elapsed += sent.elapsed;
        }
        rate(Counted::default(), uplink.counted()?, total)
    }

    /// Sends each flow the packet that opens it, twice, as the path may lose packets under load.
    pub fn open(&mut self, target: Target, flows: u32) -> Result<()> {
        let direction = Direction::Forward;
        let workload = self.setup.workload(direction, target, 0, flows)?;
        self.expect(direction, workload, false)?;
        self.generator.start(workload.pattern)?;
        for _ in 0..2 {
            self.send(direction, workload, flows.max(VERIFIED))?;
        }
        Ok(())
    }

    /// Checks before a measurement that packets arrive as expected.
    fn verify(&mut self, direction: Direction, workload: Workload) -> Result<()> {
        self.expect(direction, workload, true)?;
        self.generator.start(workload.pattern)?;
        let before = self.counted(direction)?;
        self.send(direction, workload, VERIFIED)?;
        let after = self.counted(direction)?;
        let bad = after.bad_checksum - before.bad_checksum;
        ensure!(
            bad == 0,
            "{bad} of {VERIFIED} packets arrive with a wrong checksum"
        );
        let sent = Sent {
            packets: VERIFIED.into(),
            elapsed: Duration::from_secs(1),
        };
        rate(before, after, sent)?;
        self.expect(direction, workload, false)
    }

    fn expect(&mut self, direction: Direction, workload: Workload, verify: bool) -> Result<()> {
        let mut expectation = workload.expectation;
        expectation.verify = verify.into();
        match direction {
            Direction::Forward => self.worker.expect(expectation),
            Direction::Reply => self.office.expect(expectation),
        }
    }

    fn send(&mut self, direction: Direction, workload: Workload, count: u32) -> Result<Sent> {
        let from = match direction {
            Direction::Forward => &self.setup.topology.office,
            Direction::Reply => &self.setup.topology.worker,
        };
        let encapsulated = workload.pattern.encapsulated != 0;
        self.generator.send(from, encapsulated, count)
    }

    fn counted(&self, direction: Direction) -> Result<Counted> {
        // The last packets may not have arrived yet.
        thread::sleep(Duration::from_millis(2));
        match direction {
            Direction::Forward => self.worker.counted(),
            Direction::Reply => self.office.counted(),
        }
    }

    fn delivered(&self, direction: Direction, before: Counted, sent: Sent) -> Result<f64> {
        rate(before, self.counted(direction)?, sent)
    }
}

/// Rate of the packets that arrived as expected; an error if other ones arrived.
#[expect(clippy::cast_precision_loss, reason = "millions")]
fn rate(before: Counted, after: Counted, sent: Sent) -> Result<f64> {
    let expected = after.expected - before.expected;
    let other = after.other - before.other;
    if other * 50 > sent.packets {
        bail!(
            "of {} packets {other} arrive untranslated or as something else, {expected} as expected",
            sent.packets
        );
    }
    ensure!(
        expected * 4 >= sent.packets,
        "of {} packets only {expected} arrive",
        sent.packets
    );
    Ok(expected as f64 / sent.elapsed.as_secs_f64())
}
