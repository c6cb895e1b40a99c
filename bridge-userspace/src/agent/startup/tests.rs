use std::future::pending;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::timeout;

use super::*;
use crate::cluster::channel;

#[tokio::test]
async fn a_start_waits_for_the_cluster_and_shows_meanwhile_why() {
    let (publisher, mut feed) = channel();
    let (shown, mut seen) = watch::channel(Vec::new());
    let waiting = tokio::spawn(async move {
        let show = |connection: &SourceStatus| {
            shown.send_modify(|shown| shown.push(connection.last_error.clone()));
        };
        first_state(&mut feed, pending(), pending(), show).await
    });
    publisher.lost("connection refused".to_owned());
    let refused = seen.wait_for(|seen| seen.last() == Some(&Some("connection refused".to_owned())));
    timeout(Duration::from_secs(10), refused)
        .await
        .unwrap()
        .unwrap();
    let cluster = DesiredState {
        authoritative: true,
        ..DesiredState::default()
    };
    publisher.publish(cluster.clone(), Instant::now());
    let first = waiting.await.unwrap().unwrap();
    assert_eq!(first.as_deref(), Some(&cluster));
}

#[tokio::test]
async fn a_start_that_waits_can_be_stopped() {
    let (_publisher, mut feed) = channel();
    let stopped = first_state(&mut feed, async {}, pending(), |_| {})
        .await
        .unwrap();
    assert_eq!(stopped, None);
}

#[tokio::test]
async fn a_start_does_not_wait_for_a_source_that_nobody_follows() {
    let (publisher, mut feed) = channel();
    drop(publisher);
    let error = first_state(&mut feed, pending(), pending(), |_| {}).await;
    let error = error.unwrap_err();
    assert!(format!("{error:#}").contains("nobody follows"), "{error:#}");
}

#[tokio::test]
async fn a_start_that_waits_ends_with_a_required_task() {
    let (_publisher, mut feed) = channel();
    let failure = async { anyhow!("no sockets") };
    let error = first_state(&mut feed, pending(), failure, |_| {}).await;
    assert_eq!(error.unwrap_err().to_string(), "no sockets");
}

#[test]
fn what_an_earlier_process_has_left_is_shown_until_the_cluster_is_known() {
    let config = Config::example("");
    let connection = channel().1.connection.borrow().clone();
    let before = Report::example(7);
    let report = waiting_report(&config, Some(&before), &connection);
    assert!(!report.cluster_state.as_ref().unwrap().synced);
    assert_eq!(
        Report {
            cluster_state: None,
            ..report
        },
        Report { pid: 0, ..before }
    );
    assert_eq!(waiting_report(&config, None, &connection).pid, 0);
}

#[test]
fn events_of_another_cluster_are_not_gone_on_with() {
    let config = Config::example("");
    let event = Event {
        time: String::new(),
        message: "changes of the cluster don't come in".to_owned(),
    };
    let of = |cluster: &str| Report {
        cluster: cluster.to_owned(),
        events: vec![event.clone()],
        ..Report::example(7)
    };
    assert_eq!(events_of(Some(&of("static")), &config).len(), 1);
    assert!(events_of(Some(&of("kube")), &config).is_empty());
    assert!(events_of(None, &config).is_empty());
}
