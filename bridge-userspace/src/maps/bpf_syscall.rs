//! The commands of bpf(2) that aya has not.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use aya::Pod;
use nix::libc;

use crate::model::program::Hook;

/// `BPF_OBJ_PIN` of `enum bpf_cmd` (linux/bpf.h).
const BPF_OBJ_PIN: libc::c_int = 6;
/// `BPF_OBJ_GET` of `enum bpf_cmd` (linux/bpf.h).
const BPF_OBJ_GET: libc::c_int = 7;
/// `BPF_OBJ_GET_INFO_BY_FD` of `enum bpf_cmd` (linux/bpf.h).
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
/// `BPF_PROG_QUERY` of `enum bpf_cmd` (linux/bpf.h).
const BPF_PROG_QUERY: libc::c_int = 16;
/// `BPF_MAP_LOOKUP_BATCH` of `enum bpf_cmd` (linux/bpf.h).
const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
/// `BPF_LINK_CREATE` of `enum bpf_cmd` (linux/bpf.h).
const BPF_LINK_CREATE: libc::c_int = 28;
/// `BPF_LINK_UPDATE` of `enum bpf_cmd` (linux/bpf.h).
const BPF_LINK_UPDATE: libc::c_int = 29;
/// `BPF_LINK_DETACH` of `enum bpf_cmd` (linux/bpf.h).
const BPF_LINK_DETACH: libc::c_int = 34;

/// `BPF_XDP` of `enum bpf_attach_type` (linux/bpf.h).
const BPF_XDP: u32 = 37;
/// `BPF_TCX_INGRESS` of `enum bpf_attach_type` (linux/bpf.h).
const BPF_TCX_INGRESS: u32 = 46;
/// `BPF_TCX_EGRESS` of `enum bpf_attach_type` (linux/bpf.h).
const BPF_TCX_EGRESS: u32 = 47;
/// `BPF_F_BEFORE` (linux/bpf.h): without a program to be relative to, before all others.
const BPF_F_BEFORE: u32 = 1 << 3;
/// `XDP_FLAGS_DRV_MODE` (`linux/if_link.h`): in the driver or not at all.
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// The part of `union bpf_attr` that batch commands use (linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// The part of `union bpf_attr` that `BPF_OBJ_PIN` and `BPF_OBJ_GET` use (linux/bpf.h).
#[repr(C)]
struct ObjPinAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// The part of `union bpf_attr` that `BPF_OBJ_GET_INFO_BY_FD` uses (linux/bpf.h).
#[repr(C)]
struct ObjInfoAttr {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The first part of `struct bpf_link_info` as a TCX or XDP link fills it (linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    pad: u32,
    ifindex: u32,
}

/// The part of `union bpf_attr` that `BPF_LINK_CREATE` uses (linux/bpf.h).
#[repr(C)]
struct LinkCreateAttr {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// The part of `union bpf_attr` that `BPF_LINK_UPDATE` uses (linux/bpf.h).
#[repr(C)]
struct LinkUpdateAttr {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// The part of `union bpf_attr` that `BPF_LINK_DETACH` uses (linux/bpf.h).
#[repr(C)]
struct LinkDetachAttr {
    link_fd: u32,
}

/// The part of `union bpf_attr` that `BPF_PROG_QUERY` uses (linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct ProgQueryAttr {
    target_ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    pad: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// Calls bpf(2); what it returns is 0 or, for some commands, a new descriptor.
///
/// # Safety
/// `attr` must be what the command expects, and its pointers valid for what the command writes.
unsafe fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<RawFd> {
    // SAFETY: `attr` is a live struct of the size that is passed; the rest is the caller's promise.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<T>(),
        )
    };
    RawFd::try_from(result)
        .ok()
        .filter(|result| *result >= 0)
        .ok_or_else(io::Error::last_os_error)
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    u32::try_from(fd.as_raw_fd()).unwrap_or(u32::MAX)
}

/// Reads one batch of a hash table from `position` on (`None`: the start) and says how many entries it holds and,
/// in `next`, where to go on. After an error some entries may have been read too.
pub(crate) fn lookup_batch<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    position: Option<u32>,
    next: &mut u32,
    keys: &mut [K],
    values: &mut [V],
) -> Result<usize, (usize, io::Error)> {
    let room = keys.len().min(values.len());
    let mut attr = BatchAttr {
        in_batch: position
            .as_ref()
            .map_or(0, |position| std::ptr::from_ref(position) as u64),
        out_batch: std::ptr::from_mut(next) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: u32::try_from(room).unwrap_or(u32::MAX),
        map_fd: number(map),
        ..BatchAttr::default()
    };
    // SAFETY: every pointer is to memory that outlives the call; the kernel writes at most `count` keys and
    // values, whose types have the table's sizes and any bytes as values (`Pod`), and 4 bytes to `next`, which
    // is what a hash table's position takes.
    let result = unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) };
    let count = (attr.count as usize).min(room);
    result.map(|_| count).map_err(|error| (count, error))
}

/// A pinned link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PinnedLink {
    /// The interface that it is attached to; 0 once that is gone, or somebody has detached it.
    pub(crate) ifindex: u32,
    /// The program's id.
    pub(crate) program: u32,
}

/// What a pinned TCX or XDP link leads to.
pub(crate) fn pinned_link(pin: &Path) -> io::Result<PinnedLink> {
    let link = open_pin(pin)?;
    let mut info = LinkInfo::default();
    let mut attr = ObjInfoAttr {
        bpf_fd: number(link.as_fd()),
        info_len: u32::try_from(size_of::<LinkInfo>()).unwrap_or_default(),
        info: std::ptr::from_mut(&mut info) as u64,
    };
    // SAFETY: `info` outlives the call, and the kernel writes at most `info_len` bytes to it.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(PinnedLink {
        ifindex: info.ifindex,
        program: info.prog_id,
    })
}

/// Attaches a program to an interface by a link, TC programs by TCX before all others, XDP in the driver, and pins the
/// link. aya finds interfaces by name, and one that was deleted may have a namesake; where XDP by a link is refused with
/// `EINVAL` it would attach by netlink, and such an attachment can't be pinned.
pub(crate) fn attach_link(
    program: BorrowedFd<'_>,
    hook: Hook,
    ifindex: u32,
    pin: &Path,
) -> io::Result<()> {
    let (attach_type, flags) = match hook {
        Hook::TcIngress => (BPF_TCX_INGRESS, BPF_F_BEFORE),
        Hook::TcEgress => (BPF_TCX_EGRESS, BPF_F_BEFORE),
        Hook::Xdp => (BPF_XDP, XDP_FLAGS_DRV_MODE),
    };
    let mut attr = LinkCreateAttr {
        prog_fd: number(program),
        target_ifindex: ifindex,
        attach_type,
        flags,
    };
    // SAFETY: there are no pointers in it.
    let link = unsafe { bpf(BPF_LINK_CREATE, &mut attr) }?;
    // SAFETY: the kernel has just opened this descriptor for us.
    let link = unsafe { OwnedFd::from_raw_fd(link) };
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut attr = ObjPinAttr {
        pathname: path.as_ptr() as u64,
        bpf_fd: number(link.as_fd()),
        file_flags: 0,
    };
    // SAFETY: `path` outlives the call.
    unsafe { bpf(BPF_OBJ_PIN, &mut attr) }?;
    Ok(())
}

/// Puts another program into a pinned link, in one step.
pub(crate) fn replace_program(pin: &Path, program: BorrowedFd<'_>) -> io::Result<()> {
    let link = open_pin(pin)?;
    let mut attr = LinkUpdateAttr {
        link_fd: number(link.as_fd()),
        new_prog_fd: number(program),
        flags: 0,
        old_prog_fd: 0,
    };
    // SAFETY: there are no pointers in it.
    unsafe { bpf(BPF_LINK_UPDATE, &mut attr) }?;
    Ok(())
}

/// Detaches a pinned link at once and removes the pin. Without this the kernel detaches some time after the last
/// reference has gone (`bpf_link_put` defers it to a work queue).
pub(crate) fn detach_pinned_link(pin: &Path) -> io::Result<()> {
    let link = open_pin(pin)?;
    let mut attr = LinkDetachAttr {
        link_fd: number(link.as_fd()),
    };
    // The interface of a dead link is gone already (ENOLINK), which is as good.
    // SAFETY: there are no pointers in it.
    let _ = unsafe { bpf(BPF_LINK_DETACH, &mut attr) };
    fs::remove_file(pin)
}

/// A program at the TCX hook of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TcxProgram {
    /// The program's id.
    pub(crate) program: u32,
    /// The id of the link that it is attached by, if it is by a link.
    pub(crate) link: Option<u32>,
}

/// The programs at a TCX hook in the order in which packets meet them. None where the hook is no TCX hook, or the kernel
/// has none (before 6.6).
pub(crate) fn tcx_programs(ifindex: u32, hook: Hook) -> io::Result<Vec<TcxProgram>> {
    /// `BPF_MPROG_MAX` (`linux/bpf_mprog.h`): the kernel lets no more onto a hook.
    const MOST: usize = 64;
    let attach_type = match hook {
        Hook::TcIngress => BPF_TCX_INGRESS,
        Hook::TcEgress => BPF_TCX_EGRESS,
        Hook::Xdp => return Ok(Vec::new()),
    };
    let (mut programs, mut links) = ([0_u32; MOST], [0_u32; MOST]);
    let mut attr = ProgQueryAttr {
        target_ifindex: ifindex,
        attach_type,
        prog_ids: programs.as_mut_ptr() as u64,
        prog_cnt: u32::try_from(MOST).unwrap_or_default(),
        link_ids: links.as_mut_ptr() as u64,
        ..ProgQueryAttr::default()
    };
    // SAFETY: both arrays outlive the call, and the kernel writes at most `prog_cnt` ids to each.
    match unsafe { bpf(BPF_PROG_QUERY, &mut attr) } {
        Ok(_) => {}
        // A kernel that does not know the hook, or not all of the question.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::E2BIG)) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    }
    let count = (attr.prog_cnt as usize).min(MOST);
    let both = programs.iter().zip(&links).take(count);
    Ok(both
        .map(|(&program, &link)| TcxProgram {
            program,
            link: (link != 0).then_some(link),
        })
        .collect())
}

fn open_pin(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut attr = ObjPinAttr {
        pathname: path.as_ptr() as u64,
        bpf_fd: 0,
        file_flags: 0,
    };
    // SAFETY: `path` outlives the call.
    let link = unsafe { bpf(BPF_OBJ_GET, &mut attr) }?;
    // SAFETY: the kernel has just opened this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(link) })
}
