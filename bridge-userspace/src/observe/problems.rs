//! What is wrong at the moment, and since when. What comes and goes is logged once.

use std::collections::BTreeMap;

use tracing::{info, warn};

use super::report::OpenProblem;
use crate::model::Problem;

/// A remark about the bridge's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// What there is to say.
    pub problem: Problem,
    /// Whether somebody should do something about it. Else it is logged and no more.
    pub is_problem: bool,
}

impl From<Problem> for Notice {
    fn from(problem: Problem) -> Self {
        Self {
            problem,
            is_problem: true,
        }
    }
}

#[derive(Clone, Debug)]
struct Seen {
    since: String,
    is_problem: bool,
}

/// The notices in force.
#[derive(Debug, Default)]
pub struct Problems {
    seen: BTreeMap<Problem, Seen>,
}

impl Problems {
    /// Takes what is so at this time (RFC 3339), logs what is new and what is no longer so, and gives the new ones.
    pub fn update(
        &mut self,
        now: impl IntoIterator<Item = Notice>,
        time: impl Fn() -> String,
    ) -> Vec<Problem> {
        let mut before = std::mem::take(&mut self.seen);
        let mut new = Vec::new();
        for notice in now {
            let Notice {
                problem,
                is_problem,
            } = notice;
            let known = before
                .remove(&problem)
                .filter(|seen| seen.is_problem == is_problem);
            let seen = known.unwrap_or_else(|| {
                if is_problem {
                    warn!("{problem}");
                } else {
                    info!("{problem}");
                }
                new.push(problem.clone());
                Seen {
                    since: time(),
                    is_problem,
                }
            });
            self.seen.insert(problem, seen);
        }
        for problem in before.keys().filter(|gone| !self.seen.contains_key(gone)) {
            info!("no longer so: {problem}");
        }
        new
    }

    /// What somebody should do something about.
    #[must_use]
    pub fn open(&self) -> Vec<OpenProblem> {
        self.seen
            .iter()
            .filter(|(_, seen)| seen.is_problem)
            .map(|(problem, seen)| OpenProblem {
                problem: problem.clone(),
                since: seen.since.clone(),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Subject;

    fn problem(what: &str) -> Problem {
        Problem::new(Subject::Datapath, what, "mend it")
    }

    fn open(problems: &Problems) -> Vec<(String, String)> {
        problems
            .open()
            .into_iter()
            .map(|open| (open.problem.what, open.since))
            .collect()
    }

    #[test]
    fn a_problem_keeps_the_time_at_which_it_was_first_seen() {
        let mut problems = Problems::default();
        let new = problems.update([problem("a").into()], || "1".to_owned());
        assert_eq!(new, [problem("a")]);
        let new = problems.update([problem("a").into(), problem("b").into()], || {
            "2".to_owned()
        });
        assert_eq!(new, [problem("b")]);
        let pair = |what: &str, since: &str| (what.to_owned(), since.to_owned());
        assert_eq!(open(&problems), [pair("a", "1"), pair("b", "2")]);
        problems.update([problem("b").into()], || "3".to_owned());
        problems.update([problem("a").into(), problem("b").into()], || {
            "4".to_owned()
        });
        assert_eq!(open(&problems), [pair("a", "4"), pair("b", "2")]);
    }

    #[test]
    fn a_notice_that_is_no_problem_is_not_shown() {
        let mut problems = Problems::default();
        let notice = |is_problem| Notice {
            problem: problem("a"),
            is_problem,
        };
        assert_eq!(problems.update([notice(false)], String::new).len(), 1);
        assert!(problems.open().is_empty());
        // What somebody asked for since then is a problem where it can't be had.
        assert_eq!(problems.update([notice(true)], String::new).len(), 1);
        assert_eq!(problems.open().len(), 1);
    }
}
