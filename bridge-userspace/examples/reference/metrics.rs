//! The metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;

use bridge_userspace::observe::http::example_metrics;

use crate::markdown::{code, codes, table};
use crate::source::Source;

#[derive(Default)]
struct Family {
    kind: String,
    help: String,
    labels: BTreeSet<String>,
}

pub fn page(_: &Source) -> Result<String, Box<dyn Error>> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let text = example_metrics()?;
    // Comments of OpenMetrics are `# HELP name text`, `# TYPE name type`; values are `name{label="value",…} value`.
    for line in text.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "HELP", name, help] => {
                help.clone_into(&mut families.entry(name.to_owned()).or_default().help);
            }
            ["#", "TYPE", name, kind] => {
                kind.clone_into(&mut families.entry(name.to_owned()).or_default().kind);
            }
            ["#", ..] => {}
            _ => {
                let Some((name, labels)) = line.split_once('{') else {
                    continue;
                };
                let labels = labels.split_once('}').map_or("", |(labels, _)| labels);
                // A series is the family's name with what its type adds (`_total`, `_bucket`, `_info`).
                let family = families
                    .iter_mut()
                    .filter(|(family, _)| name.starts_with(family.as_str()))
                    .max_by_key(|(family, _)| family.len());
                let Some((_, family)) = family else {
                    return Err(format!("{name} has no type").into());
                };
                for label in labels.split(',') {
                    let name = label.split_once('=').map_or(label, |(name, _)| name);
                    // A bucket's bound is part of every histogram.
                    if name != "le" {
                        family.labels.insert(name.to_owned());
                    }
                }
            }
        }
    }
    let rows = families.iter().map(|(name, family)| {
        let suffix = match family.kind.as_str() {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        [
            code(&format!("{name}{suffix}")),
            family.kind.clone(),
            codes(&family.labels),
            family.help.clone(),
        ]
    });
    Ok(format!(
        "# Metrics\n\n`/metrics` at `httpListen`, in the text format of OpenMetrics. Counters count from the moment when the \
         tables were made, so most of them go on over a restart of the process. A histogram has the series `_bucket`, `_sum` and \
         `_count`. What is worth an alert: [health and metrics](../operations/look.md#health-and-metrics).\n\n{}",
        table(["metric", "type", "labels", "meaning"], rows)
    ))
}
