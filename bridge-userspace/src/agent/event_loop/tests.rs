use std::collections::BTreeSet;
use std::sync::Mutex;

use anyhow::anyhow;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::agent::inputs::Needs;
use crate::agent::listeners::Listeners;
use crate::cluster::{Publisher, channel};
use crate::conntrack::in_use::InUse;
use crate::datapath::Mode;
use crate::kernel::ReservedPorts;
use crate::kernel::netlink::{MirrorView, NetworkState};
use crate::maps::Pins;
use crate::model::program::AttachPoint;
use crate::observe::report::Overtaken;
use crate::observe::state_file::StateFile;

#[tokio::test]
async fn a_change_of_the_cluster_is_applied_with_what_the_kernel_was_last_read_to_be() {
    let mut lab = Lab::start();
    lab.read_at.send_replace(clock::now());
    lab.publisher.publish(cluster("a"), Instant::now());
    lab.applied(|facts| whats_of(&facts.cluster) == ["a"]).await;
    lab.wait_for(|report| whats(report).contains(&"a".to_owned()))
        .await;
    lab.stop().await.unwrap();
}

#[tokio::test]
async fn changed_hooks_are_looked_at_where_nothing_else_has_changed() {
    let mut lab = Lab::start();
    // The first tick comes at once.
    lab.applied(|_| true).await;
    lab.facts.borrow_and_update();
    lab.hooks.send_replace(());
    timeout(Duration::from_secs(5), lab.facts.changed())
        .await
        .expect("before the next tick")
        .unwrap();
    lab.stop().await.unwrap();
}

#[tokio::test]
async fn what_is_not_in_force_is_reported_until_it_is() {
    let mut lab = Lab::start();
    lab.failure
        .lock()
        .unwrap()
        .replace("the table is full".to_owned());
    lab.publisher.publish(cluster("a"), Instant::now());
    let failed = "not all is in force: the table is full".to_owned();
    lab.wait_for(|report| whats(report).contains(&failed)).await;
    lab.failure.lock().unwrap().take();
    lab.publisher.publish(cluster("b"), Instant::now());
    lab.wait_for(|report| whats(report) == ["b"]).await;
    lab.stop().await.unwrap();
}

#[tokio::test]
async fn a_follower_that_panics_is_reported_by_name_while_it_is_down() {
    let mut lab = Lab::start_with(|supervisor| {
        supervisor.restart("the follower", (), |_| async {
            panic!("index out of bounds")
        });
    });
    let report = lab
        .wait_for(|report| !report.open_problems.is_empty())
        .await;
    let problem = &report.open_problems[0].problem;
    assert_eq!(problem.subject, Subject::Task("the follower".to_owned()));
    assert_eq!(
        problem.what,
        "the follower has ended: it panicked: index out of bounds"
    );
    lab.stop().await.unwrap();
}

#[tokio::test]
async fn a_mirror_that_is_not_read_any_more_is_reported() {
    let mut lab = Lab::start();
    lab.read_at
        .send_replace(clock::now().saturating_sub(LEASE + 5));
    lab.publisher.publish(cluster("a"), Instant::now());
    let report = lab.wait_for(|report| report.open_problems.len() == 2).await;
    let subjects: Vec<&Subject> = report
        .open_problems
        .iter()
        .map(|open| &open.problem.subject)
        .collect();
    assert!(subjects.contains(&&Subject::KernelNetwork), "{subjects:?}");
    lab.read_at.send_replace(clock::now());
    lab.publisher.publish(cluster("b"), Instant::now());
    lab.wait_for(|report| whats(report) == ["b"]).await;
    lab.stop().await.unwrap();
}

#[tokio::test]
async fn a_required_task_that_fails_ends_the_process() {
    let lab = Lab::start_with(|supervisor| {
        supervisor.require("the relay", async { Err(anyhow!("no sockets")) });
    });
    let error = lab.ended().await.unwrap_err();
    assert_eq!(format!("{error:#}"), "the relay broke down: no sockets");
}

#[tokio::test]
async fn a_source_that_nobody_follows_any_more_ends_the_process() {
    let lab = Lab::start();
    let Lab {
        publisher, running, ..
    } = lab;
    drop(publisher);
    let ended = timeout(Duration::from_secs(10), running).await;
    let error = ended.unwrap().unwrap().unwrap_err();
    assert_eq!(error.to_string(), "nobody follows the cluster any more");
}

#[tokio::test]
async fn whether_the_cluster_is_followed_is_an_event() {
    let mut lab = Lab::start();
    lab.publisher.in_touch();
    lab.wait_for(|report| {
        report
            .cluster_state
            .as_ref()
            .is_some_and(|state| state.connected)
    })
    .await;
    lab.publisher.lost("connection refused".to_owned());
    let report = lab.wait_for(|report| report.events.len() == 2).await;
    assert_eq!(
        report.events[1].message,
        "changes of the cluster don't come in: connection refused"
    );
    lab.stop().await.unwrap();
}

/// An event loop whose kernel is a recorder.
struct Lab {
    publisher: Publisher,
    read_at: watch::Sender<Seconds>,
    _network: watch::Sender<Arc<NetworkState>>,
    hooks: watch::Sender<()>,
    facts: watch::Receiver<Option<Facts>>,
    failure: Arc<Mutex<Option<String>>>,
    report: watch::Receiver<Option<Report>>,
    stop: oneshot::Sender<()>,
    running: JoinHandle<anyhow::Result<()>>,
    _directory: TempDir,
}

impl Lab {
    fn start() -> Self {
        Self::start_with(|_| {})
    }

    fn start_with(supervise: impl FnOnce(&mut Supervisor)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = Arc::new(config());
        let (publisher, feed) = channel();
        let (read_at, read_at_view) = watch::channel(clock::now());
        let (network, state) = watch::channel(Arc::default());
        let (hooks, hooks_view) = watch::channel(());
        let (watched, _) = watch::channel(Vec::new());
        let view = MirrorView {
            state,
            read_at: read_at_view,
            hooks: hooks_view,
        };
        let inputs = Inputs::new(
            Arc::clone(&config),
            feed,
            Arc::default(),
            view,
            watched,
            ReservedPorts::default(),
            Needs {
                before: Arc::default(),
                last: watch::channel(Arc::default()).1,
                look: Box::new(InUse::default),
            },
        );
        let (applied, facts) = watch::channel(None);
        let failure = Arc::new(Mutex::new(None));
        let forward = Recorder {
            applied,
            failure: Arc::clone(&failure),
        };
        let reporter = Reporter::new(StateFile::at(directory.path().join("bridge.json")));
        let report = reporter.live();
        let mut supervisor = Supervisor::default();
        supervise(&mut supervisor);
        let pins = Pins::new(directory.path());
        let listeners = Listeners::bind(&config).unwrap();
        let served = listeners
            .serve(&pins, report.clone(), &mut supervisor)
            .unwrap();
        let reports = Reports::new(config, reporter, EventLog::default());
        let event_loop = EventLoop::new(inputs, forward, reports, supervisor, served);
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(event_loop.run(async {
            let _ = stopped.await;
        }));
        Self {
            publisher,
            read_at,
            _network: network,
            hooks,
            facts,
            failure,
            report,
            stop,
            running,
            _directory: directory,
        }
    }

    async fn applied(&mut self, expected: impl Fn(&Facts) -> bool) {
        let seen = self
            .facts
            .wait_for(|facts| facts.as_ref().is_some_and(&expected));
        timeout(Duration::from_secs(10), seen)
            .await
            .unwrap()
            .unwrap();
    }

    #[track_caller]
    fn wait_for(&mut self, expected: impl Fn(&Report) -> bool) -> impl Future<Output = Report> {
        let report = &mut self.report;
        async move {
            let seen = report.wait_for(|report| report.as_ref().is_some_and(&expected));
            if let Ok(seen) = timeout(Duration::from_secs(10), seen).await {
                return seen.unwrap().clone().unwrap();
            }
            panic!("reported {:#?}", report.borrow());
        }
    }

    async fn stop(self) -> anyhow::Result<()> {
        self.stop.send(()).unwrap();
        self.running.await.unwrap()
    }

    async fn ended(self) -> anyhow::Result<()> {
        let ended = timeout(Duration::from_secs(10), self.running).await;
        ended.unwrap().unwrap()
    }
}

/// Keeps what it is asked to apply.
struct Recorder {
    applied: watch::Sender<Option<Facts>>,
    failure: Arc<Mutex<Option<String>>>,
}

impl Forward for Recorder {
    async fn apply(&mut self, facts: &Facts) -> Applied {
        self.applied.send_replace(Some(facts.clone()));
        let failure = self.failure.lock().unwrap().clone();
        Applied {
            notices: Vec::new(),
            xdp_notices: Vec::new(),
            is_reconciled: failure.is_none(),
            outcome: failure.map_or(Ok(()), |why| Err(anyhow!(why))),
        }
    }

    fn tc_mode(&self) -> Mode {
        Mode::Tcx
    }

    fn attach_points(&self) -> Vec<AttachPoint> {
        Vec::new()
    }

    fn programs(&self) -> BTreeSet<u32> {
        BTreeSet::new()
    }

    fn overtaken(&self) -> Vec<Overtaken> {
        Vec::new()
    }
}

fn config() -> Config {
    Config::example("--no-http --pin-path /sys/fs/bpf/office-bridge-event-loop")
}

/// A cluster that has nothing but a problem.
fn cluster(problem: &str) -> DesiredState {
    DesiredState {
        problems: vec![Problem::new(Subject::Cluster, problem, "mend it")],
        ..DesiredState::default()
    }
}

fn whats(report: &Report) -> Vec<String> {
    report
        .open_problems
        .iter()
        .map(|open| open.problem.what.clone())
        .collect()
}

fn whats_of(cluster: &DesiredState) -> Vec<&str> {
    let problems = cluster.problems.iter();
    problems.map(|problem| problem.what.as_str()).collect()
}
