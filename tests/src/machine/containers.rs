//! The containers of a lab, as runc keeps them, and what they have mounted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, umount2};

use super::netns::finish;

const RUNC: &str = "runc";

/// A command of runc that works on the containers of the lab with this directory.
#[must_use]
pub fn runc(lab: &Path) -> Command {
    let mut command = Command::new(RUNC);
    command.arg("--root").arg(state(lab));
    command
}

/// Kills a container and removes it.
pub fn delete(lab: &Path, id: &str) {
    let mut command = runc(lab);
    command.args(["delete", "--force", id]);
    if let Err(error) = finish(command, None) {
        eprintln!("the container {id} stays behind: {error:#}");
    }
}

/// Removes all containers of a lab that died, and unmounts what it had mounted.
pub fn remove_leftovers(lab: &Path) {
    for entry in state(lab).read_dir().into_iter().flatten().flatten() {
        delete(lab, &entry.file_name().to_string_lossy());
    }
    unmount(lab);
}

/// Unmounts everything below a directory.
pub fn unmount(directory: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    for point in points.filter(|point| Path::new(point).starts_with(directory)) {
        if let Err(error) = umount2(point, MntFlags::MNT_DETACH) {
            eprintln!("{point} stays mounted: {error}");
        }
    }
}

/// Where runc keeps its state.
fn state(lab: &Path) -> PathBuf {
    lab.join("runc")
}
