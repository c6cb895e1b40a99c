use std::fs;

use tempfile::TempDir;

use super::*;

#[test]
fn a_circle_is_named_with_files_lines_and_both_steps() {
    let found = with_second("use crate::second::Second;\n\npub struct First(Second);");
    assert_eq!(
        found,
        ["these files use each other in a circle:\
          \n         src/first.rs:1 uses `crate::second::Second` of src/second.rs:2\
          \n         src/second.rs:1 uses `crate::first::First` of src/first.rs:3"]
    );
}

#[test]
fn each_way_to_use_another_file_is_seen() {
    let uses = [
        "use super::second::Second;",
        "use crate::second::{self, Second as Other};",
        "use crate::second::*;",
        "use crate::second; fn f() { second::call() }",
        "use crate::second as other; fn f() { other::call() }",
        "fn f() { use crate::second; second::call() }",
        "fn f() { crate::second::call() }",
        "fn f(_: &[super::second::Second]) {}",
        "impl From<crate::second::Second> for First { }",
        "fn f() { assert!(true, \"{:?}\", vec![crate::second::call()]) }",
        "#[arg(value_parser = crate::second::call)] struct Args;",
        "macro_rules! m { () => { $crate::second::call() } }",
        "mod inner { use super::super::second::Second; }",
        "pub use super::second::Second;",
    ];
    for text in uses {
        let found = with_second(&format!("{text} pub struct First;"));
        assert_eq!(found.len(), 1, "{text}: {found:?}");
    }
}

#[test]
fn what_is_of_another_crate_or_for_tests_is_no_use() {
    let no_uses = [
        "use second::Second;",
        "use ::second::Second;",
        "fn f(x: second::Second) { x.second::<u8>() }",
        "#[cfg(test)] use crate::second::Second;",
        "#[cfg(test)] mod tests { use crate::second::Second; }",
        "#[cfg(all(test, unix))] fn f() { crate::second::call() }",
        "fn f() { #[cfg(test)] use crate::second::Second; }",
        "#[test] fn f() { crate::second::call() }",
        "impl First { #[cfg(test)] fn f() { crate::second::call() } }",
        "pub(in crate::second) fn f() {}",
        "/// See [`crate::second::call`].\nfn f() {}",
    ];
    for text in no_uses {
        let found = with_second(&format!("{text} pub struct First;"));
        assert_eq!(found, [""; 0], "{text}");
    }
    let compiled = "#[cfg(any(test, unix))] use crate::second::Second; pub struct First;";
    assert_eq!(with_second(compiled).len(), 1);
}

#[test]
fn a_longer_circle_is_a_chain_and_told_once() {
    let found = breaches(&[
        ("src/lib.rs", "mod a; mod b; mod c;"),
        ("src/a.rs", "use crate::b::B; pub struct A;"),
        ("src/b.rs", "use crate::c::C; pub struct B;"),
        ("src/c.rs", "use crate::a::A; pub struct C;"),
    ]);
    assert_eq!(found.len(), 1, "{found:?}");
    let files: Vec<&str> = found[0]
        .lines()
        .skip(1)
        .filter_map(|line| line.trim().split(':').next())
        .collect();
    assert_eq!(files, ["src/a.rs", "src/b.rs", "src/c.rs"]);
}

#[test]
fn one_import_that_closes_several_circles_is_told_once() {
    let found = breaches(&[
        ("src/lib.rs", "mod top; mod left; mod right; mod low;"),
        (
            "src/top.rs",
            "use crate::{left::L, right::R}; pub struct T;",
        ),
        ("src/left.rs", "use crate::low::W; pub struct L;"),
        ("src/right.rs", "use crate::low::W; pub struct R;"),
        ("src/low.rs", "use crate::top::T; pub struct W;"),
    ]);
    assert_eq!(found.len(), 1, "{found:?}");
}

#[test]
fn two_circles_through_one_file_are_told_both() {
    let found = breaches(&[
        ("src/lib.rs", "mod a; mod b; mod c;"),
        ("src/a.rs", "use crate::{b::B, c::C}; pub struct A;"),
        ("src/b.rs", "use crate::a::A; pub struct B;"),
        ("src/c.rs", "use crate::a::A; pub struct C;"),
    ]);
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn a_parent_that_only_re_exports_is_in_no_circle() {
    let shared = "pub struct Shared;";
    for facade in [
        "pub use self::right::Right;",
        "pub use right::*;",
        "pub(crate) use right::Right;",
    ] {
        assert_eq!(with_parent(&format!("{facade} {shared}"), ""), [""; 0]);
    }
}

#[test]
fn a_parent_whose_code_uses_what_it_re_exports_is_in_a_circle() {
    let uses = [
        "pub use self::right::Right; fn f(_: Right) {}",
        "pub use self::right::*; fn f(_: Right) {}",
        "use self::right::Right;",
        "fn f(_: right::Right) {}",
    ];
    for text in uses {
        let found = with_parent(&format!("pub struct Shared; {text}"), "");
        assert_eq!(found.len(), 1, "{text}: {found:?}");
    }
    let variable =
        "pub use self::right::shade; fn f(shade: u8) -> u8 { shade + 1 } pub struct Shared;";
    assert_eq!(with_parent(variable, ""), [""; 0]);
    let method =
        "pub use self::right::shade; fn f(x: u8) { assert!(x.shade()) } pub struct Shared;";
    assert_eq!(with_parent(method, ""), [""; 0]);
}

#[test]
fn a_name_that_the_parent_re_exports_belongs_to_the_sibling_that_defines_it() {
    let facade = "pub use self::{left::Shared, right::Right};";
    let found = with_parent(facade, "use super::Right; pub struct Shared;");
    assert_eq!(
        found,
        ["these files use each other in a circle:\
          \n         src/parent/left.rs:1 uses `super::Right` of src/parent/right.rs:1\
          \n         src/parent/right.rs:1 uses `super::Shared` of src/parent/left.rs:1"]
    );
    assert_eq!(with_parent(facade, "pub struct Shared;"), [""; 0]);
}

#[test]
fn files_are_found_where_the_compiler_finds_them() {
    let found = breaches(&[
        ("src/main.rs", "mod a; #[path = \"../shared/b.rs\"] mod b;"),
        ("src/a.rs", "mod inner { mod deep; }"),
        ("src/a/inner/deep.rs", "use crate::b::B; pub struct Deep;"),
        (
            "shared/b.rs",
            "use crate::a::inner::deep::Deep; pub struct B;",
        ),
    ]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("shared/b.rs:1"), "{found:?}");
}

#[test]
fn an_exported_macro_is_at_the_root_and_of_its_file() {
    let found = breaches(&[
        ("src/lib.rs", "mod a; mod b;"),
        (
            "src/a.rs",
            "use crate::b::B;\n#[macro_export] macro_rules! table { () => {} }",
        ),
        ("src/b.rs", "crate::table!(); pub struct B;"),
    ]);
    assert_eq!(found.len(), 1, "{found:?}");
}

#[test]
fn what_can_not_be_read_is_an_error_with_its_place() {
    let error = |files: &[(&str, &str)]| {
        let (directory, roots) = workspace(files);
        format!(
            "{:#}",
            find(directory.path(), &roots).expect_err("no such crate")
        )
    };
    let broken = error(&[("src/lib.rs", "mod a;"), ("src/a.rs", "\nfn f( {}")]);
    assert!(broken.contains("src/a.rs:2"), "{broken}");
    let absent = error(&[("src/lib.rs", "\nmod a;")]);
    assert!(absent.contains("src/lib.rs:2"), "{absent}");
}

#[test]
fn a_room_uses_those_below_it_only() {
    let root = (
        "lib.rs",
        "pub mod agent; pub mod plan; pub mod maps; fn version() {}",
    );
    let maps = ("maps/mod.rs", "pub struct Table;");
    let well = rooms(&[
        root,
        ("agent.rs", "use crate::plan::Plan; use crate::maps::Table;"),
        (
            "plan/mod.rs",
            "mod hops; pub use crate::maps::Table; pub struct Plan(Table);",
        ),
        ("plan/hops.rs", "fn f(_: super::Table) {}"),
        maps,
    ]);
    assert_eq!(well, [""; 0]);
    let badly = rooms(&[
        root,
        ("agent.rs", "pub fn now() {} pub use crate::maps::Table;"),
        ("plan/mod.rs", "mod hops; fn f() { crate::version() }"),
        (
            "plan/hops.rs",
            "fn f() {\n crate::agent::now() }\n use crate::agent::Table;",
        ),
        maps,
    ]);
    assert_eq!(
        badly,
        [
            "bridge-userspace/src/plan/hops.rs:2 uses `crate::agent::now` of bridge-userspace/src/agent.rs:1: \
             the room `plan` is below `agent.rs` and must not use it",
            "bridge-userspace/src/plan/hops.rs:3 uses `crate::agent::Table` of bridge-userspace/src/agent.rs: \
             the room `plan` is below `agent.rs` and must not use it",
            "bridge-userspace/src/plan/mod.rs:1 uses `crate::version` of bridge-userspace/src/lib.rs:1: \
             the room `plan` is below `lib.rs` and must not use it",
        ]
    );
}

#[test]
fn what_is_in_no_room_is_found() {
    let found = rooms(&[
        ("lib.rs", "mod model; mod helpers;"),
        ("model.rs", ""),
        ("helpers.rs", ""),
    ]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with("bridge-userspace/src/helpers.rs is none of the rooms"),
        "{found:?}"
    );
}

#[test]
fn the_top_has_no_more_entries_than_rooms() {
    let every = rooms::ROOMS.map(|room| (format!("{room}/mod.rs"), ""));
    let mut files: Vec<(&str, &str)> = every
        .iter()
        .map(|(name, text)| (name.as_str(), *text))
        .collect();
    files.extend([("lib.rs", ""), ("main.rs", "")]);
    assert_eq!(rooms(&files), [""; 0]);
    files.push(("model.rs", ""));
    let found = rooms(&files);
    assert_eq!(
        found,
        ["bridge-userspace/src has 17 entries, and may have 16"]
    );
}

#[test]
fn libraries_and_programs_are_checked_and_examples_are_not() {
    let target = |kind: &str, path: &str| format!(r#"{{"kind":["{kind}"],"src_path":"{path}"}}"#);
    let metadata = format!(
        r#"{{"packages":[{{"targets":[{},{}]}},{{"targets":[{},{},{}]}}]}}"#,
        target("lib", "/a/src/lib.rs"),
        target("test", "/a/tests/t.rs"),
        target("bin", "/b/src/main.rs"),
        target("example", "/b/examples/e.rs"),
        target("custom-build", "/b/build.rs"),
    );
    let roots = parse_roots(&metadata).expect("metadata");
    assert_eq!(
        roots,
        ["/a/src/lib.rs", "/b/src/main.rs"].map(PathBuf::from)
    );
}

/// Two files, the second of which uses a type of the first.
fn with_second(first: &str) -> Vec<String> {
    breaches(&[
        ("src/lib.rs", "mod first; mod second;"),
        ("src/first.rs", first),
        (
            "src/second.rs",
            "use crate::first::First;\npub struct Second(First);\npub fn call() {}",
        ),
    ])
}

/// A module with two modules in it, of which the second uses what the parent defines.
fn with_parent(parent: &str, left: &str) -> Vec<String> {
    breaches(&[
        ("src/main.rs", "mod parent;"),
        (
            "src/parent/mod.rs",
            &format!("mod left; mod right; {parent}"),
        ),
        ("src/parent/left.rs", left),
        (
            "src/parent/right.rs",
            "use super::Shared; pub struct Right;",
        ),
    ])
}

/// What is found in bridge-userspace with these files, below its `src`.
fn rooms(files: &[(&str, &str)]) -> Vec<String> {
    let files: Vec<(String, &str)> = files
        .iter()
        .map(|(name, text)| (format!("bridge-userspace/src/{name}"), *text))
        .collect();
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(name, text)| (name.as_str(), *text))
        .collect();
    breaches(&files)
}

/// The breaches in a workspace of these files. Each `lib.rs` and `main.rs` is the root of a crate.
fn breaches(files: &[(&str, &str)]) -> Vec<String> {
    let (directory, roots) = workspace(files);
    find(directory.path(), &roots).expect("the files are Rust")
}

fn workspace(files: &[(&str, &str)]) -> (TempDir, Vec<PathBuf>) {
    let directory = TempDir::new().expect("a directory");
    let empty = directory.path().join("bridge-userspace/src");
    fs::create_dir_all(empty).expect("write");
    let mut roots = Vec::new();
    for (name, text) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("write");
        fs::write(&path, text).expect("write");
        if path.ends_with("lib.rs") || path.ends_with("main.rs") {
            roots.push(path);
        }
    }
    (directory, roots)
}
