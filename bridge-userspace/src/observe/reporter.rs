//! Publishing the report: to the HTTP listener of this process, and in a file to everybody else.

use std::io;

use tokio::sync::watch;

use super::report::Report;
use super::state_file::StateFile;

/// The reporting end of a process.
#[derive(Debug)]
pub struct Reporter {
    file: StateFile,
    live: watch::Sender<Option<Report>>,
    written: Option<Report>,
}

impl Reporter {
    /// A reporter that has reported nothing.
    #[must_use]
    pub fn new(file: StateFile) -> Self {
        Self {
            file,
            live: watch::Sender::new(None),
            written: None,
        }
    }

    /// What is reported from now on.
    #[must_use]
    pub fn live(&self) -> watch::Receiver<Option<Report>> {
        self.live.subscribe()
    }

    /// Reports to this process alone: what is in force is still a predecessor's, or nothing.
    pub fn preview(&self, report: Report) {
        self.live.send_replace(Some(report));
    }

    /// Reports to everybody. The file is written where the report differs from the last one.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn publish(&mut self, report: Report) -> io::Result<()> {
        if self.written.as_ref() == Some(&report) {
            return Ok(());
        }
        let written = self.file.write(&report);
        if written.is_ok() {
            self.written = Some(report.clone());
        }
        self.live.send_replace(Some(report));
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_and_the_process_tell_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let file = StateFile::at(directory.path().join("bridge.json"));
        let mut reporter = Reporter::new(file.clone());
        let live = reporter.live();
        reporter.publish(Report::example(7)).unwrap();
        assert_eq!(live.borrow().as_ref(), Some(&Report::example(7)));
        assert_eq!(file.read().unwrap(), Some(Report::example(7)));
        // Not written again, else the file would be back.
        file.remove().unwrap();
        reporter.publish(Report::example(7)).unwrap();
        assert_eq!(file.read().unwrap(), None);
        reporter.publish(Report::example(8)).unwrap();
        assert_eq!(file.read().unwrap(), live.borrow().clone());
    }

    #[test]
    fn what_is_not_in_force_yet_is_not_in_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = StateFile::at(directory.path().join("bridge.json"));
        let reporter = Reporter::new(file.clone());
        reporter.preview(Report::example(7));
        assert!(reporter.live().borrow().is_some());
        assert_eq!(file.read().unwrap(), None);
    }
}
