//! A program of somebody else at a TC hook.

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType, tc};

use super::host::Host;
use crate::machine::bpf_object;

/// `TC_ACT_UNSPEC` and `TCX_NEXT` (linux/bpf.h): the next one goes on.
pub const NEXT: i32 = -1;
/// `TC_ACT_OK` (`linux/pkt_cls.h`): to the kernel, past all others.
pub const OK: i32 = 0;

/// The program's name.
const NAME: &str = "foreign";

/// A TC program that does nothing but return a verdict. Dropped, it is gone from where it was attached by TCX; a filter stays.
#[derive(Debug)]
pub struct Foreign(Ebpf);

impl Foreign {
    /// Loads it.
    pub fn load(verdict: i32) -> Result<Self> {
        let object = bpf_object::returning("classifier", NAME, verdict)?;
        let mut foreign = Self(Ebpf::load(&object).context("load the object")?);
        foreign.program()?.load().context("load the program")?;
        Ok(foreign)
    }

    /// The name and the id, as office-bridge tells them.
    pub fn shown(&mut self) -> Result<String> {
        let id = self.program()?.info()?.id();
        Ok(format!("`{NAME}` (program {id})"))
    }

    /// Attaches it to the ingress of an interface by TCX, before all others.
    pub fn attach_first(&mut self, host: &Host, interface: &str) -> Result<()> {
        let program = self.program()?;
        host.run_in(|| {
            let order = TcAttachOptions::TcxOrder(LinkOrder::first());
            program.attach_with_options(interface, TcAttachType::Ingress, order)?;
            Ok(())
        })
    }

    /// Attaches it to the ingress of an interface as a filter, in the place of the one that is there if there is one.
    pub fn attach_filter(&mut self, host: &Host, interface: &str, priority: u16) -> Result<()> {
        let handle = TcHandle::new(0, 1);
        let program = self.program()?;
        host.run_in(|| {
            // There may be one already.
            let _ = tc::qdisc_add_clsact(interface);
            let options = TcAttachOptions::Netlink(NlOptions {
                priority,
                handle,
                classid: None,
            });
            let hook = TcAttachType::Ingress;
            let link = match program.attach_with_options(interface, hook, options) {
                Ok(link) => link,
                Err(_) => program.attach_to_link(SchedClassifierLink::attached(
                    interface, hook, priority, handle, None,
                )?)?,
            };
            // It would be detached in the namespace of whoever drops it.
            std::mem::forget(program.take_link(link)?);
            Ok(())
        })
    }

    fn program(&mut self) -> Result<&mut SchedClassifier> {
        let program = self.0.program_mut(NAME).context("no program")?;
        Ok(program.try_into()?)
    }
}
