//! Writing a diff to the tables.

use std::time::Instant;

use bridge_common::abi::{Affinity, AffinityKey};

use super::applied::Applied;
use super::changes::Changes;
use super::diff::{Diff, Step};
use super::write::Write;
use super::{affinity, services};
use crate::maps::TableError;

/// The tables that a reconciliation writes.
pub(super) trait TableWriter {
    /// Writes or removes one entry. An entry that is to be removed and is not there is as good as removed.
    fn write(&mut self, write: &Write) -> Result<(), TableError>;

    /// All entries of `affinity`.
    fn affinity(&self) -> Result<Vec<(AffinityKey, Affinity)>, TableError>;
}

impl Diff {
    /// Writes the steps in order, and notes each write that succeeds in `applied`, from which `self` was made, with the
    /// time `now`.
    ///
    /// # Errors
    /// The first that a table gave, or why the diff is not whole. What was written until then stays and is noted, so
    /// that the next diff goes on from there.
    pub(super) fn apply(
        self,
        applied: &mut Applied,
        tables: &mut impl TableWriter,
        now: Instant,
    ) -> Result<Changes, TableError> {
        let mut writing = Writing {
            applied,
            tables,
            now,
            changes: Changes::default(),
        };
        let mut error = None;
        for step in self.steps {
            let outcome = match step {
                Step::Required(writes) => match writing.write_all(&writes) {
                    Err((_, required)) => return Err(error.unwrap_or(required)),
                    Ok(()) => Ok(()),
                },
                Step::Independent(writes) => writing.write_or_undo(&writes),
                Step::ForgetClients => writing.forget_clients(),
            };
            error = error.or(outcome.err());
        }
        match error.or(self.refused) {
            Some(error) => Err(error),
            None => Ok(writing.changes),
        }
    }
}

struct Writing<'a, W> {
    applied: &'a mut Applied,
    tables: &'a mut W,
    now: Instant,
    changes: Changes,
}

impl<W: TableWriter> Writing<'_, W> {
    fn write(&mut self, write: &Write) -> Result<(), TableError> {
        self.tables.write(write)?;
        self.changes.count(write, &self.applied.tables);
        self.applied.record(write, self.now);
        Ok(())
    }

    /// Writes one after the other. An error comes with how many were written before.
    fn write_all(&mut self, writes: &[Write]) -> Result<(), (usize, TableError)> {
        for (count, write) in writes.iter().enumerate() {
            self.write(write).map_err(|error| (count, error))?;
        }
        Ok(())
    }

    /// Writes all, or takes back what was written until one failed, so that others have the room.
    fn write_or_undo(&mut self, writes: &[Write]) -> Result<(), TableError> {
        self.write_all(writes).map_err(|(count, error)| {
            // What can't be taken back either is an orphan that the next diff removes.
            let _ = self.write_all(&services::undo(&writes[..count]));
            error
        })
    }

    fn forget_clients(&mut self) -> Result<(), TableError> {
        let entries = self.tables.affinity()?;
        let lost = affinity::forget_lost(&self.applied.tables, &entries);
        self.write_all(&lost).map_err(|(_, error)| error)?;
        self.applied.affinity_is_stale = false;
        Ok(())
    }
}
