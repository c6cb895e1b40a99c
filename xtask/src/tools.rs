//! Programs of other people's crates: found on PATH, or built into `target/tools`.

use std::path::PathBuf;

use anyhow::Result;

use crate::process::{cargo, find, run, step};
use crate::workspace::Workspace;

/// A program, and the crate that has it, which has the same name.
#[derive(Clone, Copy, Debug)]
pub struct CargoTool(pub &'static str);

/// Licences, bans, sources and advisories of the dependencies.
pub const DENY: CargoTool = CargoTool("cargo-deny");
/// The manual as a book.
pub const MDBOOK: CargoTool = CargoTool("mdbook");

impl CargoTool {
    /// Where it is. If it is nowhere and `install` says so, it is built first, which takes minutes.
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
            // The target directory is none of the project's: its settings must not reach the tool.
            .current_dir("/"))?;
        Ok(Some(own))
    }
}
