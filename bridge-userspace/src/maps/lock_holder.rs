//! Who holds a lock that anybody may have taken.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;

use nix::sys::stat::{major, minor};
use procfs::process::{Process, all_processes};
use procfs::{Lock, LockType};

use super::trust::is_trusted_user;

/// Whether a lock is held by somebody who has no business with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stranger {
    /// A process of root's or of our own user holds it.
    None,
    /// A process of another user does.
    Is {
        /// The process.
        pid: i32,
        /// Its real user, which a set-user-ID program does not change.
        user: u32,
    },
    /// No holder can be seen: it is in another pid namespace.
    Unknown,
}

/// Who holds the `flock` of a file.
pub fn stranger(file: &File) -> Stranger {
    let Ok(id) = file.metadata().map(|found| (found.dev(), found.ino())) else {
        return Stranger::Unknown;
    };
    let mut found = holders(id);
    if found.is_empty() {
        // To see the open files of another user's process takes CAP_SYS_PTRACE.
        found = lockers(id);
    }
    judge(&found)
}

/// A process that has an open file with the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Holder {
    pid: i32,
    user: u32,
    is_trusted: bool,
}

impl Holder {
    fn of(pid: i32) -> Option<Self> {
        let status = Process::new(pid).and_then(|process| process.status());
        // Not the owner of /proc/PID, which is root for whoever asks not to be dumped.
        let user = status.ok()?.ruid;
        Some(Self {
            pid,
            user,
            is_trusted: is_trusted_user(user),
        })
    }
}

/// A stranger holds it if nobody else does.
fn judge(holders: &[Holder]) -> Stranger {
    match holders {
        [] => Stranger::Unknown,
        holders if holders.iter().any(|holder| holder.is_trusted) => Stranger::None,
        [holder, ..] => Stranger::Is {
            pid: holder.pid,
            user: holder.user,
        },
    }
}

/// All processes that have the lock, as it goes with an open file from one to its children. `/proc/locks` names who has
/// taken it, who may have ended.
fn holders(id: (u64, u64)) -> Vec<Holder> {
    let processes = all_processes().into_iter().flatten().flatten();
    processes
        .map(|process| process.pid)
        .filter(|&pid| has_lock(pid, id))
        .filter_map(Holder::of)
        .collect()
}

/// Who has taken the lock, of those that still run.
fn lockers((device, inode): (u64, u64)) -> Vec<Holder> {
    let is_it = |lock: &Lock| {
        matches!(lock.lock_type, LockType::FLock)
            && lock.inode == inode
            && u64::from(lock.devmaj) == major(device)
            && u64::from(lock.devmin) == minor(device)
    };
    let locks = procfs::locks().into_iter().flatten().filter(is_it);
    locks.filter_map(|lock| Holder::of(lock.pid?)).collect()
}

fn has_lock(pid: i32, id: (u64, u64)) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd"));
    let mut descriptors = descriptors.into_iter().flatten().flatten();
    descriptors.any(|entry| {
        let found = fs::metadata(entry.path());
        let is_it = found.is_ok_and(|found| (found.dev(), found.ino()) == id);
        let number = entry.file_name();
        is_it
            && fs::read_to_string(format!("/proc/{pid}/fdinfo/{}", number.display()))
                .is_ok_and(|text| is_locked(&text))
    })
}

/// Whether an open file has a lock: `lock: 1: FLOCK  ADVISORY  WRITE 359 00:13:11691 0 EOF` (`proc_pid_fdinfo(5)`).
fn is_locked(information: &str) -> bool {
    let mut lines = information.lines();
    lines.any(|line| line.starts_with("lock:") && line.contains("FLOCK"))
}

#[cfg(test)]
mod tests {
    use nix::fcntl::{Flock, FlockArg};

    use super::*;

    fn holder(pid: i32, is_trusted: bool) -> Holder {
        Holder {
            pid,
            user: 65534,
            is_trusted,
        }
    }

    #[test]
    fn a_lock_is_a_strangers_only_if_nobody_else_holds_it() {
        assert_eq!(judge(&[]), Stranger::Unknown);
        assert_eq!(judge(&[holder(1, false), holder(2, true)]), Stranger::None);
        let stranger = Stranger::Is {
            pid: 1,
            user: 65534,
        };
        assert_eq!(judge(&[holder(1, false), holder(2, false)]), stranger);
    }

    #[test]
    fn who_only_has_it_open_does_not_hold_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let found = file.as_file().metadata().unwrap();
        let id = (found.dev(), found.ino());
        assert_eq!((holders(id), lockers(id)), (Vec::new(), Vec::new()));
        let locked = Flock::lock(file.reopen().unwrap(), FlockArg::LockExclusiveNonblock);
        let locked = locked.map_err(|(_, errno)| errno).unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        let pids: Vec<i32> = holders(id).iter().map(|holder| holder.pid).collect();
        assert_eq!(pids, [own]);
        assert_eq!(lockers(id), holders(id));
        assert_eq!(stranger(file.as_file()), Stranger::None);
        drop(locked);
        assert_eq!(stranger(file.as_file()), Stranger::Unknown);
    }
}
