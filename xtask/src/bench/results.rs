//! Figures, and the JSON file that they are kept in.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::machine::Facts;
use super::plan::Key;

/// All figures of a run, in the order of the rounds.
#[derive(Clone, Debug, Default)]
pub struct Results {
    samples: BTreeMap<Key, Vec<f64>>,
}

/// Errors, by the name of the session in which something could not be measured.
pub type Failures = BTreeMap<String, String>;

/// The figures of one cell, from all rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// The middle figure; with an even number of them, the mean of the two in the middle.
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Results {
    pub fn add(&mut self, key: Key, value: f64) {
        self.samples.entry(key).or_default().push(value);
    }

    /// `None` if nothing was measured.
    pub fn get(&self, key: Key) -> Option<Summary> {
        summary(self.samples.get(&key)?)
    }

    /// `None` if nothing was measured.
    pub fn median(&self, key: Key) -> Option<f64> {
        Some(self.get(key)?.median)
    }

    /// The JSON that a later run is compared with.
    pub fn to_json(&self, facts: &Facts, commit: &str) -> Value {
        let cells: Vec<Value> = self
            .samples
            .iter()
            .filter_map(|(key, samples)| {
                let Summary { median, min, max } = summary(samples)?;
                Some(json!({
                    "cell": key.to_string(), "unit": key.cell.unit(),
                    "median": median, "min": min, "max": max, "samples": samples,
                }))
            })
            .collect();
        json!({
            "commit": commit, "kernel": facts.kernel, "cpu": facts.cpu, "date": facts.date,
            "cells": cells,
        })
    }

    /// A table of the medians of this run and of an older one.
    pub fn compare(&self, older: &Path) -> Result<String> {
        let text =
            std::fs::read_to_string(older).with_context(|| format!("read {}", older.display()))?;
        let older: Value = serde_json::from_str(&text)
            .with_context(|| format!("{} is no JSON of a bench", older.display()))?;
        let medians: BTreeMap<&str, f64> = older["cells"]
            .as_array()
            .context("the older run has no cells")?
            .iter()
            .filter_map(|cell| Some((cell["cell"].as_str()?, cell["median"].as_f64()?)))
            .collect();
        let commit = older["commit"].as_str().unwrap_or("the older run");
        let mut table =
            format!("| cell | unit | {commit} | now | ratio |\n|---|---|---|---|---|\n");
        for (key, samples) in &self.samples {
            let name = key.to_string();
            let (Some(&then), Some(now)) = (medians.get(name.as_str()), summary(samples)) else {
                continue;
            };
            let unit = key.cell.unit();
            let (now, ratio) = (now.median, now.median / then);
            writeln!(
                table,
                "| {name} | {unit} | {then:.4e} | {now:.4e} | {ratio:.2} |"
            )?;
        }
        Ok(table)
    }
}

fn summary(samples: &[f64]) -> Option<Summary> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (min, max) = (*sorted.first()?, *sorted.last()?);
    let half = sorted.len() / 2;
    let median = if sorted.len().is_multiple_of(2) {
        f64::midpoint(sorted[half - 1], sorted[half])
    } else {
        sorted[half]
    };
    Some(Summary { median, min, max })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::plan::{Cell, Contestant, Network};

    #[test]
    fn the_median_of_an_even_number_of_rounds_is_the_mean_of_the_middle_two() {
        let mut results = Results::default();
        for value in [9.0, 1.0, 4.0, 2.0] {
            results.add(KEY, value);
        }
        let expected = Summary {
            median: 3.0,
            min: 1.0,
            max: 9.0,
        };
        assert_eq!(results.get(KEY), Some(expected));
    }

    #[test]
    fn an_older_run_is_compared_cell_by_cell() {
        let mut results = Results::default();
        results.add(KEY, 30.0);
        let path = std::env::temp_dir().join(format!("bench-{}.json", std::process::id()));
        let older = json!({"commit": "old", "cells": [
            {"cell": KEY.to_string(), "median": 20.0}, {"cell": "gone", "median": 1.0},
        ]});
        std::fs::write(&path, older.to_string()).unwrap();
        let table = results.compare(&path);
        std::fs::remove_file(&path).unwrap();
        let table = table.unwrap();
        assert!(table.contains("| 1.50 |"), "{table}");
        assert!(!table.contains("gone"), "{table}");
    }

    const KEY: Key = Key {
        network: Network::Vxlan,
        contestant: Contestant::Tc,
        services: 0,
        cell: Cell::Response,
    };
}
