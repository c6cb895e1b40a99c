//! Following all objects of one kind.

use std::fmt::Debug;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use futures::StreamExt;
use http::StatusCode;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::access::describe;
use crate::cluster::{Change, Key, Kind, Object};

/// Longest time of a watch; then it is begun anew from where it was. A connection that something between here and
/// there has forgotten is noticed 5 s later.
const WATCH_SECONDS: u32 = 60;
/// How often to ask again for objects that are not to be had.
const ASK_AGAIN: Duration = Duration::from_secs(30);
/// How often it has to be refused to see objects that one can do without before one does: some 6 s.
const MAX_REFUSALS: u32 = 5;
/// Shortest and longest time between attempts.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// What a follower has to say.
#[derive(Debug)]
pub(super) enum Message {
    /// Objects have changed; a kind's first message of this sort is always a replacement.
    Change(Change),
    /// The API server has no such objects, or doesn't let us see them, which the text says.
    Absent(Kind, Option<String>),
    /// Objects of this kind are not to be had for the moment, and why.
    Refused(Kind, String),
    /// The API server is gone, or doesn't know us any more.
    Gone(String),
    /// The API server is well.
    Alive,
}

/// The follower of one kind.
pub(super) struct Follower<K> {
    pub(super) api: Api<K>,
    pub(super) kind: Kind,
    /// The name in RBAC rules: `services`, `endpointslices.discovery.k8s.io`.
    pub(super) resource: &'static str,
    /// Which objects.
    pub(super) fields: Option<&'static str>,
    /// The refusals (404 where there is no such resource, 403 where we may not see it) after which to do without.
    pub(super) without_on: &'static [StatusCode],
}

/// Waits ever longer.
pub(super) fn backoff() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(RETRY.0)
        .with_max_delay(RETRY.1)
        .without_max_times()
        .with_jitter()
        .build()
}

impl<K> Follower<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Into<Object> + 'static,
{
    /// Follows until nobody listens.
    pub(super) async fn run(self, sender: mpsc::Sender<Message>) {
        let mut delays = backoff();
        let mut refusals = 0;
        loop {
            let mut is_listed = false;
            let problem = self.list_and_watch(&sender, &mut is_listed).await;
            if is_listed {
                delays = backoff();
            }
            let (message, delay) = match problem {
                End::NobodyListens => return,
                // Rights may be about to come, as when everything is applied at once.
                End::Absent(Some(why)) if refusals < MAX_REFUSALS => {
                    refusals += 1;
                    (Message::Refused(self.kind, why), delays.next())
                }
                End::Absent(Some(why)) => (Message::Absent(self.kind, Some(why)), delays.next()),
                End::Absent(None) => (Message::Absent(self.kind, None), Some(ASK_AGAIN)),
                End::Refused(why) => (Message::Refused(self.kind, why), delays.next()),
                End::Gone(why) => (Message::Gone(why), delays.next()),
            };
            if sender.send(message).await.is_err() {
                return;
            }
            sleep(delay.unwrap_or(RETRY.1)).await;
        }
    }

    /// Lists, then follows changes, over broken watches too, until only a new list helps.
    async fn list_and_watch(&self, sender: &mpsc::Sender<Message>, is_listed: &mut bool) -> End {
        let config = watcher::Config {
            field_selector: self.fields.map(ToOwned::to_owned),
            timeout: Some(WATCH_SECONDS),
            ..watcher::Config::default()
        };
        let mut events = pin!(watcher::watcher(self.api.clone(), config));
        let mut listed = Vec::new();
        let mut delays = backoff();
        loop {
            let Some(event) = events.next().await else {
                return End::Gone("the watch has ended".to_owned());
            };
            let change = match event {
                Ok(Event::Init) => {
                    listed.clear();
                    continue;
                }
                Ok(Event::InitApply(object)) => {
                    listed.push(object.into());
                    continue;
                }
                Ok(Event::InitDone) => {
                    *is_listed = true;
                    Change::Replace(self.kind, std::mem::take(&mut listed))
                }
                Ok(Event::Apply(object)) => Change::Put(object.into()),
                Ok(Event::Delete(object)) => Change::Remove(self.kind, Key::of(object.meta())),
                Err(
                    watcher::Error::InitialListFailed(error)
                    | watcher::Error::WatchStartFailed(error),
                ) => {
                    return self.judge(&error);
                }
                Err(watcher::Error::NoResourceVersion) => {
                    return End::Refused(format!("{} can't be watched", self.resource));
                }
                // A broken stream goes on from where it was, an expired one lists anew.
                Err(watcher::Error::WatchFailed(_) | watcher::Error::WatchError(_)) => {
                    sleep(delays.next().unwrap_or(RETRY.1)).await;
                    continue;
                }
            };
            delays = backoff();
            if sender.send(Message::Change(change)).await.is_err() {
                return End::NobodyListens;
            }
        }
    }

    fn judge(&self, error: &kube::Error) -> End {
        let kube::Error::Api(status) = error else {
            return End::Gone(describe(error));
        };
        let is = |code: StatusCode| status.code == code.as_u16();
        if is(StatusCode::UNAUTHORIZED) {
            return End::Gone(describe(error));
        }
        if is(StatusCode::FORBIDDEN) {
            let why = format!(
                "the API server forbids us to see {} (403): grant list and watch on {}",
                self.resource, self.resource
            );
            return if self.without_on.contains(&StatusCode::FORBIDDEN) {
                End::Absent(Some(why))
            } else {
                End::Refused(why)
            };
        }
        if is(StatusCode::NOT_FOUND) && self.without_on.contains(&StatusCode::NOT_FOUND) {
            return End::Absent(None);
        }
        // Whatever the server has against this request: a new list asks for nothing old.
        End::Refused(format!("{}: {}", self.resource, describe(error)))
    }
}

/// Why a list and its watches have come to an end.
enum End {
    NobodyListens,
    Absent(Option<String>),
    Refused(String),
    Gone(String),
}

/// Says in turns whether the API server is well; a watch alone is silent whether nothing happens or the other end is
/// gone.
pub(super) async fn listen<F: Future<Output = Result<(), String>>>(
    heartbeat: impl Fn() -> F,
    period: Duration,
    sender: mpsc::Sender<Message>,
) {
    loop {
        sleep(period).await;
        let message = match heartbeat().await {
            Ok(()) => Message::Alive,
            Err(why) => Message::Gone(why),
        };
        if sender.send(message).await.is_err() {
            return;
        }
    }
}
