//! Writes the pages in `docs/reference` from the code: `cargo run -p bridge-userspace --example reference`.
//!
//! With `--check` nothing is written; if a page differs from what would be written, it is named and the exit code is 1.
//!
//! | page | comes from |
//! |---|---|
//! | `flags.md` | clap's description of the command line |
//! | `configuration.md` | the table of settings, `config::settings` |
//! | `json.md` | the structs that the commands print, with their doc comments |
//! | `metrics.md` | the metrics themselves, written out with example values |
//! | `drop-reasons.md`, `tables.md` | the lists in `bridge-common` |

mod configuration;
mod flags;
mod json;
mod markdown;
mod metrics;
mod packets;
mod source;

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use crate::source::Source;

/// One page: the file's name, and how it is made.
type Page = (&'static str, fn(&Source) -> Result<String, Box<dyn Error>>);

const PAGES: [Page; 6] = [
    ("flags.md", flags::page),
    ("configuration.md", |_| Ok(configuration::page())),
    ("json.md", json::page),
    ("metrics.md", metrics::page),
    ("drop-reasons.md", |_| Ok(packets::drop_reasons())),
    ("tables.md", |_| packets::tables()),
];

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let is_check = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => false,
        [word] if word == "--check" => true,
        other => return Err(format!("{other:?}: only --check is known").into()),
    };
    let crates = Path::new(env!("CARGO_MANIFEST_DIR"));
    let source = Source::read(&crates.join("src"))?;
    let directory = crates.join("../docs/reference");
    let mut differing = 0;
    for (name, make) in PAGES {
        let text = format!(
            "<!-- Generated from the code by `cargo xtask docs`; changes made here are lost. -->\n\n{}",
            make(&source)?
        );
        let path = directory.join(name);
        if fs::read_to_string(&path).is_ok_and(|there| there == text) {
            continue;
        }
        if is_check {
            eprintln!("docs/reference/{name} differs from the code: run `cargo xtask docs`");
            differing += 1;
        } else {
            fs::create_dir_all(&directory)?;
            fs::write(&path, text)?;
            println!("docs/reference/{name}");
        }
    }
    Ok(ExitCode::from(u8::from(differing > 0)))
}
