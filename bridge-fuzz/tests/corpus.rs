//! The committed corpora, without a fuzzer: what a target has once been interested in, or has failed on.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use bridge_fuzz::{engine, frame};

#[test]
fn the_corpus_of_frames_finds_nothing() {
    replay("frame", frame::run);
}

#[test]
fn the_corpus_of_histories_finds_nothing() {
    replay("engine", engine::run);
}

fn replay(target: &str, run: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target);
    let mut inputs: Vec<PathBuf> = fs::read_dir(&corpus)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    inputs.sort();
    assert!(
        inputs.len() > 10,
        "{} is as good as empty",
        corpus.display()
    );
    let fails = |input: &PathBuf| {
        let data = fs::read(input).unwrap();
        catch_unwind(AssertUnwindSafe(|| run(&data))).is_err()
    };
    let failed: Vec<PathBuf> = inputs.into_iter().filter(fails).collect();
    assert!(failed.is_empty(), "the target fails on {failed:#?}");
}
