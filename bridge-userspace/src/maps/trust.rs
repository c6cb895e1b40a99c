//! Places in the file system that only root, or who runs this process, can change.
//!
//! Whoever may write to a directory may rename and replace what is in it, so a file is as trustworthy as each directory on
//! the way to it.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::libc::O_NOFOLLOW;
use nix::unistd::geteuid;

/// Bits that let group or others write.
const OTHERS_WRITE: u32 = 0o022;
/// Bits that let group or others do anything.
const OTHERS: u32 = 0o077;
/// In such a directory only its owner, and a file's, may rename or remove a file.
const STICKY: u32 = 0o1000;
/// As many symbolic links as the kernel follows in one path (`MAXSYMLINKS`).
const LINKS: u32 = 40;

/// Why a place is not to be trusted.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// Another user can replace what is there.
    #[error("{path} belongs to user {owner}, who can replace what is in it", path = .path.display())]
    Owner {
        /// The directory or symbolic link.
        path: PathBuf,
        /// The user's number.
        owner: u32,
    },
    /// Others can replace what is there.
    #[error("{path} can be written to by other users (mode {mode:04o})", path = .path.display())]
    Writable {
        /// The directory.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Something else than a directory is there.
    #[error("{path} is no directory", path = .0.display())]
    NoDirectory(PathBuf),
    /// It can't be looked at, or not be made.
    #[error("cannot use {path}: {error}", path = .path.display())]
    Io {
        /// The place.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

impl TrustError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Owner { path, .. } => format!(
                "see what is in it, then `rm -r {path}`, or `chown -h root {path}` if it is to stay",
                path = path.display()
            ),
            Self::Writable { path, .. } => format!(
                "see what is in it, then `chmod go-w {path}`",
                path = path.display()
            ),
            Self::NoDirectory(_) => "name another one".to_owned(),
            Self::Io { .. } => "run as root".to_owned(),
        }
    }

    /// Whether somebody else can change what is there, rather than that it can't be looked at.
    #[must_use]
    pub fn is_judgement(&self) -> bool {
        !matches!(self, Self::Io { .. })
    }
}

impl From<TrustError> for io::Error {
    fn from(error: TrustError) -> Self {
        match error {
            TrustError::Io { error, .. } => error,
            error => Self::other(error),
        }
    }
}

/// A place on the way, as the file system shows it.
#[derive(Clone, Copy, Debug)]
struct Seen {
    is_directory: bool,
    owner: u32,
    mode: u32,
}

impl From<&Metadata> for Seen {
    fn from(metadata: &Metadata) -> Self {
        Self {
            is_directory: metadata.is_dir(),
            owner: metadata.uid(),
            mode: metadata.mode() & 0o7777,
        }
    }
}

/// What a place is passed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// A symbolic link. Its permissions mean nothing.
    Link,
    /// A directory above. What others put there besides does no harm.
    OnTheWay,
    /// The directory itself. Nobody else may put anything there.
    Kept,
}

impl Seen {
    fn judge(self, path: &Path, role: Role, me: u32) -> Result<(), TrustError> {
        let path = path.to_owned();
        if role != Role::Link && !self.is_directory {
            return Err(TrustError::NoDirectory(path));
        }
        if !is_trusted(self.owner, me) {
            return Err(TrustError::Owner {
                path,
                owner: self.owner,
            });
        }
        let is_writable = match role {
            Role::Link => false,
            Role::OnTheWay => self.mode & OTHERS_WRITE != 0 && self.mode & STICKY == 0,
            Role::Kept => self.mode & OTHERS_WRITE != 0,
        };
        if is_writable {
            return Err(TrustError::Writable {
                path,
                mode: self.mode,
            });
        }
        Ok(())
    }
}

/// Root, and who runs this process, can do to it whatever they like anyway.
fn is_trusted(user: u32, me: u32) -> bool {
    user == 0 || user == me
}

/// Whether a process of this user may be trusted with what is ours.
pub(super) fn is_trusted_user(user: u32) -> bool {
    is_trusted(user, geteuid().as_raw())
}

/// Whether nobody else can have opened a file.
pub(super) fn is_private(file: &File) -> io::Result<bool> {
    let metadata = file.metadata()?;
    Ok(is_trusted_user(metadata.uid()) && metadata.mode() & OTHERS == 0)
}

/// Where a directory really is, without symbolic links, if nobody else can change what is in it or lead elsewhere on the
/// way to it. What is not there yet is taken as it is written.
///
/// # Errors
/// When somebody can, or when the way can't be looked at.
pub fn resolve(directory: &Path) -> Result<PathBuf, TrustError> {
    let me = geteuid().as_raw();
    let io = |path: &Path| {
        let path = path.to_owned();
        move |error| TrustError::Io { path, error }
    };
    let absolute = std::path::absolute(directory).map_err(io(directory))?;
    let mut rest = parts(&absolute);
    let mut links = LINKS;
    let mut reached = PathBuf::from("/");
    while let Some(part) = rest.pop() {
        if part == ".." {
            reached.pop();
            continue;
        }
        look(&reached, Role::OnTheWay, me)?;
        let next = reached.join(&part);
        match fs::symlink_metadata(&next) {
            Ok(found) if found.is_symlink() => {
                Seen::from(&found).judge(&next, Role::Link, me)?;
                links = links
                    .checked_sub(1)
                    .ok_or_else(|| io(&next)(Errno::ELOOP.into()))?;
                let target = fs::read_link(&next).map_err(io(&next))?;
                if target.is_absolute() {
                    reached = PathBuf::from("/");
                }
                rest.extend(parts(&target));
            }
            Ok(_) => reached = next,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                rest.push(part);
                reached.extend(rest.into_iter().rev());
                return Ok(reached);
            }
            Err(error) => return Err(io(&next)(error)),
        }
    }
    look(&reached, Role::Kept, me)?;
    Ok(reached)
}

/// The names of a path, the last one first.
fn parts(path: &Path) -> Vec<OsString> {
    let is_name = |part: &Component| matches!(part, Component::Normal(_) | Component::ParentDir);
    let names = path.components().filter(is_name);
    names
        .map(|part| part.as_os_str().to_owned())
        .rev()
        .collect()
}

fn look(path: &Path, role: Role, me: u32) -> Result<(), TrustError> {
    let found = fs::symlink_metadata(path).map_err(|error| TrustError::Io {
        path: path.to_owned(),
        error,
    })?;
    Seen::from(&found).judge(path, role, me)
}

/// A directory for what is nobody else's business; made with mode 0700 if it is not there.
///
/// # Errors
/// When it can't be made, or others can change what is in it.
pub fn private_directory(directory: &Path) -> Result<PathBuf, TrustError> {
    // Judged before, so that nothing is made in a place that somebody else has chosen, and after: on the way there may be a
    // directory where everybody makes directories.
    let directory = resolve(directory)?;
    let made = DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory);
    made.map_err(|error| TrustError::Io {
        path: directory.clone(),
        error,
    })?;
    resolve(&directory)
}

/// Options to make a file that nobody else can open.
pub fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600).custom_flags(O_NOFOLLOW);
    options
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    const ROOT: u32 = 0;
    const ME: u32 = 1000;
    const OTHER: u32 = 65534;

    fn judge(owner: u32, mode: u32, role: Role) -> Result<(), TrustError> {
        let seen = Seen {
            is_directory: true,
            owner,
            mode,
        };
        seen.judge(Path::new("/x"), role, ME)
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_directory_is_kept_by_root_or_by_who_runs_this() {
        for owner in [ROOT, ME] {
            judge(owner, 0o700, Role::Kept).unwrap();
            judge(owner, 0o755, Role::Kept).unwrap();
        }
        for role in [Role::Kept, Role::OnTheWay, Role::Link] {
            let error = judge(OTHER, 0o700, role).unwrap_err();
            assert_eq!(
                error.to_string(),
                "/x belongs to user 65534, who can replace what is in it"
            );
        }
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_not_kept_sticky_or_not() {
        for mode in [0o770, 0o757, 0o777, 0o1777] {
            let error = judge(ROOT, mode, Role::Kept).unwrap_err();
            assert!(error.to_string().contains(&format!("mode {mode:04o}")));
            assert!(error.remedy().contains("chmod go-w /x"));
        }
    }

    #[test]
    fn a_sticky_directory_may_be_on_the_way() {
        judge(ROOT, 0o1777, Role::OnTheWay).unwrap();
        judge(ROOT, 0o777, Role::OnTheWay).unwrap_err();
        judge(ROOT, 0o775, Role::OnTheWay).unwrap_err();
        judge(ROOT, 0o777, Role::Link).unwrap();
    }

    #[test]
    fn a_symbolic_link_is_resolved_and_where_it_leads_is_judged() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        let (real, link) = (root.join("a/b"), root.join("link"));
        fs::create_dir_all(&real).unwrap();
        symlink("a/../a", &link).unwrap();
        assert_eq!(resolve(&link.join("b")).unwrap(), real);
        assert_eq!(resolve(&link.join("c/d")).unwrap(), root.join("a/c/d"));

        set_mode(&real, 0o777);
        let error = resolve(&link.join("b")).unwrap_err();
        assert!(error.to_string().starts_with(&real.display().to_string()));
        // So is what is on the way.
        set_mode(&real, 0o700);
        set_mode(&root.join("a"), 0o777);
        resolve(&link.join("b")).unwrap_err();
        set_mode(&root.join("a"), 0o1777);
        resolve(&link.join("b")).unwrap();
    }

    #[test]
    fn links_that_lead_in_a_circle_have_an_end() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("link");
        symlink(&link, &link).unwrap();
        let error = resolve(&link).unwrap_err();
        assert!(!error.is_judgement(), "{error}");
    }

    #[test]
    fn a_directory_that_is_made_is_nobody_elses_business() {
        let directory = tempfile::tempdir().unwrap();
        let made = private_directory(&directory.path().join("a/b")).unwrap();
        for path in [&made, made.parent().unwrap()] {
            let found = fs::metadata(path).unwrap();
            assert_eq!(found.mode() & 0o7777, 0o700, "{}", path.display());
        }
        private_directory(&made).unwrap();
        let file = made.join("file");
        fs::write(&file, "").unwrap();
        let error = private_directory(&file).unwrap_err();
        assert!(error.to_string().ends_with("is no directory"), "{error}");
    }
}
