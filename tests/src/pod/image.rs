//! The container image, an OCI archive (OCI image format specification 1.1).

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::machine::netns::finish;

/// Names the archive; `cargo xtask test` sets it.
const VARIABLE: &str = "OFFICE_BRIDGE_IMAGE";
/// Where `cargo xtask test` and `cargo xtask image` leave one.
const MADE: [&str; 2] = [
    "../target/image/under-test.tar",
    "../target/image/office-bridge.tar",
];

/// An image whose files are laid out.
#[derive(Debug)]
pub struct Image {
    reference: String,
    config: Value,
}

impl Image {
    /// Lays the files out in `rootfs` below this directory.
    pub fn unpack(directory: &Path) -> Result<Self> {
        let archive = archive()?;
        let layout = directory.join("image");
        extract(&archive, &layout)?;
        let index = read(&layout.join("index.json"))?;
        let [manifest] = &index["manifests"].as_array().context("no manifests")?[..] else {
            bail!("{} has not exactly one image", archive.display());
        };
        let reference = manifest["annotations"]["org.opencontainers.image.ref.name"]
            .as_str()
            .context("an image without a name")?
            .to_owned();
        let manifest = read(&blob(&layout, manifest)?)?;
        for layer in manifest["layers"].as_array().context("no layers")? {
            extract(&blob(&layout, layer)?, &directory.join("rootfs"))?;
        }
        let config = read(&blob(&layout, &manifest["config"])?)?;
        fs::remove_dir_all(&layout).with_context(|| format!("remove {}", layout.display()))?;
        Ok(Self { reference, config })
    }

    /// The name under which a container runtime has it once it is loaded.
    pub fn reference(&self) -> &str {
        &self.reference
    }

    /// A list of texts in its configuration, such as `Env` or `Entrypoint`.
    pub fn list(&self, field: &str) -> Result<Vec<String>> {
        match &self.config["config"][field] {
            Value::Null => Ok(Vec::new()),
            list => serde_json::from_value(list.clone())
                .with_context(|| format!("{field} of the image is no list of texts")),
        }
    }
}

fn archive() -> Result<PathBuf> {
    if let Some(path) = env::var_os(VARIABLE) {
        return Ok(path.into());
    }
    MADE.iter()
        .map(|path| Path::new(env!("CARGO_MANIFEST_DIR")).join(path))
        .find(|path| path.is_file())
        .with_context(|| format!("no image: run `cargo xtask image`, or set {VARIABLE}"))
}

fn extract(archive: &Path, into: &Path) -> Result<()> {
    fs::create_dir_all(into).with_context(|| format!("create {}", into.display()))?;
    let mut command = Command::new("tar");
    command.arg("-xf").arg(archive).arg("-C").arg(into);
    finish(command, None)
        .map(drop)
        .with_context(|| format!("unpack {}", archive.display()))
}

fn blob(layout: &Path, descriptor: &Value) -> Result<PathBuf> {
    let digest = descriptor["digest"].as_str().context("no digest")?;
    let (algorithm, hash) = digest.split_once(':').context("no digest")?;
    ensure!(!hash.contains('/'), "{digest} is no digest");
    Ok(layout.join("blobs").join(algorithm).join(hash))
}

fn read(path: &Path) -> Result<Value> {
    let text = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is no JSON", path.display()))
}
