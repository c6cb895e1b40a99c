//! `cargo xtask docs`: the reference in `docs/reference`, which is made from the code, and the book.

use anyhow::{Context as _, Result};

use crate::process::{cargo, command, run as run_command, say, step};
use crate::tools::MDBOOK;
use crate::workspace::Workspace;

/// What to do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Write no page; fail if one is not as the code would have it.
    pub check: bool,
    /// Build mdbook if it is missing.
    pub install_mdbook: bool,
}

/// Writes or checks the reference, then builds the book if mdbook is there.
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
    // Of all crates, as the tests are: for one package alone the dependencies have other features and are built anew.
    let result = run_command(
        cargo(workspace.root())
            .args(["run", "--quiet", "--example=reference"])
            .args(argument),
    );
    if check {
        result.context("`cargo xtask docs` writes the pages anew")
    } else {
        result
    }
}
