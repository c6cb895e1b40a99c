//! Where tables and links are pinned.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::maps::MapInfo;
use bridge_common::abi::LAYOUT_VERSION;

use super::bpf_syscall::detach_pinned_link;
use super::trust::{TrustError, private_directory, resolve};
use crate::model::program::Program;

/// The pin directory of one bridge.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
}

impl Pins {
    /// The directory given as `--pin-path`.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// The directory given as `--pin-path`, where it really is.
    ///
    /// # Errors
    /// When another user could replace what is pinned there, or lead elsewhere on the way. It need not be there yet.
    pub fn judged(root: &Path) -> Result<Self, TrustError> {
        let pins = Self::new(&resolve(root)?);
        pins.judge_directories()?;
        Ok(pins)
    }

    fn judge_directories(&self) -> Result<(), TrustError> {
        let layouts = self.layouts();
        let layouts = layouts.iter().map(|layout| self.root.join(layout));
        for directory in layouts.chain([self.links()]) {
            resolve(&directory)?;
        }
        Ok(())
    }

    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of this layout's tables.
    #[must_use]
    pub fn tables(&self) -> PathBuf {
        self.root.join(format!("v{LAYOUT_VERSION}"))
    }

    /// One table.
    #[must_use]
    pub fn table(&self, name: &str) -> PathBuf {
        self.tables().join(name)
    }

    /// The directory of the links, common to all layouts: a successor must find its predecessor's.
    #[must_use]
    pub fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    /// The link of a program on an interface. The index stands for the name, as bpffs takes no dots.
    #[must_use]
    pub fn link(&self, program: Program, ifindex: u32) -> PathBuf {
        self.links().join(format!("{}-{ifindex}", program.name()))
    }

    /// The link that is about to take the place of [`Self::link`]. Its name is that of no program, so that one that was
    /// left behind is detached.
    #[must_use]
    pub fn next_link(&self, program: Program, ifindex: u32) -> PathBuf {
        self.links()
            .join(format!("next_{}-{ifindex}", program.name()))
    }

    /// Whether there are tables of this layout.
    #[must_use]
    pub fn exist(&self) -> bool {
        self.table(bridge_common::abi::name::FLOWS).exists()
    }

    /// Layout versions other than this program's that are pinned here.
    #[must_use]
    pub fn other_layouts(&self) -> Vec<String> {
        let mut layouts = self.layouts();
        layouts.retain(|name| self.root.join(name) != self.tables());
        layouts
    }

    /// Directories of tables, of whichever layout. Whatever else is in `--pin-path`, which may be any directory of the
    /// bpf filesystem, is somebody else's.
    fn layouts(&self) -> Vec<String> {
        let is_layout = |name: &String| {
            name.strip_prefix('v')
                .is_some_and(|version| version.parse::<u32>().is_ok())
        };
        let Ok(entries) = fs::read_dir(&self.root) else {
            return Vec::new();
        };
        entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(is_layout)
            .collect()
    }

    /// The kernel's ids of the pinned tables, of whichever layout. A program that uses one of them is this bridge's.
    #[must_use]
    pub fn table_ids(&self) -> BTreeSet<u32> {
        let layouts = self.layouts();
        let entries = layouts
            .iter()
            .filter_map(|layout| fs::read_dir(self.root.join(layout)).ok())
            .flatten();
        entries
            .filter_map(|entry| Some(MapInfo::from_pin(entry.ok()?.path()).ok()?.id()))
            .collect()
    }

    /// Creates the directories, for root alone.
    ///
    /// # Errors
    /// When bpffs refuses, or is not there, or another user was faster and has made one of them.
    pub fn create(&self) -> io::Result<()> {
        private_directory(&self.tables())?;
        private_directory(&self.links())?;
        Ok(())
    }

    /// Pinned links, as the name of the program, the index of the interface, and the path; in the order of detaching.
    ///
    /// # Errors
    /// When the directory can't be read; one that is not there has no links.
    pub fn pinned_links(&self) -> io::Result<Vec<(String, u32, PathBuf)>> {
        let entries = match fs::read_dir(self.links()) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut links = Vec::new();
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            if let Some((program, index)) = name.and_then(|name| name.rsplit_once('-'))
                && let Ok(ifindex) = index.parse()
            {
                links.push((program.to_owned(), ifindex, path));
            }
        }
        links.sort_by_cached_key(|(name, ifindex, _)| {
            let unknown = Program::from_name(name).is_none();
            std::cmp::Reverse((unknown, Program::from_name(name), *ifindex))
        });
        Ok(links)
    }

    /// Detaches every pinned link and removes the pin. Returns how many there were.
    ///
    /// # Errors
    /// When bpffs refuses.
    pub fn detach_links(&self) -> io::Result<usize> {
        let links = self.pinned_links()?;
        for (_, _, link) in &links {
            detach_pinned_link(link)?;
        }
        Ok(links.len())
    }

    /// Removes the tables of this layout, which nothing works with yet, and the directories if nothing else is there: a
    /// predecessor's links and tables of another layout stay.
    ///
    /// # Errors
    /// When bpffs refuses.
    pub fn remove_layout(&self) -> io::Result<usize> {
        let removed = remove_pins(&self.tables())?;
        self.remove_empty_directories();
        Ok(removed)
    }

    /// Removes every pin and directory of this bridge, links first so that no packet meets a program
    /// whose tables are going. Returns how many pins were removed.
    ///
    /// # Errors
    /// When bpffs refuses.
    pub fn remove_all(&self) -> io::Result<usize> {
        let mut removed = self.detach_links()?;
        for layout in self.layouts() {
            removed += remove_pins(&self.root.join(layout))?;
        }
        self.remove_empty_directories();
        Ok(removed)
    }

    fn remove_empty_directories(&self) {
        for directory in [self.links(), self.root.clone()] {
            // Fails where something is left, which is meant.
            let _ = fs::remove_dir(directory);
        }
    }
}

/// Removes the pins in a directory of tables, and the directory if nothing else is there.
fn remove_pins(directory: &Path) -> io::Result<usize> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            fs::remove_file(entry.path())?;
            removed += 1;
        }
    }
    let _ = fs::remove_dir(directory);
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn what_is_not_the_bridges_stays() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for path in ["v4", "v5", "tc/globals", "vxlan", "v5/deeper"] {
            fs::create_dir_all(root.join(path)).unwrap();
        }
        let foreign = ["tc/globals/map", "vxlan/map", "v", "map", "v5/deeper/map"];
        for path in foreign
            .iter()
            .chain(&["v4/flows", "v5/flows", "v5/replies"])
        {
            fs::write(root.join(path), "").unwrap();
        }
        let pins = Pins::new(root);
        assert_eq!(pins.other_layouts(), ["v4"]);
        assert_eq!(pins.remove_layout().unwrap(), 2);
        assert_eq!(pins.remove_all().unwrap(), 1);
        assert!(!root.join("v4").exists());
        for path in foreign {
            assert!(root.join(path).exists(), "{path}");
        }
    }

    #[test]
    fn directories_of_pins_are_nobody_elses_to_change() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("office-bridge");
        let pins = Pins::judged(&root).unwrap();
        pins.create().unwrap();
        for path in [&root, &pins.tables(), &pins.links()] {
            assert_eq!(fs::metadata(path).unwrap().mode() & 0o7777, 0o700);
            fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
            Pins::judged(&root).unwrap_err();
            pins.create().unwrap_err();
            fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
            Pins::judged(&root).unwrap();
        }
    }

    #[test]
    fn pins_are_where_a_symbolic_link_leads() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory
            .path()
            .canonicalize()
            .unwrap()
            .join("office-bridge");
        let link = directory.path().join("link");
        symlink(&root, &link).unwrap();
        assert_eq!(Pins::judged(&link).unwrap().root(), root);
    }

    #[test]
    fn directories_without_pins_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        let pins = Pins::new(&directory.path().join("office-bridge"));
        pins.create().unwrap();
        assert_eq!(pins.remove_all().unwrap(), 0);
        assert!(!pins.root().exists());
    }
}
