//! Reading a hash table or an array in batches (`BPF_MAP_LOOKUP_BATCH`, kernel 5.6): thousands of entries a system call,
//! and no key to stumble over when entries are removed meanwhile, as `BPF_MAP_GET_NEXT_KEY` does
//! (`Documentation/bpf/map_hash.rst`).

use std::io;
use std::os::fd::AsFd as _;

use aya::Pod;
use aya::maps::MapData;
use nix::libc;

use crate::maps::bpf_syscall::lookup_batch;

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
