//! Loading the programs over the pinned tables.

use std::io;

use aya::maps::ProgramArray;
use aya::programs::{ProgramError, ProgramFd, SchedClassifier, Xdp};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfError, EbpfLoader, VerifierLogLevel, include_bytes_aligned};

use bridge_common::abi::name;

use crate::maps::{LayoutError, Pins, schema};
use crate::model::program::{Hook, Program};

/// The eBPF object that `cargo xtask build` makes.
static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/office-bridge.bpf.o"));

/// [`Program::XdpFast`] for packets in several buffers too (kernel 5.18), so for MTUs above what fits into a page.
const XDP_FRAGS: &str = "xdp_fast_frags";

/// Opens flows for [`Program::XdpFast`].
const XDP_OPEN: &str = "xdp_open";

/// Opens flows for [`XDP_FRAGS`].
const XDP_OPEN_FRAGS: &str = "xdp_open_frags";

/// Goes on with fragments behind [`Program::UplinkIngress`] and [`Program::ClusterIngress`].
const TC_FRAGMENT: &str = "fragment_ingress";

/// The programs could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// This binary holds no programs.
    #[error("this binary was built without its eBPF program; build it with `cargo xtask build`")]
    NoObject,
    /// The pin directory can't be made.
    #[error(
        "can't create {path}: {source}; is a bpf filesystem mounted there? (`mount -t bpf bpf /sys/fs/bpf`)"
    )]
    PinDirectory {
        /// The directory.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A pinned table is of another kind.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The object could not be loaded.
    #[error("the eBPF object can't be loaded: {0}")]
    Object(#[from] EbpfError),
    /// A program was refused.
    #[error("the kernel refuses the program {name}: {source}")]
    Program {
        /// The program.
        name: &'static str,
        /// What the kernel said, verifier log included.
        source: ProgramError,
    },
    /// The object lacks a program.
    #[error("the eBPF object has no program {0} of its kind; the build is broken")]
    Missing(&'static str),
}

/// In how many buffers the driver may hand over a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Buffers {
    /// One.
    One,
    /// Several (XDP frags, kernel 5.18): some drivers run no other program with a large MTU.
    Several,
}

impl Buffers {
    /// What this kernel knows, in the order of trying.
    #[must_use]
    pub fn known() -> &'static [Self] {
        let has_frags =
            KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(5, 18, 0));
        if has_frags {
            &[Self::One, Self::Several]
        } else {
            &[Self::One]
        }
    }
}

/// The loaded programs. Dropping it detaches nothing: links and tables are pinned.
pub struct Datapath {
    pub(super) ebpf: Ebpf,
    pins: Pins,
    flow_capacity: u32,
}

impl Datapath {
    /// Loads the programs, over the tables of an earlier `run` where there are some. Nothing is attached
    /// yet; after an error nothing new is left behind.
    ///
    /// # Errors
    /// When pinned tables don't fit or the kernel refuses.
    pub fn load(pins: &Pins, flow_capacity: u32) -> Result<Self, LoadError> {
        if OBJECT.is_empty() {
            return Err(LoadError::NoObject);
        }
        schema::check(pins, flow_capacity)?;
        let is_new = !pins.exist();
        let loaded = Self::load_pinned(pins, flow_capacity);
        if loaded.is_err() && is_new {
            // The first error is the one to tell.
            let _ = pins.remove_layout();
        }
        loaded
    }

    fn load_pinned(pins: &Pins, flow_capacity: u32) -> Result<Self, LoadError> {
        pins.create().map_err(|source| LoadError::PinDirectory {
            path: pins.root().display().to_string(),
            source,
        })?;
        let mut ebpf = object(pins, flow_capacity)?;
        load_fragment_program(&mut ebpf)?;
        for program in Program::ALL {
            if program.hook() == Hook::Xdp {
                continue;
            }
            let name = program.name();
            classifier(&mut ebpf, program)?
                .load()
                .map_err(|source| LoadError::Program { name, source })?;
        }
        Ok(Self {
            ebpf,
            pins: pins.clone(),
            flow_capacity,
        })
    }

    /// Where tables and links are pinned.
    #[must_use]
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// A second copy of a TC program over the same tables, for the moment in which the first one changes its place.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub(super) fn stand_in(&self, program: Program) -> Result<Ebpf, LoadError> {
        let mut ebpf = object(&self.pins, self.flow_capacity)?;
        let name = program.name();
        classifier(&mut ebpf, program)?
            .load()
            .map_err(|source| LoadError::Program { name, source })?;
        Ok(ebpf)
    }

    /// The XDP program, loaded by the first call: without XDP nobody has to wait for its verification. With it comes the
    /// one that it lets go on with the first packets of flows.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn xdp(&mut self, buffers: Buffers) -> Result<&mut Xdp, LoadError> {
        let (name, next, table) = match buffers {
            Buffers::One => (Program::XdpFast.name(), XDP_OPEN, name::XDP_NEXT),
            Buffers::Several => (XDP_FRAGS, XDP_OPEN_FRAGS, name::XDP_NEXT_FRAGS),
        };
        if xdp_program(&mut self.ebpf, name)?.fd().is_err() {
            let failed = |source| LoadError::Program { name: next, source };
            let program = xdp_program(&mut self.ebpf, next)?;
            program.load().map_err(failed)?;
            let fd = program.fd().and_then(|fd| Ok(fd.try_clone()?));
            set_next(&mut self.ebpf, table, next, fd)?;
            xdp_program(&mut self.ebpf, name)?
                .load()
                .map_err(|source| LoadError::Program { name, source })?;
        }
        xdp_program(&mut self.ebpf, name)
    }

    /// The loaded object, for its log.
    pub fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }
}

/// The object over the pinned tables, with no program loaded yet.
fn object(pins: &Pins, flow_capacity: u32) -> Result<Ebpf, LoadError> {
    let mut loader = EbpfLoader::new();
    // The full log of a refused program is megabytes: the last words say why, the rest is for those
    // who ask for it.
    loader.verifier_log_level(if tracing::enabled!(tracing::Level::TRACE) {
        VerifierLogLevel::VERBOSE | VerifierLogLevel::STATS
    } else {
        VerifierLogLevel::STATS
    });
    for table in schema::pinned() {
        loader.map_pin_path(table.name, pins.table(table.name));
        loader.map_max_entries(table.name, table.entries(flow_capacity));
    }
    Ok(loader.load(OBJECT)?)
}

/// Loads what the TC programs go on with. It is there before any of them is, and in the place of an earlier process's.
fn load_fragment_program(ebpf: &mut Ebpf) -> Result<(), LoadError> {
    let failed = |source| LoadError::Program {
        name: TC_FRAGMENT,
        source,
    };
    let program = tc_program(ebpf, TC_FRAGMENT)?;
    program.load().map_err(failed)?;
    let fd = program.fd().and_then(|fd| Ok(fd.try_clone()?));
    set_next(ebpf, name::TC_NEXT, TC_FRAGMENT, fd)
}

/// Puts a loaded program into the table of the one that goes on with it.
fn set_next(
    ebpf: &mut Ebpf,
    table: &str,
    name: &'static str,
    fd: Result<ProgramFd, ProgramError>,
) -> Result<(), LoadError> {
    let failed = |source| LoadError::Program { name, source };
    let fd = fd.map_err(failed)?;
    let table = ebpf.map_mut(table).ok_or(LoadError::Missing(name))?;
    ProgramArray::try_from(table)
        .and_then(|mut table| table.set(0, &fd, 0))
        .map_err(|source| failed(source.into()))
}

fn xdp_program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, LoadError> {
    ebpf.program_mut(name)
        .ok_or(LoadError::Missing(name))?
        .try_into()
        .map_err(|_| LoadError::Missing(name))
}

pub(super) fn classifier(
    ebpf: &mut Ebpf,
    program: Program,
) -> Result<&mut SchedClassifier, LoadError> {
    tc_program(ebpf, program.name())
}

fn tc_program<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, LoadError> {
    ebpf.program_mut(name)
        .ok_or(LoadError::Missing(name))?
        .try_into()
        .map_err(|_| LoadError::Missing(name))
}
