//! A client of the API server that a test calls like any function.

use std::fs::File;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use http::{Method, Request, StatusCode};
use kube::config::{KubeConfigOptions, Kubeconfig};
use nix::sched::{CloneFlags, setns};
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

use super::resource;
use crate::machine::netns::Namespace;

/// How many requests [`Client::create_all`] has open at a time.
const IN_FLIGHT: usize = 32;

/// Talks to the API server from a host of the lab, as the user of a kubeconfig.
#[derive(Debug)]
pub struct Client {
    runtime: Runtime,
    client: Arc<Inner>,
}

struct Inner(kube::Client);

impl std::fmt::Debug for Inner {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("kube::Client")
    }
}

impl Client {
    /// For the user of this kubeconfig, from the host with this namespace.
    pub fn new(namespace: &Namespace, kubeconfig: &Path) -> Result<Self> {
        let file = File::open(namespace.path())
            .with_context(|| format!("open the namespace {}", namespace.name()))?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .on_thread_start(move || {
                setns(&file, CloneFlags::CLONE_NEWNET)
                    .expect("a namespace that is open can be entered");
            })
            .enable_all()
            .build()
            .context("start the threads of a client")?;
        let config = Kubeconfig::read_from(kubeconfig)
            .with_context(|| format!("read {}", kubeconfig.display()))?;
        let client = runtime.block_on(async {
            let options = KubeConfigOptions::default();
            let config = kube::Config::from_custom_kubeconfig(config, &options).await?;
            anyhow::Ok(kube::Client::try_from(config)?)
        })?;
        Ok(Self {
            runtime,
            client: Arc::new(Inner(client)),
        })
    }

    /// Runs `work` in the host's namespace to its end.
    pub fn run<T, F>(&self, work: impl FnOnce(kube::Client) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        // The caller's own thread is in another namespace.
        let task = self.runtime.spawn(work(self.client.0.clone()));
        self.runtime.block_on(task).context("a request panicked")?
    }

    /// GET of a path that answers with text, such as `/readyz`.
    pub fn text(&self, path: &str) -> Result<String> {
        let request = build(&Method::GET, path, "", Vec::new())?;
        self.run(async |client| Ok(client.request_text(request).await?))
    }

    /// GET of a path that answers with JSON.
    pub fn get(&self, path: &str) -> Result<Value> {
        self.request(&Method::GET, path, None)
    }

    /// Any request, with a JSON object or without.
    pub fn request(&self, method: &Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let body = body.map_or_else(Vec::new, |body| body.to_string().into_bytes());
        let request = build(method, path, "application/json", body)?;
        self.run(async |client| Ok(client.request(request).await?))
            .with_context(|| format!("{method} {path}"))
    }

    /// Replaces an object, or creates it. Fields that this version of Kubernetes does not know are
    /// dropped, as its own clients have it by default.
    pub fn apply(&self, object: &Value) -> Result<Value> {
        let path = resource::path(object)?;
        match self.get(&path) {
            Ok(current) => {
                // A service can't be replaced without.
                let mut object = object.clone();
                object["metadata"]["resourceVersion"] =
                    current["metadata"]["resourceVersion"].clone();
                self.request(&Method::PUT, &path, Some(&object))
            }
            Err(error) if has_code(&error, StatusCode::NOT_FOUND) => {
                self.request(&Method::POST, &resource::collection(object)?, Some(object))
            }
            Err(error) => Err(error),
        }
    }

    /// Writes an object's status, which is a resource of its own.
    pub fn apply_status(&self, object: &Value) -> Result<Value> {
        let path = resource::path(object)? + "/status";
        let kind = "application/merge-patch+json";
        let status = serde_json::json!({"status": object["status"]});
        let request = build(&Method::PATCH, &path, kind, status.to_string().into_bytes())?;
        self.run(async |client| Ok(client.request(request).await?))
            .with_context(|| format!("write {path}"))
    }

    /// Creates objects that don't exist yet, many at a time.
    pub fn create_all(&self, objects: &[Value]) -> Result<()> {
        let requests = objects
            .iter()
            .map(|object| {
                let collection = resource::collection(object)?;
                let body = object.to_string().into_bytes();
                build(&Method::POST, &collection, "application/json", body)
            })
            .collect::<Result<Vec<_>>>()?;
        self.run(async move |client| {
            stream::iter(requests)
                .map(|request| {
                    let client = client.clone();
                    async move { client.request::<Value>(request).await.map(drop) }
                })
                .buffer_unordered(IN_FLIGHT)
                .try_collect::<()>()
                .await
                .context("create objects")
        })
    }

    /// Deletes an object; that it is not there is fine.
    pub fn delete(&self, object: &Value) -> Result<()> {
        let path = resource::path(object)?;
        match self.request(&Method::DELETE, &path, None) {
            Err(error) if !has_code(&error, StatusCode::NOT_FOUND) => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether the API server serves this kind of object.
    pub fn serves(&self, object: &Value) -> Result<bool> {
        match self.get(&resource::collection(object)?) {
            Ok(_) => Ok(true),
            Err(error) if has_code(&error, StatusCode::NOT_FOUND) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A token of a service account, valid for an hour.
    pub fn token(&self, namespace: &str, account: &str) -> Result<String> {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let body = serde_json::json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": 3600},
        });
        let answer = self.request(&Method::POST, &path, Some(&body))?;
        match &answer["status"]["token"] {
            Value::String(token) => Ok(token.clone()),
            _ => bail!("POST {path} gives no token: {answer}"),
        }
    }
}

fn build(method: &Method, path: &str, kind: &str, body: Vec<u8>) -> Result<Request<Vec<u8>>> {
    let mut request = Request::builder().method(method).uri(path);
    if !body.is_empty() {
        request = request.header("content-type", kind);
    }
    request
        .body(body)
        .with_context(|| format!("make a request for {path}"))
}

fn has_code(error: &anyhow::Error, code: StatusCode) -> bool {
    matches!(
        error.downcast_ref::<kube::Error>(),
        Some(kube::Error::Api(status)) if status.code == code.as_u16()
    )
}
