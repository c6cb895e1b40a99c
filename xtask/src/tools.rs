//! Programs from crates.io: found on PATH, or built into `target/tools`.

use std::path::PathBuf;

use anyhow::Result;

use crate::process::{cargo, find, run, step};
use crate::workspace::Workspace;

/// A program with the name of its crate.
#[derive(Clone, Copy, Debug)]
pub struct CargoTool(pub &'static str);

/// Checks licences, bans, sources and advisories of the dependencies.
pub const DENY: CargoTool = CargoTool("cargo-deny");
/// Builds and runs fuzz targets.
pub const FUZZ: CargoTool = CargoTool("cargo-fuzz");
/// Makes HTML pages of the manual.
pub const MDBOOK: CargoTool = CargoTool("mdbook");

impl CargoTool {
    /// Its path. A missing program is built if `install` is set, which takes minutes.
    pub fn find(self, workspace: &Workspace, install: bool) -> Result<Option<PathBuf>> {
        let Self(name) = self;
        let own = workspace.tools().join("bin").join(name);
        let found = Some(own.clone())
            .filter(|path| path.is_file())
            .or_else(|| find(name));
        if found.is_some() || !install {
            return Ok(found);
        }
        step(&format!(
            "Building {name} into target/tools (several minutes, once)"
        ));
        run(cargo(workspace.root())
            .args(["install", name, "--locked", "--root"])
            .arg(workspace.tools())
            // Outside of the workspace, whose cargo configuration is not meant for the tool.
            .current_dir("/"))?;
        Ok(Some(own))
    }
}
