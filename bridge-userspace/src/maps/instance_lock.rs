//! One instance per pin path.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::model::{Finding, Subject};

/// A bpf filesystem cannot hold ordinary files, so the locks are here.
const DIRECTORY: &str = "/run/office-bridge";
/// Whoever asks who holds a lock takes it for a moment, so one look is not enough to call it taken.
const LOOKS: u32 = 5;
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// Why this instance may not go on.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another one is at work.
    #[error(
        "another office-bridge{} already works on {pin_path}",
        .pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    Taken {
        /// The pin path that both want.
        pin_path: PathBuf,
        /// The other's process id, as it wrote it down.
        pid: Option<u32>,
    },
    /// The lock file cannot be used.
    #[error("cannot use the lock file {path}: {error}")]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

impl LockError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Taken { .. } => "stop it first, or give this one another --pin-path",
            Self::Io { .. } => "run as root, with a /run that can be written to",
        }
    }
}

impl From<LockError> for Finding {
    fn from(error: LockError) -> Self {
        let subject = match &error {
            LockError::Taken { .. } => Subject::Instance,
            LockError::Io { .. } => Subject::Privileges,
        };
        Self::failure(subject, error.to_string(), error.remedy())
    }
}

/// The right to work on a pin path, held until this is dropped or the process ends in whatever way.
#[derive(Debug)]
pub struct InstanceLock {
    _file: Flock<File>,
}

impl InstanceLock {
    /// Takes the right to work on a pin path.
    ///
    /// # Errors
    /// When another process has it, with that one's process id.
    pub fn acquire(pin_path: &Path) -> Result<Self, LockError> {
        Self::acquire_in(Path::new(DIRECTORY), pin_path)
    }

    /// The process that has the right to work on a pin path, if any.
    #[must_use]
    pub fn holder(pin_path: &Path) -> Option<u32> {
        let path = run_file(pin_path, "lock");
        let mut file = File::open(path).ok()?;
        let mut text = String::new();
        file.read_to_string(&mut text).ok()?;
        match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Err((_, Errno::EWOULDBLOCK)) => text.trim().parse().ok(),
            _ => None,
        }
    }

    fn acquire_in(directory: &Path, pin_path: &Path) -> Result<Self, LockError> {
        let path = directory.join(format!("{}.lock", file_stem(pin_path)));
        let io = |error| LockError::Io {
            path: path.clone(),
            error,
        };
        fs::create_dir_all(directory).map_err(io)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io)?;
        let mut locked = Flock::lock(file, FlockArg::LockExclusiveNonblock);
        for _ in 1..LOOKS {
            let Err((file, Errno::EWOULDBLOCK)) = locked else {
                break;
            };
            std::thread::sleep(BETWEEN_LOOKS);
            locked = Flock::lock(file, FlockArg::LockExclusiveNonblock);
        }
        match locked {
            Ok(mut file) => {
                // The file stays when the lock ends: removing it would let a third process lock a
                // new one while a second still has the old one open.
                file.set_len(0).map_err(io)?;
                file.rewind().map_err(io)?;
                writeln!(file, "{}", std::process::id()).map_err(io)?;
                Ok(Self { _file: file })
            }
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut text = String::new();
                let pid = file
                    .read_to_string(&mut text)
                    .ok()
                    .and_then(|_| text.trim().parse().ok());
                Err(LockError::Taken {
                    pin_path: pin_path.to_owned(),
                    pid,
                })
            }
            Err((_, errno)) => Err(io(errno.into())),
        }
    }
}

/// A file about the bridge with this pin path.
pub(crate) fn run_file(pin_path: &Path, extension: &str) -> PathBuf {
    Path::new(DIRECTORY).join(format!("{}.{extension}", file_stem(pin_path)))
}

/// The pin path as one file name, in the way of `systemd-escape --path`: no two paths get the
/// same one, and people can still read it.
fn file_stem(pin_path: &Path) -> String {
    let mut name = String::new();
    let components = pin_path
        .components()
        .filter(|component| matches!(component, std::path::Component::Normal(_)));
    for (index, component) in components.enumerate() {
        if index > 0 {
            name.push('-');
        }
        for &byte in component.as_os_str().as_encoded_bytes() {
            if byte.is_ascii_alphanumeric() || byte == b'_' {
                name.push(char::from(byte));
            } else {
                name.extend(["\\x".to_owned(), format!("{byte:02x}")]);
            }
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_instance_on_one_pin_path_is_told_the_first_ones_process() {
        let directory = tempfile::tempdir().unwrap();
        let pins = Path::new("/sys/fs/bpf/office-bridge");
        let first = InstanceLock::acquire_in(directory.path(), pins).unwrap();
        let error = InstanceLock::acquire_in(directory.path(), pins).unwrap_err();
        assert_eq!(
            Finding::from(error).to_string(),
            format!(
                "another office-bridge (process {}) already works on /sys/fs/bpf/office-bridge: \
                 stop it first, or give this one another --pin-path",
                std::process::id()
            )
        );
        drop(first);
        InstanceLock::acquire_in(directory.path(), pins).unwrap();
    }

    #[test]
    fn a_look_at_who_holds_the_lock_keeps_nobody_from_taking_it() {
        let directory = tempfile::tempdir().unwrap();
        let pins = Path::new("/sys/fs/bpf/office-bridge");
        drop(InstanceLock::acquire_in(directory.path(), pins).unwrap());
        let path = directory.path().join(format!("{}.lock", file_stem(pins)));
        let file = File::open(path).unwrap();
        let look = Flock::lock(file, FlockArg::LockSharedNonblock)
            .map_err(|(_, errno)| errno)
            .unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(BETWEEN_LOOKS * 2);
                drop(look);
            });
            InstanceLock::acquire_in(directory.path(), pins).unwrap();
        });
    }

    #[test]
    fn instances_on_different_pin_paths_do_not_meet() {
        let directory = tempfile::tempdir().unwrap();
        let _one = InstanceLock::acquire_in(directory.path(), Path::new("/a/b")).unwrap();
        InstanceLock::acquire_in(directory.path(), Path::new("/a-b")).unwrap();
        InstanceLock::acquire_in(directory.path(), Path::new("/a/b/c")).unwrap();
    }

    #[test]
    fn spellings_of_one_path_share_a_lock() {
        assert_eq!(
            file_stem(Path::new("/sys/fs/bpf/office-bridge/")),
            file_stem(Path::new("/sys//fs/./bpf/office-bridge"))
        );
    }
}
