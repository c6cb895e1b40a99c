//! Packs the file system of the virtual machine: busybox, a few programs of this machine with their libraries, modules of
//! the kernel, and the tests.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::process::{command, find, probe, run};

/// The content of the file system.
pub struct Contents<'a> {
    /// The directory that it is made in.
    pub directory: &'a Path,
    /// Modules of the kernel.
    pub modules: &'a Path,
    /// A static office-bridge.
    pub bridge: &'a Path,
    /// The script that runs a test.
    pub harness: &'a Path,
    pub tests: &'a [PathBuf],
}

/// Programs, with their paths in the machine, that busybox does not have, or not with all functions. The shell is one of
/// them, as that of busybox prefers the `ip` and `ping` of busybox.
const PROGRAMS: [(&str, &str); 5] = [
    ("dash", "bin/sh"),
    ("ip", "sbin/ip"),
    ("tc", "sbin/tc"),
    ("ethtool", "sbin/ethtool"),
    ("ping", "bin/ping"),
];
/// Directories of modules, below `kernel`.
const MODULE_DIRECTORIES: [&str; 5] = ["net", "drivers/net", "drivers/virtio", "lib", "crypto"];
/// Modules that are loaded at boot; the kernel loads others on demand. Some kernels have them built in.
const MODULES: [&str; 8] = [
    "virtio_pci",
    "virtio_net",
    "veth",
    "vxlan",
    "8021q",
    "bonding",
    "sch_ingress",
    "cls_bpf",
];
const INIT: &str = include_str!("init.sh");

/// Packs the file system; returns the path of the archive.
pub fn pack(contents: &Contents<'_>) -> Result<PathBuf> {
    let root = contents.directory.join("root");
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| format!("remove {}", root.display()))?;
    }
    for directory in [
        "bin", "sbin", "dev", "proc", "root", "run", "sys", "tests", "tmp",
    ] {
        fs::create_dir_all(root.join(directory)).context("make the file system")?;
    }
    add_busybox(&root)?;
    for (program, place) in PROGRAMS {
        add_program(&root, program, place)?;
    }
    add_modules(&root, contents.modules)?;
    copy(contents.bridge, &root.join("bin/office-bridge"))?;
    copy(contents.harness, &root.join("harness.sh"))?;
    for test in contents.tests {
        let name = test.file_name().context("a test without a name")?;
        copy(test, &root.join("tests").join(name))?;
    }
    fs::write(root.join("modules"), MODULES.join("\n")).context("name the modules")?;
    let init = root.join("init");
    fs::write(&init, INIT).context("write init")?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).context("write init")?;
    let archive = contents.directory.join("initramfs.cpio");
    write_archive(&root, &archive)?;
    Ok(archive)
}

fn add_busybox(root: &Path) -> Result<()> {
    let busybox = find("busybox").context("no busybox")?;
    copy(&busybox, &root.join("bin/busybox"))?;
    let applets = probe(command(&busybox).arg("--list")).context("busybox names no applets")?;
    let own = |applet: &&str| {
        *applet != "busybox"
            && !PROGRAMS
                .iter()
                .any(|(_, place)| place.ends_with(&format!("/{applet}")))
    };
    for applet in applets.lines().filter(own) {
        symlink("busybox", root.join("bin").join(applet)).context("name busybox's applets")?;
    }
    // The kernel starts it by this path.
    symlink("../bin/busybox", root.join("sbin/modprobe")).context("name modprobe")
}

/// Puts a program of this machine into the file system, with the libraries that `ldd` names.
fn add_program(root: &Path, program: &str, place: &str) -> Result<()> {
    let path = find(program).with_context(|| format!("no {program}"))?;
    copy(&path, &root.join(place))?;
    let libraries = probe(command("ldd").arg(&path)).unwrap_or_default();
    let libraries = libraries
        .split_whitespace()
        .filter(|word| word.starts_with('/'));
    for library in libraries {
        let target = root.join(library.trim_start_matches('/'));
        if let Some(directory) = target.parent() {
            fs::create_dir_all(directory).context("make room for libraries")?;
        }
        copy(Path::new(library), &target)?;
    }
    Ok(())
}

fn add_modules(root: &Path, modules: &Path) -> Result<()> {
    let version = modules
        .file_name()
        .context("the directory of the modules has no name")?;
    let target = root.join("lib/modules").join(version);
    for directory in MODULE_DIRECTORIES {
        add_modules_below(
            &modules.join("kernel").join(directory),
            &target.join("kernel").join(directory),
        )?;
    }
    for (name, path) in entries(modules)? {
        if name == "modules.order" || name.starts_with("modules.builtin") {
            copy(&path, &target.join(name))?;
        }
    }
    run(command("busybox")
        .args(["depmod", "-b"])
        .arg(root)
        .arg(version)
        .stderr(Stdio::null()))
}

/// Names and paths of a directory's entries.
fn entries(directory: &Path) -> Result<Vec<(String, PathBuf)>> {
    let entries = fs::read_dir(directory).context("read the modules")?;
    entries
        .map(|entry| {
            let entry = entry.context("read the modules")?;
            let name = entry.file_name().to_string_lossy().into_owned();
            Ok((name, entry.path()))
        })
        .collect()
}

fn add_modules_below(source: &Path, target: &Path) -> Result<()> {
    if !source.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(target).context("make room for modules")?;
    for (name, path) in entries(source)? {
        if path.is_dir() {
            add_modules_below(&path, &target.join(&name))?;
        } else if path.extension().is_some_and(|extension| extension == "ko") {
            copy(&path, &target.join(&name))?;
        } else if let Some(module) = name.strip_suffix(".xz") {
            unpack("xz", &path, &target.join(module))?;
        } else if let Some(module) = name.strip_suffix(".zst") {
            unpack("zstd", &path, &target.join(module))?;
        }
    }
    Ok(())
}

fn unpack(program: &str, source: &Path, target: &Path) -> Result<()> {
    let output = File::create(target).with_context(|| format!("write {}", target.display()))?;
    run(command(program).args(["-dcq"]).arg(source).stdout(output))
}

fn write_archive(root: &Path, archive: &Path) -> Result<()> {
    let output = File::create(archive).with_context(|| format!("write {}", archive.display()))?;
    let mut files = command("find")
        .arg(".")
        .current_dir(root)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start `find`")?;
    let names = files.stdout.take().context("no names of files")?;
    let packed: &mut Command = &mut command("cpio");
    run(packed
        .args(["--create", "--format=newc", "--owner=0:0", "--quiet"])
        .current_dir(root)
        .stdin(names)
        .stdout(output))?;
    ensure!(
        files.wait().context("wait for `find`")?.success(),
        "`find` failed"
    );
    Ok(())
}

fn copy(source: &Path, target: &Path) -> Result<()> {
    match fs::copy(source, target) {
        Ok(_) => Ok(()),
        Err(error) => bail!("copy {} to {}: {error}", source.display(), target.display()),
    }
}
