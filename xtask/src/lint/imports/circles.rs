//! Finds files that use each other in a circle: none of them can be read, moved or tested without the others. What two
//! files have in common belongs into a third one.

use std::fmt::Write as _;
use std::path::Path;

use petgraph::algo::{astar, tarjan_scc};
use petgraph::graphmap::DiGraphMap;

use super::dependencies::Dependency;

type Graph<'a> = DiGraphMap<&'a Path, &'a Dependency>;

/// Describes circles that have no import in common, shortest first: a single wrong import may close many circles, and is
/// in one of these.
pub fn find(dependencies: &[Dependency]) -> Vec<String> {
    let mut graph = Graph::new();
    for dependency in dependencies.iter().filter(|found| found.is_definer) {
        let (user, provider) = (dependency.user.as_path(), dependency.provider.as_path());
        // They are sorted: the first line that uses the other file is shown.
        if !graph.contains_edge(user, provider) {
            graph.add_edge(user, provider, dependency);
        }
    }
    let mut circles = Vec::new();
    while let Some(circle) = shortest(&graph) {
        let next = circle.iter().cycle().skip(1);
        let steps = circle.iter().zip(next);
        let steps: Vec<&Dependency> = steps
            .filter_map(|(user, provider)| graph.remove_edge(*user, *provider))
            .collect();
        circles.push(describe(&steps));
    }
    circles
}

/// The files of the shortest circle.
fn shortest<'a>(graph: &Graph<'a>) -> Option<Vec<&'a Path>> {
    tarjan_scc(graph)
        .iter()
        .filter(|files| files.len() > 1)
        .flatten()
        .filter_map(|file| shortest_through(graph, file))
        .min_by_key(|circle| (circle.len(), circle.clone()))
}

/// The files of the shortest circle through a file. It begins with the first of them by name, so that it is the same
/// circle whichever of its files has been asked for.
fn shortest_through<'a>(graph: &Graph<'a>, start: &'a Path) -> Option<Vec<&'a Path>> {
    let (_, mut circle) = graph
        .neighbors(start)
        .filter_map(|next| astar(graph, next, |file| file == start, |_| 1, |_| 0))
        .min()?;
    let first = (0..circle.len()).min_by_key(|&place| circle[place])?;
    circle.rotate_left(first);
    Some(circle)
}

fn describe(steps: &[&Dependency]) -> String {
    let mut text = "these files use each other in a circle:".to_owned();
    for step in steps {
        let _ = write!(text, "\n         {step}");
    }
    text
}
