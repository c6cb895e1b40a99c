//! One instance per pin path.

use std::fs::{self, File, Metadata};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use tracing::warn;

use super::lock_holder::{Stranger, stranger};
use super::trust::{TrustError, is_private, private_directory, private_file};
use crate::model::{Finding, Subject};

/// A bpf filesystem cannot hold ordinary files, so the locks are here.
const DIRECTORY: &str = "/run/office-bridge";
/// Whoever asks who holds a lock takes it for a moment, so one look is not enough to call it taken.
const LOOKS: u32 = 5;
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);
/// How often a lock file that another process replaces is opened anew.
const REPLACEMENTS: u32 = 5;

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
    /// Somebody has locked a file that anybody could open, and it can't be seen who.
    #[error("{path} is locked, maybe by no office-bridge: an earlier version has left it open to all users", path = .path.display())]
    Open {
        /// The lock file.
        path: PathBuf,
    },
    /// The lock file cannot be used.
    #[error("cannot use the lock file {path}: {error}", path = .path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Others could take the lock away.
    #[error("no place for the lock: {0}")]
    Directory(#[from] TrustError),
}

impl LockError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Taken { .. } => "stop it first, or give this one another --pin-path".to_owned(),
            Self::Open { path } => format!(
                "`fuser -v {path}` on the host shows who it is; end an office-bridge, and remove the file if it is none",
                path = path.display()
            ),
            Self::Io { .. } => "run as root, with a /run that can be written to".to_owned(),
            Self::Directory(error) => error.remedy(),
        }
    }
}

impl From<LockError> for Finding {
    fn from(error: LockError) -> Self {
        let subject = match &error {
            LockError::Taken { .. } | LockError::Open { .. } => Subject::Instance,
            LockError::Io { .. } | LockError::Directory(_) => Subject::Privileges,
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
    /// When another process has it, with that one's process id, and when others could take it away.
    pub fn acquire(pin_path: &Path) -> Result<Self, LockError> {
        Self::acquire_in(Path::new(DIRECTORY), pin_path)
    }

    /// The process that has the right to work on a pin path, if any, by the id that it wrote down: its own, maybe in a
    /// container.
    #[must_use]
    pub fn holder(pin_path: &Path) -> Option<u32> {
        Self::holder_in(Path::new(DIRECTORY), pin_path)
    }

    fn holder_in(directory: &Path, pin_path: &Path) -> Option<u32> {
        let path = lock_path(directory, pin_path);
        let file = private_file().read(true).open(&path).ok()?;
        let locked = Flock::lock(file, FlockArg::LockSharedNonblock);
        let Err((file, Errno::EWOULDBLOCK)) = locked else {
            return None;
        };
        // What anybody may have locked proves nothing, unless root's process is seen to hold it.
        let is_held = is_private(&file).ok()? || matches!(stranger(&file), Stranger::None);
        read_pid(&file).filter(|_| is_held)
    }

    fn acquire_in(directory: &Path, pin_path: &Path) -> Result<Self, LockError> {
        let directory = private_directory(directory)?;
        let path = lock_path(&directory, pin_path);
        let io = |error| LockError::Io {
            path: path.clone(),
            error,
        };
        let taken = |pid| LockError::Taken {
            pin_path: pin_path.to_owned(),
            pid,
        };
        for _ in 0..REPLACEMENTS {
            let locked = lock(open(&path).map_err(io)?);
            let file: &File = match &locked {
                Ok(file) => file,
                Err((file, Errno::EWOULDBLOCK)) => file,
                Err((_, errno)) => return Err(io((*errno).into())),
            };
            let opened = id(&file.metadata().map_err(io)?);
            if id_at(&path).map_err(io)? != Some(opened) {
                continue;
            }
            if is_private(file).map_err(io)? {
                return match locked {
                    Ok(file) => Self::note(file).map_err(io),
                    Err((file, _)) => Err(taken(read_pid(&file))),
                };
            }
            // An earlier version has made it, with mode 0644. Whoever has opened it can still lock it after a change of the
            // mode, so it is replaced.
            if locked.is_err() {
                match stranger_of(file) {
                    Stranger::None => return Err(taken(read_pid(file))),
                    Stranger::Unknown => return Err(LockError::Open { path }),
                    Stranger::Is { pid, user } => warn!(
                        "process {pid} of user {user}, which is no office-bridge, has locked {}: an earlier version had left \
                         it open to all users; it is made anew",
                        path.display()
                    ),
                }
            }
            if let Some(file) = replace(&path, opened).map_err(io)? {
                return Self::note(file).map_err(io);
            }
        }
        Err(taken(None))
    }

    /// Writes down whose it is. The file stays when the lock ends: removing it would let a third process lock a new one
    /// while a second still has the old one open.
    fn note(mut file: Flock<File>) -> io::Result<Self> {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Self { _file: file })
    }
}

fn lock_path(directory: &Path, pin_path: &Path) -> PathBuf {
    directory.join(format!("{}.lock", file_stem(pin_path)))
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = private_file();
    options.read(true).write(true).create(true).open(path)
}

fn lock(file: File) -> Result<Flock<File>, (File, Errno)> {
    let mut locked = Flock::lock(file, FlockArg::LockExclusiveNonblock);
    for _ in 1..LOOKS {
        let Err((file, Errno::EWOULDBLOCK)) = locked else {
            break;
        };
        std::thread::sleep(BETWEEN_LOOKS);
        locked = Flock::lock(file, FlockArg::LockExclusiveNonblock);
    }
    locked
}

/// Whoever only looks who holds the lock holds it for a moment, too.
fn stranger_of(file: &File) -> Stranger {
    for _ in 1..LOOKS {
        let found = stranger(file);
        if found != Stranger::None {
            return found;
        }
        std::thread::sleep(BETWEEN_LOOKS);
    }
    stranger(file)
}

fn read_pid(mut file: &File) -> Option<u32> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Device and inode.
fn id(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Which file has this name now, if one has.
fn id_at(path: &Path) -> io::Result<Option<(u64, u64)>> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(id(&metadata))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Puts a new file, locked, in the place of `old`; `None` if another process is at it. The lock of the new file is the
/// right to do so, so one process at a time does it.
fn replace(path: &Path, old: (u64, u64)) -> io::Result<Option<Flock<File>>> {
    let next = path.with_extension("lock.new");
    let Ok(file) = Flock::lock(open(&next)?, FlockArg::LockExclusiveNonblock) else {
        return Ok(None);
    };
    let is_in_place = id_at(&next)? == Some(id(&file.metadata()?));
    if !is_in_place || id_at(path)? != Some(old) {
        return Ok(None);
    }
    fs::rename(next, path)?;
    Ok(Some(file))
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
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

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

    fn open_to_all(directory: &Path, pins: &Path) -> PathBuf {
        let path = lock_path(directory, pins);
        fs::write(&path, "4194305\n").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        path
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn nobody_else_can_open_the_lock() {
        let directory = tempfile::tempdir().unwrap();
        let pins = Path::new("/sys/fs/bpf/office-bridge");
        let _lock = InstanceLock::acquire_in(directory.path(), pins).unwrap();
        assert_eq!(mode(&lock_path(directory.path(), pins)), 0o600);
    }

    #[test]
    fn a_lock_that_was_open_to_all_is_made_anew() {
        let directory = tempfile::tempdir().unwrap();
        let pins = Path::new("/sys/fs/bpf/office-bridge");
        let path = open_to_all(directory.path(), pins);
        // Whoever has it open could lock it later, whatever its mode is then.
        let early = File::open(&path).unwrap();
        drop(InstanceLock::acquire_in(directory.path(), pins).unwrap());
        assert_eq!(mode(&path), 0o600);
        let early = Flock::lock(early, FlockArg::LockExclusiveNonblock);
        let _early = early.map_err(|(_, errno)| errno).unwrap();
        let _lock = InstanceLock::acquire_in(directory.path(), pins).unwrap();
        let own = Some(std::process::id());
        assert_eq!(InstanceLock::holder_in(directory.path(), pins), own);
    }

    #[test]
    fn an_office_bridge_of_an_earlier_version_keeps_its_lock() {
        let directory = tempfile::tempdir().unwrap();
        let pins = Path::new("/sys/fs/bpf/office-bridge");
        let path = open_to_all(directory.path(), pins);
        let earlier = Flock::lock(File::open(&path).unwrap(), FlockArg::LockExclusiveNonblock);
        let earlier = earlier.map_err(|(_, errno)| errno).unwrap();
        let error = InstanceLock::acquire_in(directory.path(), pins).unwrap_err();
        assert!(
            matches!(
                error,
                LockError::Taken {
                    pid: Some(4_194_305),
                    ..
                }
            ),
            "{error}"
        );
        let holder = InstanceLock::holder_in(directory.path(), pins);
        assert_eq!(holder, Some(4_194_305));
        drop(earlier);
        assert_eq!(InstanceLock::holder_in(directory.path(), pins), None);
    }

    #[test]
    fn of_several_that_make_a_lock_anew_one_gets_it() {
        let directory = tempfile::tempdir().unwrap();
        let pins = Path::new("/sys/fs/bpf/office-bridge");
        for _ in 0..20 {
            open_to_all(directory.path(), pins);
            let got = std::thread::scope(|scope| {
                let start = || InstanceLock::acquire_in(directory.path(), pins).ok();
                let starts: Vec<_> = (0..4).map(|_| scope.spawn(start)).collect();
                let ended = starts.into_iter().filter_map(|start| start.join().unwrap());
                ended.collect::<Vec<_>>()
            });
            assert_eq!(got.len(), 1);
        }
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_no_place_for_a_lock() {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
        let error = InstanceLock::acquire_in(directory.path(), Path::new("/a")).unwrap_err();
        let finding = Finding::from(error);
        assert!(!finding.is_usage());
        assert!(finding.to_string().contains("chmod go-w"), "{finding}");
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
