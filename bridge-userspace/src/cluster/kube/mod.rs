//! The API server, followed by lists and watches.
//!
//! `access` makes a client of what is configured, `tls` says which servers to trust, `follow` follows the objects of one kind. Here they are put
//! together to *sessions*: a session begins with lists of everything and ends when the API server is gone. What the
//! lists say is compared with what was known, so that after an absence only differences are handed on; objects that
//! vanished meanwhile are among them.

mod access;
mod follow;
mod tls;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use http::StatusCode;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout, timeout_at};
use tracing::{info, warn};

use self::follow::{Follower, Message, backoff};
use super::derive::Deriver;
use super::feed::Publisher;
use super::rules::Rules;
use super::{ApiAccess, Change, CidrKind, Kind, Source};
use crate::model::{Finding, Problem, Subject};

/// How often to ask the API server whether it is well.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Quiet time after which a series of changes counts as complete.
const DEBOUNCE: Duration = Duration::from_millis(5);
/// Longest time that further changes can put off the first one.
const MAX_DELAY: Duration = Duration::from_millis(50);
/// Changes that may wait to be looked at.
const BACKLOG: usize = 4_096;

/// The API server.
pub(super) struct ApiServer {
    access: ApiAccess,
    rules: Rules,
    publisher: Publisher,
}

impl ApiServer {
    /// The API server that is configured. That it doesn't answer is no error.
    ///
    /// # Errors
    /// When what should lead to it is wrong.
    pub(super) async fn open(
        access: &ApiAccess,
        rules: Rules,
        publisher: Publisher,
    ) -> Result<Self, Finding> {
        access::client(access).await?;
        Ok(Self {
            access: access.clone(),
            rules,
            publisher,
        })
    }

    /// Session after session, for ever.
    async fn keep_up(&self) -> anyhow::Error {
        let publisher = &self.publisher;
        let mut known = Known::new(self.rules.clone());
        let mut delays = backoff();
        loop {
            // Certificates may have been renewed.
            let client = access::client(&self.access).await;
            let begun = Instant::now();
            let why = match &client {
                Ok(client) => match access::heartbeat(client).await {
                    Ok(()) => session(client, &mut known, publisher).await,
                    Err(why) => why,
                },
                Err(error) => error.cause.clone(),
            };
            if publisher.lost(why.clone()) {
                warn!("{why}; the state of the cluster stays as it was until that is mended");
            }
            // One that comes and goes is not to be asked for everything all the time.
            if begun.elapsed() > HEARTBEAT {
                delays = backoff();
            }
            if let Some(delay) = delays.next() {
                sleep(delay).await;
            }
        }
    }
}

impl Source for ApiServer {
    fn follow(&self) -> BoxFuture<'_, anyhow::Error> {
        Box::pin(self.keep_up())
    }
}

/// Follows until the API server is gone, and says why it is.
async fn session(client: &Client, known: &mut Known, publisher: &Publisher) -> String {
    let (sender, mut messages) = mpsc::channel(BACKLOG);
    let mut tasks = JoinSet::new();
    let wanted = spawn_followers(client, &known.rules, &mut tasks, &sender);
    tasks.spawn({
        let client = client.clone();
        let heartbeat = move || {
            let client = client.clone();
            async move { access::heartbeat(&client).await }
        };
        follow::listen(heartbeat, HEARTBEAT, sender)
    });

    let mut session = Session {
        missing: wanted,
        refused: BTreeMap::new(),
    };
    let mut is_in_touch = false;
    loop {
        let message = tokio::select! {
            message = messages.recv() => message,
            // One of several is not missed by the others, but what it follows would stand still.
            ended = tasks.join_next() => match ended {
                Some(Err(error)) => return format!("following the API server has broken down: {error}"),
                _ => None,
            },
        };
        let Some(message) = message else {
            return "nothing follows the API server any more".to_owned();
        };
        let received = Instant::now();
        let mut next = Some(message);
        let deadline = tokio::time::Instant::now() + MAX_DELAY;
        while let Some(message) = next {
            if let Message::Gone(why) = message {
                return why;
            }
            session.note(message, known);
            next = match timeout_at(deadline, timeout(DEBOUNCE, messages.recv())).await {
                Ok(Ok(message)) => message,
                Ok(Err(_)) | Err(_) => None,
            };
        }
        if let Some(why) = session.refused.values().next() {
            if publisher.lost(why.clone()) {
                warn!("{why}; the state of the cluster stays as it was until that is mended");
            }
        } else if session.missing.is_empty() {
            if !is_in_touch {
                info!("the state of the cluster is complete, and followed");
                is_in_touch = true;
            }
            publisher.in_touch();
        }
        // A state with holes in it would have services removed that exist.
        if session.missing.is_empty() && known.update() {
            publisher.publish(known.desired(), received);
        }
    }
}

/// What one session has seen.
struct Session {
    /// Kinds that have not been listed yet.
    missing: BTreeSet<Kind>,
    /// Kinds that the API server has stopped to give, and why.
    refused: BTreeMap<Kind, String>,
}

impl Session {
    fn note(&mut self, message: Message, known: &mut Known) {
        match message {
            Message::Change(change) => {
                if let Change::Replace(kind, _) = &change {
                    self.missing.remove(kind);
                    self.refused.remove(kind);
                    known.listed.insert(*kind);
                    known.set_note(*kind, None);
                }
                known.deriver.apply(change);
            }
            // Services that were known are better than none, as with an API server that is away.
            Message::Absent(kind, why) if is_for_services(kind) && known.listed.contains(&kind) => {
                let why =
                    why.unwrap_or_else(|| format!("the API server has no {kind} any more (404)"));
                self.refused.insert(kind, why);
            }
            Message::Absent(kind, why) => {
                self.missing.remove(&kind);
                self.refused.remove(&kind);
                if why.is_none() {
                    known.deriver.apply(Change::Replace(kind, Vec::new()));
                }
                known.set_note(kind, absence(kind, why));
            }
            Message::Refused(kind, why) => {
                self.refused.insert(kind, why);
            }
            Message::Alive | Message::Gone(_) => {}
        }
    }
}

/// Everything that is known, over all sessions.
struct Known {
    rules: Rules,
    deriver: Deriver,
    /// Kinds that have been listed at some time.
    listed: BTreeSet<Kind>,
    /// What is missing where one does without a kind.
    notes: BTreeMap<Kind, Problem>,
    is_changed: bool,
}

impl Known {
    fn new(rules: Rules) -> Self {
        Self {
            deriver: Deriver::new(rules.clone()),
            rules,
            listed: BTreeSet::new(),
            notes: BTreeMap::new(),
            is_changed: true,
        }
    }

    fn set_note(&mut self, kind: Kind, note: Option<Problem>) {
        self.is_changed |= self.notes.get(&kind) != note.as_ref();
        match note {
            Some(note) => self.notes.insert(kind, note),
            None => self.notes.remove(&kind),
        };
    }

    /// Whether anything has changed since the last call.
    fn update(&mut self) -> bool {
        let is_changed = self.deriver.update();
        std::mem::take(&mut self.is_changed) || is_changed
    }

    fn desired(&self) -> super::DesiredState {
        let notes: Vec<Problem> = self.notes.values().cloned().collect();
        if self.notes.keys().any(|&kind| is_for_services(kind)) {
            self.deriver.state_without_services(&notes)
        } else {
            self.deriver.state(&notes)
        }
    }
}

/// Whether nothing can be said of any service without this kind.
fn is_for_services(kind: Kind) -> bool {
    matches!(kind, Kind::Service | Kind::EndpointSlice)
}

/// What to tell when one does without a kind. `why` is `None` where the API server has no such kind.
///
/// Pods need no services, so they are bridged all the same. What is addressed to a service is then nobody's here: to
/// reject it would take from people what kube-proxy does for them, and does as it did before.
fn absence(kind: Kind, why: Option<String>) -> Option<Problem> {
    if is_for_services(kind) {
        let why = why.unwrap_or_else(|| {
            "the API server has no discovery.k8s.io/v1, which Kubernetes 1.21 and later has".into()
        });
        return Some(Problem::new(
            Subject::Cluster,
            format!(
                "{why}; without that no service is known here: they are left to kube-proxy on this node, and pods are bridged"
            ),
            "grant the right, or upgrade the cluster: services are taken up as soon as they can be read, without a \
             restart. Until then kube-proxy has to run on this node",
        ));
    }
    why.map(|why| {
        Problem::new(
            Subject::Cluster,
            why,
            "grant the right, or give --pod-cidr and --service-cidr",
        )
    })
}

/// Without a resource that is not there, and without one that we may not see.
const OPTIONAL: &[StatusCode] = &[StatusCode::FORBIDDEN, StatusCode::NOT_FOUND];

/// Follows each kind that matters; says which ones do. Where the configuration names the networks, nobody else has
/// to.
fn spawn_followers(
    client: &Client,
    rules: &Rules,
    tasks: &mut JoinSet<()>,
    sender: &mpsc::Sender<Message>,
) -> BTreeSet<Kind> {
    let is_explicit = |kind| rules.explicit.iter().any(|cidr| cidr.kind == kind);
    let (pods, services) = (is_explicit(CidrKind::Pod), is_explicit(CidrKind::Service));
    let mut kinds = BTreeSet::from([Kind::Service, Kind::EndpointSlice]);
    tasks.spawn(
        Follower::<Service> {
            api: Api::all(client.clone()),
            kind: Kind::Service,
            resource: "services",
            fields: None,
            // Every API server has them: if not, it is something else that answers.
            without_on: &[StatusCode::FORBIDDEN],
        }
        .run(sender.clone()),
    );
    tasks.spawn(
        Follower::<EndpointSlice> {
            api: Api::all(client.clone()),
            kind: Kind::EndpointSlice,
            resource: "endpointslices.discovery.k8s.io",
            fields: None,
            without_on: OPTIONAL,
        }
        .run(sender.clone()),
    );
    if !pods {
        kinds.insert(Kind::Node);
        tasks.spawn(
            Follower::<Node> {
                api: Api::all(client.clone()),
                kind: Kind::Node,
                resource: "nodes",
                fields: None,
                without_on: &[],
            }
            .run(sender.clone()),
        );
    }
    if !services {
        kinds.insert(Kind::ServiceCidr);
        tasks.spawn(
            Follower::<ServiceCIDR> {
                api: Api::all(client.clone()),
                kind: Kind::ServiceCidr,
                resource: "servicecidrs.networking.k8s.io",
                fields: None,
                without_on: OPTIONAL,
            }
            .run(sender.clone()),
        );
    }
    if !(pods && services) {
        kinds.insert(Kind::ConfigMap);
        tasks.spawn(
            Follower::<ConfigMap> {
                api: Api::namespaced(client.clone(), "kube-system"),
                kind: Kind::ConfigMap,
                resource: "the ConfigMap kubeadm-config in kube-system",
                // Without it a Role with `resourceNames` would not do.
                fields: Some("metadata.name=kubeadm-config"),
                without_on: OPTIONAL,
            }
            .run(sender.clone()),
        );
    }
    kinds
}

#[cfg(test)]
mod tests;
