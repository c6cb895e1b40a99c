//! `cargo xtask docs`: generates `docs/reference` from the code, and builds the book.

use anyhow::{Context as _, Result};

use crate::process::{cargo, command, run as run_command, say, step};
use crate::tools::MDBOOK;
use crate::workspace::Workspace;

/// The command line.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Generate nothing; fail if a page differs from the code.
    pub check: bool,
    /// Build mdbook if it is missing.
    pub install_mdbook: bool,
}

/// Generates or checks the reference, then builds the book if mdbook is installed.
pub fn run(workspace: &Workspace, options: Options) -> Result<()> {
    reference(workspace, options.check)?;
    let Some(mdbook) = MDBOOK.find(workspace, options.install_mdbook)? else {
        say("the book is not built: no mdbook (`cargo xtask docs --mdbook` installs it)");
        return Ok(());
    };
    step("Building the book: target/book/index.html");
    run_command(
        command(mdbook)
            .arg("build")
            .arg(workspace.root().join("docs")),
    )
}

fn reference(workspace: &Workspace, check: bool) -> Result<()> {
    let (verb, argument) = if check {
        ("Checking", &["--", "--check"][..])
    } else {
        ("Writing", &[][..])
    };
    step(&format!(
        "{verb} docs/reference, which is made from the code"
    ));
    // Without `--package`: for one package alone, dependencies would be built again with other features.
    let result = run_command(
        cargo(workspace.root())
            .args(["run", "--quiet", "--example=reference"])
            .args(argument),
    );
    if check {
        result.context("`cargo xtask docs` generates the pages again")
    } else {
        result
    }
}
