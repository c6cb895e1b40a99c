//! The commands of bpf(2) that aya has not.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use aya::Pod;
use nix::libc;

/// `BPF_OBJ_GET` of `enum bpf_cmd` (linux/bpf.h).
const BPF_OBJ_GET: libc::c_int = 7;
/// `BPF_OBJ_GET_INFO_BY_FD` of `enum bpf_cmd` (linux/bpf.h).
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
/// `BPF_MAP_LOOKUP_BATCH` of `enum bpf_cmd` (linux/bpf.h).
const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
/// `BPF_LINK_DETACH` of `enum bpf_cmd` (linux/bpf.h).
const BPF_LINK_DETACH: libc::c_int = 34;

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

/// The part of `union bpf_attr` that `BPF_OBJ_GET` uses (linux/bpf.h).
#[repr(C)]
struct ObjGetAttr {
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

/// The first part of `struct bpf_link_info` as a TCX link fills it (linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct TcxLinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    pad: u32,
    ifindex: u32,
    attach_type: u32,
}

/// The part of `union bpf_attr` that `BPF_LINK_DETACH` uses (linux/bpf.h).
#[repr(C)]
struct LinkDetachAttr {
    link_fd: u32,
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

/// The interface that a pinned TCX link is attached to; 0 once that interface is gone.
pub(crate) fn pinned_tcx_ifindex(pin: &Path) -> io::Result<u32> {
    let link = open_pin(pin)?;
    let mut info = TcxLinkInfo::default();
    let mut attr = ObjInfoAttr {
        bpf_fd: number(link.as_fd()),
        info_len: u32::try_from(size_of::<TcxLinkInfo>()).unwrap_or_default(),
        info: std::ptr::from_mut(&mut info) as u64,
    };
    // SAFETY: `info` outlives the call, and the kernel writes at most `info_len` bytes to it.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(info.ifindex)
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

fn open_pin(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut attr = ObjGetAttr {
        pathname: path.as_ptr() as u64,
        bpf_fd: 0,
        file_flags: 0,
    };
    // SAFETY: `path` outlives the call.
    let link = unsafe { bpf(BPF_OBJ_GET, &mut attr) }?;
    // SAFETY: the kernel has just opened this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(link) })
}
