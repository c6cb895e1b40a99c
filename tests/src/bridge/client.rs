//! The commands of office-bridge that look at a running bridge or change it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Output;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::lab::Lab;
use crate::machine::netns::Namespace;

/// Runs the commands of `office-bridge` that look at a bridge or change it.
#[derive(Clone, Debug)]
pub struct Client {
    namespace: Namespace,
    pin_path: PathBuf,
}

impl Client {
    /// For the bridge of this lab, whether or not it runs.
    #[must_use]
    pub fn new(lab: &Lab) -> Self {
        Self {
            namespace: lab.node_30().namespace().clone(),
            pin_path: lab.pin_path(),
        }
    }

    /// A command such as `status -o json`, to its end.
    pub fn call(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = self.namespace.command(&binary()?.display().to_string());
        command
            .args(arguments)
            .arg("--pin-path")
            .arg(&self.pin_path);
        command
            .output()
            .with_context(|| format!("run office-bridge {}", arguments.join(" ")))
    }

    /// A command that must end well; its standard output.
    pub fn text(&self, arguments: &[&str]) -> Result<String> {
        let output = self.call(arguments)?;
        if !output.status.success() {
            bail!(
                "office-bridge {}: {}: {}",
                arguments.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        String::from_utf8(output.stdout).context("its output is not UTF-8")
    }

    /// A command with `-o json`.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.text(&[arguments, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| {
            format!(
                "office-bridge {} prints no JSON:\n{text}",
                arguments.join(" ")
            )
        })
    }

    /// `status -o json`.
    pub fn status(&self) -> Result<Value> {
        self.json(&["status"])
    }

    /// `uninstall`.
    pub fn uninstall(&self) -> Result<()> {
        self.text(&["uninstall"]).map(drop)
    }

    /// The namespace of node-30.
    pub(super) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Where the tables are pinned.
    #[must_use]
    pub fn pin_path(&self) -> &Path {
        &self.pin_path
    }

    /// The pin of the table `name`, whatever its layout version is.
    pub fn table(&self, name: &str) -> Result<PathBuf> {
        find(&self.pin_path, name)
            .with_context(|| format!("no {name} below {}", self.pin_path.display()))
    }
}

fn find(directory: &Path, name: &str) -> Option<PathBuf> {
    for entry in directory.read_dir().ok()?.flatten() {
        let path = entry.path();
        if entry.file_name() == name {
            return Some(path);
        }
        if path.is_dir()
            && let Some(found) = find(&path, name)
        {
            return Some(found);
        }
    }
    None
}

/// The program under test: `$OFFICE_BRIDGE_BIN`, else the one that was built beside this program.
pub fn binary() -> Result<PathBuf> {
    const NAME: &str = "office-bridge";
    if let Some(path) = env::var_os("OFFICE_BRIDGE_BIN") {
        return Ok(path.into());
    }
    let own = env::current_exe().context("find this program")?;
    let beside = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join(NAME));
    let built = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../target/debug")
        .join(NAME);
    beside
        .chain([built])
        .find(|path| path.is_file())
        .context("office-bridge is not built: run `cargo xtask build`, or set OFFICE_BRIDGE_BIN")
}
