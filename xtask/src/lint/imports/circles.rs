//! Finds files that use each other in a circle: none of them can be read, moved or tested without the others. What two
//! files have in common belongs into a third one.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use petgraph::algo::{astar, tarjan_scc};
use petgraph::graphmap::DiGraphMap;

use super::dependencies::Dependency;

type Graph<'a> = DiGraphMap<&'a Path, &'a Dependency>;

/// Describes the shortest circle through each file that is in one.
pub fn find(dependencies: &[Dependency]) -> Vec<String> {
    let mut graph = Graph::new();
    for dependency in dependencies.iter().filter(|found| found.is_definer) {
        let (user, provider) = (dependency.user.as_path(), dependency.provider.as_path());
        // They are sorted: the first line that uses the other file is shown.
        if !graph.contains_edge(user, provider) {
            graph.add_edge(user, provider, dependency);
        }
    }
    let circles: BTreeSet<Vec<&Path>> = tarjan_scc(&graph)
        .iter()
        .filter(|files| files.len() > 1)
        .flatten()
        .filter_map(|file| shortest(&graph, file))
        .collect();
    circles
        .iter()
        .map(|circle| describe(&graph, circle))
        .collect()
}

/// The files of the shortest circle through a file. It begins with the first of them by name, so that it is the same
/// circle whichever of its files has been asked for.
fn shortest<'a>(graph: &Graph<'a>, start: &'a Path) -> Option<Vec<&'a Path>> {
    let (_, mut circle) = graph
        .neighbors(start)
        .filter_map(|next| astar(graph, next, |file| file == start, |_| 1, |_| 0))
        .min()?;
    let first = (0..circle.len()).min_by_key(|&place| circle[place])?;
    circle.rotate_left(first);
    Some(circle)
}

fn describe(graph: &Graph<'_>, circle: &[&Path]) -> String {
    let mut text = "these files use each other in a circle:".to_owned();
    let next = circle.iter().cycle().skip(1);
    for (user, provider) in circle.iter().zip(next) {
        if let Some(step) = graph.edge_weight(*user, *provider) {
            let _ = write!(text, "\n         {step}");
        }
    }
    text
}
