//! Tasks that must live.
//!
//! A task that panics or returns is logged by its name and shown as down until it runs again. It is either started
//! again, after a delay that grows while it keeps failing, or the process ends with exit code 1: then the service
//! manager starts a new one, and the kernel forwards meanwhile.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use backon::{BackoffBuilder as _, ExponentialBuilder};
use futures::FutureExt as _;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing::warn;

/// Shortest and longest time between the end of a task and its next start.
const DELAY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// A task that has lived this long after its start is not down any more.
const PROBATION: Duration = Duration::from_secs(3);
/// A task that has lived this long begins with the shortest delay again.
const STEADY: Duration = Duration::from_mins(1);

/// Why a task does not run at the moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Down {
    /// The error that it returned, or the message of its panic.
    pub why: String,
}

/// The tasks that have ended and not proved since then that they live, by name.
pub type DownTasks = BTreeMap<&'static str, Down>;

/// Starts tasks and watches over them. They end when this is dropped.
#[derive(Default)]
pub struct Supervisor {
    restarted: JoinSet<()>,
    required: JoinSet<anyhow::Result<()>>,
    down: watch::Sender<DownTasks>,
}

impl Supervisor {
    /// Starts a task, and starts it again whenever it ends. It returns only what kept it from going on. `state` is what
    /// it finds at each start. Call it inside of the runtime.
    pub fn restart<T, F>(
        &mut self,
        name: &'static str,
        state: T,
        task: impl Fn(Arc<T>) -> F + Send + Sync + 'static,
    ) where
        T: Send + Sync + 'static,
        F: Future<Output = anyhow::Error> + Send,
    {
        let down = self.down.clone();
        let state = Arc::new(state);
        self.restarted.spawn(async move {
            let mut delays = delays();
            loop {
                let begun = Instant::now();
                let mut end = pin!(end_of(async { task(Arc::clone(&state)).await }));
                // A start alone proves nothing: what fails again at once has been down all the time.
                let why = tokio::select! {
                    why = &mut end => why,
                    () = sleep(PROBATION) => {
                        down.send_if_modified(|down| down.remove(name).is_some());
                        end.await
                    }
                };
                if begun.elapsed() >= STEADY {
                    delays = self::delays();
                }
                let delay = delays.next().unwrap_or(DELAY.1);
                warn!("{name} has ended: {why}; it is started again in {delay:.1?}");
                down.send_if_modified(|down| {
                    let down = down.entry(name).or_default();
                    std::mem::replace(&mut down.why, why.clone()) != why
                });
                sleep(delay).await;
            }
        });
    }

    /// Starts a task without which the process ends; see [`Supervisor::failure`]. A task that returns without an error
    /// was told to. Call it inside of the runtime.
    pub fn require(
        &mut self,
        name: &'static str,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        self.required.spawn(async move {
            match AssertUnwindSafe(task).catch_unwind().await {
                Ok(ended) => ended.with_context(|| format!("{name} broke down")),
                Err(panic) => bail!("{name} broke down: {}", message_of(&*panic)),
            }
        });
    }

    /// The tasks that are down.
    #[must_use]
    pub fn down(&self) -> watch::Receiver<DownTasks> {
        self.down.subscribe()
    }

    /// Waits until a required task has failed.
    pub async fn failure(&mut self) -> anyhow::Error {
        while let Some(ended) = self.required.join_next().await {
            if let Err(error) = ended.map_err(anyhow::Error::from).flatten() {
                return error;
            }
        }
        std::future::pending().await
    }

    /// Waits until every required task has ended, which somebody else tells them to.
    ///
    /// # Errors
    /// When one of them fails.
    pub async fn required_have_ended(&mut self) -> anyhow::Result<()> {
        while let Some(ended) = self.required.join_next().await {
            ended??;
        }
        Ok(())
    }
}

fn delays() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(DELAY.0)
        .with_max_delay(DELAY.1)
        .without_max_times()
        .build()
}

/// What a task ended with, however it ended.
async fn end_of(task: impl Future<Output = anyhow::Error>) -> String {
    match AssertUnwindSafe(task).catch_unwind().await {
        Ok(error) => format!("{error:#}"),
        Err(panic) => message_of(&*panic),
    }
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("it panicked: {}", text.unwrap_or("without a message"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use anyhow::anyhow;

    use super::*;

    const TASK: &str = "the task";

    /// A task that ends in this way the first `times`, and lives then.
    fn failing(times: u32, end: fn() -> anyhow::Error) -> (Arc<AtomicU32>, Supervisor) {
        let starts = Arc::new(AtomicU32::new(0));
        let mut supervisor = Supervisor::default();
        supervisor.restart(TASK, Arc::clone(&starts), move |starts| async move {
            if starts.fetch_add(1, Ordering::Relaxed) < times {
                end()
            } else {
                std::future::pending().await
            }
        });
        (starts, supervisor)
    }

    async fn why_down(supervisor: &Supervisor) -> String {
        let mut down = supervisor.down();
        let down = down.wait_for(|down| !down.is_empty()).await.unwrap();
        down[TASK].why.clone()
    }

    #[tokio::test]
    async fn a_task_that_panics_is_down_and_then_started_again() {
        let (starts, supervisor) = failing(1, || panic!("index out of bounds"));
        assert_eq!(
            why_down(&supervisor).await,
            "it panicked: index out of bounds"
        );
        assert_eq!(starts.load(Ordering::Relaxed), 1);
        let mut down = supervisor.down();
        down.wait_for(DownTasks::is_empty).await.unwrap();
        while starts.load(Ordering::Relaxed) != 2 {
            sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn a_task_that_returns_is_down_with_its_error() {
        let (_, supervisor) = failing(1, || anyhow!("socket").context("no notifications"));
        assert_eq!(why_down(&supervisor).await, "no notifications: socket");
    }

    #[test]
    fn a_task_that_keeps_failing_is_started_ever_more_rarely() {
        let seconds: Vec<u64> = delays().take(7).map(|delay| delay.as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 30, 30]);
    }

    #[tokio::test]
    async fn without_a_required_task_the_process_ends() {
        let mut supervisor = Supervisor::default();
        supervisor.require("the relay", async { panic!("no sockets") });
        let failure = supervisor.failure().await;
        assert_eq!(
            failure.to_string(),
            "the relay broke down: it panicked: no sockets"
        );
        supervisor.require("the listener", async { Err(anyhow!("closed")) });
        let failure = supervisor.failure().await;
        assert_eq!(format!("{failure:#}"), "the listener broke down: closed");
    }

    #[tokio::test]
    async fn a_required_task_that_was_told_to_end_is_no_failure() {
        let mut supervisor = Supervisor::default();
        supervisor.require("the relay", async { Ok(()) });
        let failure = tokio::time::timeout(Duration::from_millis(200), supervisor.failure());
        assert!(failure.await.is_err());
        supervisor.required_have_ended().await.unwrap();
    }
}
