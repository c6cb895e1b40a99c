//! Packet rates: what a generator sends, counted where it arrives.

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::layout::DISTINCT;
use super::plan::{Direction, Target};
use super::stage::{Scene, Stage};
use super::topology::{OFFICE, WORKER};
use super::traffic::{Counted, Generator, Sent, Sink};

/// Packets of one run of the generator.
const CHUNK: u32 = 1 << 17;
/// Packets whose checksums are verified before a measurement.
const VERIFIED: u32 = 1 << 10;
/// New flows have numbers from here on, so that others may be measured after them.
const FIRST_NEW: u32 = 3_000_000;

/// A topology with a generator and with a sink at either end.
pub struct Range<'a> {
    stage: Stage<'a>,
    generator: Generator,
    office: Sink,
    worker: Sink,
    /// At least so long is measured.
    window: Duration,
}

impl<'a> Range<'a> {
    /// Attaches the sinks.
    pub fn new(stage: Stage<'a>, object: &Path, window: Duration) -> Result<Self> {
        Ok(Self {
            generator: Generator::load(object)?,
            office: Sink::attach(object, &stage.topology.office, OFFICE)?,
            worker: Sink::attach(object, &stage.topology.worker, WORKER)?,
            stage,
            window,
        })
    }

    /// What is where.
    pub fn stage(&self) -> &Stage<'a> {
        &self.stage
    }

    /// Delivered packets a second of `flows` flows, each of which has had packets before.
    pub fn rate(&mut self, direction: Direction, target: Target, flows: u32) -> Result<f64> {
        self.open(target, flows)?;
        let scene = self.stage.scene(direction, target, 0, flows)?;
        self.verify(direction, scene)?;
        self.generator.start(scene.pattern)?;
        let before = self.counted(direction)?;
        let mut total = Sent {
            packets: 0,
            elapsed: Duration::ZERO,
        };
        while total.elapsed < self.window || total.packets < u64::from(flows) {
            let sent = self.send(direction, scene, CHUNK)?;
            total.packets += sent.packets;
            total.elapsed += sent.elapsed;
        }
        self.delivered(direction, before, total)
    }

    /// Delivered packets a second where each opens a flow.
    pub fn new_flows(&mut self, target: Target, flows: u32) -> Result<f64> {
        let direction = Direction::Forward;
        let first = if target == Target::Pod { FIRST_NEW } else { 0 };
        ensure!(first + flows <= DISTINCT, "{flows} flows are not distinct");
        let scene = self.stage.scene(direction, target, first, flows)?;
        self.expect(direction, scene, false)?;
        self.generator.start(scene.pattern)?;
        let before = self.counted(direction)?;
        let sent = self.send(direction, scene, flows)?;
        self.delivered(direction, before, sent)
    }

    /// What a sink at the uplink counts.
    pub fn ceiling(&mut self, uplink: &mut Sink, flows: u32) -> Result<f64> {
        let direction = Direction::Forward;
        let scene = self.stage.scene(direction, Target::Pod, 0, flows)?;
        self.generator.start(scene.pattern)?;
        let mut expectation = scene.expectation;
        expectation.tunnel_port = 0;
        uplink.expect(expectation)?;
        let mut total = Sent {
            packets: 0,
            elapsed: Duration::ZERO,
        };
        while total.elapsed < self.window {
            let sent = self.send(direction, scene, CHUNK)?;
            total.packets += sent.packets;
            total.elapsed += sent.elapsed;
        }
        rate(Counted::default(), uplink.counted()?, total)
    }

    /// Lets each flow have a packet that opens it. The path may lose some under load: they get a second one.
    pub fn open(&mut self, target: Target, flows: u32) -> Result<()> {
        let direction = Direction::Forward;
        let scene = self.stage.scene(direction, target, 0, flows)?;
        self.expect(direction, scene, false)?;
        self.generator.start(scene.pattern)?;
        for _ in 0..2 {
            self.send(direction, scene, flows.max(VERIFIED))?;
        }
        Ok(())
    }

    /// Checks that packets arrive, and arrive right, before their rate is measured.
    fn verify(&mut self, direction: Direction, scene: Scene) -> Result<()> {
        self.expect(direction, scene, true)?;
        self.generator.start(scene.pattern)?;
        let before = self.counted(direction)?;
        self.send(direction, scene, VERIFIED)?;
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
        self.expect(direction, scene, false)
    }

    fn expect(&mut self, direction: Direction, scene: Scene, verify: bool) -> Result<()> {
        let mut expectation = scene.expectation;
        expectation.verify = verify.into();
        match direction {
            Direction::Forward => self.worker.expect(expectation),
            Direction::Reply => self.office.expect(expectation),
        }
    }

    fn send(&mut self, direction: Direction, scene: Scene, count: u32) -> Result<Sent> {
        let from = match direction {
            Direction::Forward => &self.stage.topology.office,
            Direction::Reply => &self.stage.topology.worker,
        };
        let encapsulated = scene.pattern.encapsulated != 0;
        self.generator.send(from, encapsulated, count)
    }

    fn counted(&self, direction: Direction) -> Result<Counted> {
        // The last packets may still be on their way.
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

/// Packets a second that arrived as they should; an error if that is not what the path does.
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
