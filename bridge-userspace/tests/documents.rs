//! Links in the documents lead somewhere, and the configuration that the manual shows is accepted.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use bridge_userspace::config::{Config, Environment, RunArgs};

/// Documents beside the book.
const OUTSIDE: [&str; 4] = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
];

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The lines that are text: no code blocks, neither fenced nor indented by four after an empty line.
fn prose(text: &str) -> Vec<&str> {
    let mut is_fenced = false;
    let mut is_indented = false;
    let mut was_empty = true;
    let mut lines = Vec::new();
    for line in text.lines() {
        let is_fence = line.trim_start().starts_with("```");
        is_fenced ^= is_fence;
        let is_empty = line.trim().is_empty();
        is_indented = !is_empty && line.starts_with("    ") && (was_empty || is_indented);
        was_empty = is_empty;
        if !is_fence && !is_fenced && !is_indented {
            lines.push(line);
        }
    }
    lines
}

/// The text with code spans cut out.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join("")
}

/// Targets of the links and pictures of a document; each is on one line.
fn links(text: &str) -> Vec<String> {
    let mut targets = Vec::new();
    // A link's text may go over the end of a line.
    let joined = without_code(&prose(text).join("\n"));
    for part in joined.split("](").skip(1) {
        if let Some((target, _)) = part.split_once(')') {
            targets.push(target.to_owned());
        }
    }
    targets
}

/// The ids that GitHub and mdBook give to headings: lower case, spaces as hyphens, no other punctuation.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    let mut anchors = BTreeSet::new();
    for line in prose(text) {
        let Some(heading) = line.trim_start_matches('#').strip_prefix(' ') else {
            continue;
        };
        if !line.starts_with('#') {
            continue;
        }
        let id: String = heading
            .trim()
            .to_lowercase()
            .chars()
            .filter_map(|c| match c {
                ' ' => Some('-'),
                c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
                _ => None,
            })
            .collect();
        let earlier = seen.entry(id.clone()).or_default();
        anchors.insert(match *earlier {
            0 => id,
            n => format!("{id}-{n}"),
        });
        *earlier += 1;
    }
    anchors
}

/// The path without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                normal.pop();
            }
            Component::CurDir => {}
            other => normal.push(other),
        }
    }
    normal
}

/// What is wrong with the links of one document of a checkout.
fn broken_links(checkout: &Path, document: &Path) -> Vec<String> {
    let text = fs::read_to_string(checkout.join(document)).unwrap();
    let is_in_book = document.starts_with("docs");
    let mut broken = Vec::new();
    for link in links(&text) {
        if link.contains("://") || link.starts_with("mailto:") {
            continue;
        }
        let (file, anchor) = link
            .split_once('#')
            .map_or((&*link, None), |(file, anchor)| (file, Some(anchor)));
        let directory = document.parent().unwrap_or(Path::new(""));
        let target = if file.is_empty() {
            document.to_owned()
        } else {
            normal(&directory.join(file))
        };
        let mut report =
            |what: &str| broken.push(format!("{}: {link}: {what}", document.display()));
        if is_in_book && !target.starts_with("docs") {
            report("leads out of the book");
            continue;
        }
        let Some(anchor) = anchor else {
            if !checkout.join(&target).exists() {
                report("no such file");
            }
            continue;
        };
        match fs::read_to_string(checkout.join(&target)) {
            Ok(text) if !anchors(&text).contains(anchor) => report("no such heading"),
            Ok(_) => {}
            Err(_) => report("no such file"),
        }
    }
    broken
}

/// The Markdown files below a directory of a checkout.
fn pages(checkout: &Path, directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(checkout.join(directory)).unwrap() {
        let path = directory.join(entry.unwrap().file_name());
        if checkout.join(&path).is_dir() {
            found.extend(pages(checkout, &path));
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
    found
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let checkout = checkout();
    let broken: Vec<String> = OUTSIDE
        .iter()
        .map(PathBuf::from)
        .chain(pages(&checkout, Path::new("docs")))
        .flat_map(|document| broken_links(&checkout, &document))
        .collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_page_of_the_book_is_in_its_contents() {
    let checkout = checkout();
    let summary = fs::read_to_string(checkout.join("docs/SUMMARY.md")).unwrap();
    let listed: BTreeSet<PathBuf> = links(&summary)
        .iter()
        .map(|link| Path::new("docs").join(link))
        .collect();
    let mut there: BTreeSet<PathBuf> = pages(&checkout, Path::new("docs")).into_iter().collect();
    there.remove(Path::new("docs/SUMMARY.md"));
    assert_eq!(listed, there);
}

#[test]
fn what_the_book_includes_is_there() {
    let checkout = checkout();
    let mut included = 0;
    for page in pages(&checkout, Path::new("docs")) {
        let text = fs::read_to_string(checkout.join(&page)).unwrap();
        for part in text.split("{{#include ").skip(1) {
            let (include, _) = part.split_once("}}").unwrap();
            let (file, anchor) = include.split_once(':').unwrap();
            let source = checkout.join(normal(&page.parent().unwrap().join(file)));
            let source = fs::read_to_string(&source).unwrap();
            let (_, rest) = source
                .split_once(&format!("ANCHOR: {anchor} "))
                .unwrap_or_else(|| panic!("{}: {include}", page.display()));
            let (region, _) = rest.split_once(&format!("ANCHOR_END: {anchor} ")).unwrap();
            // It is shown in another directory than it is written in.
            assert_eq!(links(region), [""; 0], "{}: {include}", page.display());
            included += 1;
        }
    }
    assert!(included > 0);
}

#[test]
fn links_to_nowhere_are_found() {
    let checkout = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = checkout.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write(
        "README.md",
        "[a](docs/a.md) [b](docs/b.md)\n[c](docs/a.md#two-words)",
    );
    write(
        "docs/a.md",
        "# Two `words`\n\n    [code](nowhere.md)\n\n`[code](nowhere.md)` [x](#two-word)\n[out](../README.md)\n",
    );
    assert_eq!(
        broken_links(checkout.path(), Path::new("README.md")),
        ["README.md: docs/b.md: no such file"]
    );
    assert_eq!(
        broken_links(checkout.path(), Path::new("docs/a.md")),
        [
            "docs/a.md: #two-word: no such heading",
            "docs/a.md: ../README.md: leads out of the book"
        ]
    );
}

#[test]
fn the_configuration_of_the_guide_is_accepted() {
    let guide = fs::read_to_string(checkout().join("docs/guide/configure.md")).unwrap();
    let (_, rest) = guide.split_once("```yaml\n").unwrap();
    let (example, _) = rest.split_once("```").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bridge.yaml");
    fs::write(&file, example).unwrap();
    let flags = RunArgs {
        config: Some(file),
        ..RunArgs::default()
    };
    let (_, remarks) = Config::load(flags, Environment::default()).unwrap();
    assert!(remarks.is_empty(), "{remarks:?}");
}

/// The Rust files below a directory.
fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

#[test]
fn the_tests_that_the_rfc_page_names_are_there() {
    let checkout = checkout();
    let directories = [
        "tests/tests",
        "bridge-common/src",
        "bridge-common/tests/engine",
        "bridge-userspace/src",
    ];
    // As the page names them: the engine's by their directory too, a module's in its own file or in one beside it.
    let named = |file: &Path| {
        let stem = |path: &Path| {
            path.file_stem()
                .map(|stem| stem.to_string_lossy().into_owned())
        };
        let directory = file.parent().and_then(stem).unwrap_or_default();
        let stem = stem(file).unwrap_or_default();
        match (directory.as_str(), stem.as_str()) {
            ("engine", _) => format!("engine/{stem}"),
            (_, "tests" | "mod") => directory,
            _ => stem,
        }
    };
    let mut tests = BTreeSet::new();
    for file in directories
        .iter()
        .flat_map(|directory| sources(&checkout.join(directory)))
    {
        for line in fs::read_to_string(&file).unwrap().lines() {
            if let Some((_, rest)) = line.split_once("fn ")
                && let Some((name, _)) = rest.split_once('(')
            {
                tests.insert(format!("{}::{name}", named(&file)));
            }
        }
    }
    let page = fs::read_to_string(checkout.join("docs/rfc-compliance.md")).unwrap();
    let cited = page.split('`').skip(1).step_by(2);
    let cited: BTreeSet<&str> = cited.filter(|code| code.contains("::")).collect();
    assert!(cited.len() > 20, "{cited:?}");
    let lost: Vec<&&str> = cited
        .iter()
        .filter(|name| !tests.contains(**name))
        .collect();
    assert!(lost.is_empty(), "{lost:#?}");
}
