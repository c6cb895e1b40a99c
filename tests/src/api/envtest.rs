//! Where the programs of a Kubernetes control plane are: real ones, as other projects' tests use them.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::machine::netns::finish;

/// The convention of setup-envtest: a folder with `etcd` and `kube-apiserver`.
pub const VARIABLE: &str = "KUBEBUILDER_ASSETS";

/// How a person gets the programs.
pub const HOW_TO_GET: &str = "go install sigs.k8s.io/controller-runtime/tools/setup-envtest@latest, then \
    export KUBEBUILDER_ASSETS=$(setup-envtest use -p path)";

/// Where they are looked for when the variable is not set, relative to the checkout.
const ARCHIVE: &str = "../shared/envtest/bin.tar.zst";

/// The programs.
#[derive(Clone, Debug)]
pub struct Programs {
    directory: PathBuf,
}

impl Programs {
    /// The folder that `KUBEBUILDER_ASSETS` names; else the archive beside the checkout, unpacked into
    /// `target/envtest`; else nothing.
    ///
    /// A folder without the programs is an error: somebody meant them to be there.
    pub fn find() -> Result<Option<Self>> {
        if let Some(directory) = env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
            let programs = Self {
                directory: directory.into(),
            };
            for program in ["etcd", "kube-apiserver"] {
                ensure!(
                    programs.path(program).is_file(),
                    "{VARIABLE} is {}, where there is no {program}; {HOW_TO_GET}",
                    programs.directory.display()
                );
            }
            return Ok(Some(programs));
        }
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("this crate is in no workspace")?;
        let archive = checkout.join(ARCHIVE);
        if !archive.is_file() {
            return Ok(None);
        }
        let directory = unpack(&archive, &checkout.join("target/envtest"))?;
        Ok(Some(Self { directory }))
    }

    /// The folder that they are in.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where the program of this name would be.
    #[must_use]
    pub fn path(&self, program: &str) -> PathBuf {
        self.directory.join(program)
    }

    /// The real kube-proxy, which setup-envtest does not bring: beside kube-apiserver or on `PATH`.
    #[must_use]
    pub fn kube_proxy(&self) -> Option<PathBuf> {
        let path = env::var_os("PATH").unwrap_or_default();
        [self.directory.clone()]
            .into_iter()
            .chain(env::split_paths(&path))
            .map(|directory| directory.join("kube-proxy"))
            .find(|candidate| candidate.is_file())
    }

    /// The minor version of kube-apiserver: 20 for 1.20.
    pub fn minor_version(&self) -> Result<u32> {
        let mut command = Command::new(self.path("kube-apiserver"));
        command.arg("--version");
        let text = finish(command, None).context("ask kube-apiserver for its version")?;
        text.split('.')
            .nth(1)
            .and_then(|minor| minor.parse().ok())
            .with_context(|| format!("kube-apiserver --version says {text:?}"))
    }
}

/// Unpacks the archive unless that has been done; tests of several processes come here at once.
fn unpack(archive: &Path, into: &Path) -> Result<PathBuf> {
    fs::create_dir_all(into).with_context(|| format!("create {}", into.display()))?;
    let lock = File::create(into.join("lock")).context("create a lock file")?;
    lock.lock().context("wait for another test that unpacks")?;
    let done = into.join("unpacked");
    let modified = |path: &Path| fs::metadata(path).and_then(|entry| entry.modified());
    let is_current = modified(&done)
        .is_ok_and(|unpacked| modified(archive).is_ok_and(|packed| packed <= unpacked));
    if !is_current {
        let mut command = Command::new("tar");
        command
            .args(["--zstd", "-xf"])
            .arg(archive)
            .arg("-C")
            .arg(into);
        finish(command, None).with_context(|| format!("unpack {}", archive.display()))?;
        File::create(&done).context("note that it is unpacked")?;
    }
    Ok(into.join("bin"))
}
