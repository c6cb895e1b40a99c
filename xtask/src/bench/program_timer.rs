//! Measures the time that a program takes for the packets of a pattern.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::maps::ProgramArray;
use aya::programs::{ProgramFd, TestRun as _, TestRunOptions};
use lab::netns::Namespace;

use super::layout::{ENCAPSULATION, FRAME, Pattern};
use super::machine::{self, Cpu};
use super::traffic::Traffic;

/// A program that calls the measured one, through `BPF_PROG_TEST_RUN`.
pub struct ProgramTimer(Traffic);

/// The hook of the measured program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Tc,
    Xdp {
        /// Index of the interface that the packet comes from, in the namespace of the run.
        ingress: u32,
    },
}

impl ProgramTimer {
    pub fn load(object: &Path) -> Result<Self> {
        Traffic::load(object).map(Self)
    }

    /// The program that returns at once: its time is that of the call.
    pub fn baseline(&mut self, hook: Hook) -> Result<ProgramFd> {
        let fd = match hook {
            Hook::Tc => self.0.tc("pass_tc")?.fd()?,
            Hook::Xdp { .. } => self.0.xdp("pass_xdp")?.fd()?,
        };
        fd.try_clone().context("duplicate a descriptor")
    }

    /// Mean nanoseconds of `count` packets of `pattern`, and the verdict of the last one.
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
        // The kernel reads the EtherType once, before the first packet.
        frame[12] = 0x08;
        match hook {
            Hook::Tc => {
                self.0.tc("measure_tc")?;
                self.jump_to("measured_tc", program)?;
                let measure = self.0.tc("measure_tc")?;
                within.run_in(|| {
                    machine::pin_thread(Cpu::Last)?;
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
                machine::pin_thread(Cpu::Last)?;
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
