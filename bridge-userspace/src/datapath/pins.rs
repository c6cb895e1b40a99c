//! Where tables and links are pinned.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bridge_common::layout::LAYOUT_VERSION;

use super::Program;
use crate::bpf::detach_pinned_link;

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

    /// What `--pin-path` says.
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

    /// Whether there are tables of this layout.
    #[must_use]
    pub fn exist(&self) -> bool {
        self.table(bridge_common::layout::name::FLOWS).exists()
    }

    /// Layout versions other than this program's that are pinned here.
    #[must_use]
    pub fn other_layouts(&self) -> Vec<String> {
        let own = format!("v{LAYOUT_VERSION}");
        let Ok(entries) = fs::read_dir(&self.root) else {
            return Vec::new();
        };
        entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with('v') && *name != own)
            .collect()
    }

    /// Creates the directories.
    ///
    /// # Errors
    /// When bpffs refuses, or is not there.
    pub fn create(&self) -> io::Result<()> {
        fs::create_dir_all(self.tables())?;
        fs::create_dir_all(self.links())
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
        let removed = remove_tree(&self.tables())?;
        for directory in [self.links(), self.root.clone()] {
            // Fails where something is left, which is meant.
            let _ = fs::remove_dir(directory);
        }
        Ok(removed)
    }

    /// Removes every pin and directory of this bridge, links first so that no packet meets a program
    /// whose tables are going. Returns how many pins were removed.
    ///
    /// # Errors
    /// When bpffs refuses.
    pub fn remove_all(&self) -> io::Result<usize> {
        Ok(self.detach_links()? + remove_tree(&self.root)?)
    }
}

fn remove_tree(directory: &Path) -> io::Result<usize> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            removed += remove_tree(&entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
            removed += 1;
        }
    }
    fs::remove_dir(directory)?;
    Ok(removed)
}
