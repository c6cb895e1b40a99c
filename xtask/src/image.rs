//! `cargo xtask image`: builds the container image, runs it once and saves it as a file.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::packages::{IMAGE_TOOLS, missing};
use crate::process::{command, find, probe, run as execute, say, step};
use crate::workspace::Workspace;
use crate::{build, host};

/// `localhost` stands for no registry. `deploy/kustomize` uses the same name.
const NAME: &str = concat!("localhost/office-bridge:", env!("CARGO_PKG_VERSION"));

/// Makes the image of a release build and saves it as an OCI archive.
pub fn run(workspace: &Workspace, output: Option<PathBuf>) -> Result<()> {
    let output = output.unwrap_or_else(|| workspace.image().join("office-bridge.tar"));
    make(workspace, true, &output)
}

/// Makes the image for the tests; returns the path of the archive.
pub fn under_test(workspace: &Workspace) -> Result<PathBuf> {
    let output = workspace.image().join("under-test.tar");
    make(workspace, false, &output)?;
    Ok(output)
}

fn make(workspace: &Workspace, release: bool, output: &Path) -> Result<()> {
    host::install("the image", &missing(IMAGE_TOOLS, find))?;
    let image = Image::new(&workspace.image())?;
    build::run_static(workspace, release, &image.binary())?;
    step(&format!("Making the image {NAME}"));
    image.build(workspace)?;
    step("Running `office-bridge --version` in it");
    let version = image.version()?;
    println!("{}", version.trim_end());
    remove_file(output)?;
    image.save(output)?;
    say(&format!("OCI archive: {}", output.display()));
    Ok(())
}

/// An image in a store of its own, which is removed with this value. The user's store is not used.
struct Image {
    context: PathBuf,
    store: PathBuf,
    run_root: PathBuf,
}

impl Image {
    fn new(directory: &Path) -> Result<Self> {
        let image = Self {
            context: directory.join("context"),
            store: directory.join("store"),
            run_root: directory.join("run"),
        };
        image.remove()?;
        fs::create_dir_all(&image.context)
            .with_context(|| format!("create {}", image.context.display()))?;
        Ok(image)
    }

    /// The path that `deploy/Containerfile` copies the program from.
    fn binary(&self) -> PathBuf {
        self.context.join("office-bridge")
    }

    fn build(&self, workspace: &Workspace) -> Result<()> {
        let mut buildah = self.buildah();
        buildah
            .args(["build", "--quiet", "--identity-label=false", "--tag", NAME])
            .arg("--file")
            .arg(workspace.root().join("deploy/Containerfile"))
            .args(label("version", env!("CARGO_PKG_VERSION")));
        if let Some(commit) = workspace.commit() {
            buildah.args(label("revision", &commit));
        }
        // Makes the image reproducible.
        if let Some(time) = workspace.commit_time() {
            buildah.args(["--timestamp", &time]);
        }
        execute(buildah.arg(&self.context))
    }

    /// What `office-bridge --version` prints in a container of the image.
    fn version(&self) -> Result<String> {
        let container = probe(self.buildah().args(["from", "--quiet", NAME]))
            .context("buildah can't start from the image that it has built")?;
        // The other kinds of isolation need cgroups or an OCI runtime.
        probe(
            self.buildah()
                .args(["run", "--isolation=chroot", container.trim(), "--"])
                .args(["office-bridge", "--version"]),
        )
        .context("office-bridge does not run in its image: is it linked statically?")
    }

    fn save(&self, file: &Path) -> Result<()> {
        let archive = format!("oci-archive:{}:{NAME}", file.display());
        execute(self.buildah().args(["push", "--quiet", NAME, &archive]))
    }

    /// The storage driver `vfs` works on every kernel and filesystem. It copies layers, but there is only one.
    fn buildah(&self) -> Command {
        let mut command = command("buildah");
        command
            .args(["--storage-driver=vfs", "--root"])
            .arg(&self.store)
            .arg("--runroot")
            .arg(&self.run_root);
        command
    }

    fn remove(&self) -> Result<()> {
        for directory in [&self.context, &self.store, &self.run_root] {
            match fs::remove_dir_all(directory) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("remove {}", directory.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            say(&format!("something stays behind: {error:#}"));
        }
    }
}

/// A label of the OCI image specification ("Pre-Defined Annotation Keys").
fn label(key: &str, value: &str) -> [String; 2] {
    [
        "--label".into(),
        format!("org.opencontainers.image.{key}={value}"),
    ]
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
