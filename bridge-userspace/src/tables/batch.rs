//! Reading a hash table in batches (`BPF_MAP_LOOKUP_BATCH`, kernel 5.6): thousands of entries a system call,
//! and no key to stumble over when entries are removed meanwhile, as `BPF_MAP_GET_NEXT_KEY` does
//! (Documentation/bpf/map_hash.rst).

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};

use aya::Pod;
use aya::maps::MapData;
use nix::libc;

/// `BPF_MAP_LOOKUP_BATCH` of `enum bpf_cmd` (linux/bpf.h).
const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;

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

/// Entries asked for at once. A batch is whole buckets, so this grows when one bucket holds more.
const CHUNK: usize = 4_096;

pub(super) fn read_all<K: Pod + Default, V: Pod + Default>(
    map: &MapData,
) -> io::Result<Vec<(K, V)>> {
    let mut entries = Vec::new();
    let mut position: Option<u32> = None;
    let mut chunk = CHUNK;
    loop {
        let mut keys = vec![K::default(); chunk];
        let mut values = vec![V::default(); chunk];
        let mut next = 0;
        let outcome = lookup_batch(
            map.fd().as_fd(),
            position,
            &mut next,
            &mut keys,
            &mut values,
        );
        let (count, is_last) = match outcome {
            Ok(count) => (count, false),
            Err((count, error)) => match error.raw_os_error() {
                Some(libc::ENOENT) => (count, true),
                Some(libc::ENOSPC) => {
                    chunk *= 2;
                    continue;
                }
                _ => return Err(error),
            },
        };
        entries.extend(keys.into_iter().zip(values).take(count));
        if is_last {
            return Ok(entries);
        }
        position = Some(next);
    }
}

/// One batch; how many entries it holds. After an error some may be there too.
fn lookup_batch<K: Pod, V: Pod>(
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
        map_fd: u32::try_from(map.as_raw_fd()).unwrap_or(u32::MAX),
        ..BatchAttr::default()
    };
    // SAFETY: every pointer is to memory that outlives the call; the kernel writes at most `count` keys
    // and values, whose types have the table's sizes and any bytes as values (`Pod`), and 4 bytes to
    // `next`, which is what a hash table's position takes.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_MAP_LOOKUP_BATCH,
            std::ptr::from_mut(&mut attr),
            size_of::<BatchAttr>(),
        )
    };
    let count = (attr.count as usize).min(room);
    if result == 0 {
        Ok(count)
    } else {
        Err((count, io::Error::last_os_error()))
    }
}
