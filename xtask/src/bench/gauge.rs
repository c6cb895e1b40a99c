//! Runs a program on packets of a pattern, and takes the time.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::maps::ProgramArray;
use aya::programs::{ProgramFd, TestRun as _, TestRunOptions};
use lab::netns::Namespace;

use super::layout::{ENCAPSULATION, FRAME, Pattern};
use super::machine::{self, Cpu};
use super::traffic::Traffic;

/// Runs another program over and over on packets of a pattern.
pub struct Gauge(Traffic);

/// Which hook the measured program is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// TC.
    Tc,
    /// XDP; tells the interface that the packet comes in by.
    Xdp {
        /// Index of the interface, in the namespace that it is run in.
        ingress: u32,
    },
}

impl Gauge {
    /// Loads it.
    pub fn load(object: &Path) -> Result<Self> {
        Traffic::load(object).map(Self)
    }

    /// The program that passes everything on at once.
    pub fn baseline(&mut self, hook: Hook) -> Result<ProgramFd> {
        let fd = match hook {
            Hook::Tc => self.0.tc("pass_tc")?.fd()?,
            Hook::Xdp { .. } => self.0.xdp("pass_xdp")?.fd()?,
        };
        fd.try_clone().context("duplicate a descriptor")
    }

    /// Nanoseconds for each of `count` packets of `pattern`, and the last verdict.
    pub fn run(
        &mut self,
        within: &Namespace,
        hook: Hook,
        program: &ProgramFd,
        pattern: Pattern,
        count: u32,
    ) -> Result<(f64, u32)> {
        self.0.set("pattern", pattern)?;
        self.0.set("position", 0_u32)?;
        let tunnel = if pattern.encapsulated == 0 {
            0
        } else {
            ENCAPSULATION
        };
        let mut frame = vec![0; FRAME + tunnel];
        // What kind of packet it is the kernel reads once, before it starts.
        frame[12] = 0x08;
        match hook {
            Hook::Tc => {
                self.0.tc("measure_tc")?;
                self.jump_to("measured_tc", program)?;
                let measure = self.0.tc("measure_tc")?;
                within.run_in(|| {
                    machine::stay_on(Cpu::Last)?;
                    let result = measure.test_run(TestRunOptions {
                        data_in: Some(&frame),
                        repeat: count,
                        ..TestRunOptions::default()
                    })?;
                    Ok((nanoseconds(result.duration), result.return_value))
                })
            }
            Hook::Xdp { ingress } => self.run_xdp(within, ingress, program, &frame, count),
        }
    }

    fn run_xdp(
        &mut self,
        within: &Namespace,
        ingress: u32,
        program: &ProgramFd,
        frame: &[u8],
        count: u32,
    ) -> Result<(f64, u32)> {
        // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let length = u32::try_from(frame.len()).context("a short frame")?;
        let context = [0, length, 0, ingress, 0, 0].map(u32::to_ne_bytes).concat();
        let mut refused = None;
        for (name, table) in [
            ("measure_xdp", "measured_xdp"),
            ("measure_frags", "measured_frags"),
        ] {
            self.0.xdp(name)?;
            if let Err(error) = self.jump_to(table, program) {
                refused = Some(error);
                continue;
            }
            let measure = self.0.xdp(name)?;
            return within.run_in(|| {
                machine::stay_on(Cpu::Last)?;
                let result = measure.test_run(TestRunOptions {
                    data_in: Some(frame),
                    ctx_in: Some(&context),
                    repeat: count,
                    ..TestRunOptions::default()
                })?;
                Ok((nanoseconds(result.duration), result.return_value))
            });
        }
        Err(refused.context("no program runs another")?)
    }

    fn jump_to(&mut self, table: &str, program: &ProgramFd) -> Result<()> {
        let map = self.0.map_mut(table)?;
        ProgramArray::try_from(map)?
            .set(0, program, 0)
            .context("the kernel does not run the program after the one that measures it")
    }
}

fn nanoseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e9
}
