//! What `deploy/kustomize` says fits the program that it installs.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::Uri;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bridge_userspace::cluster::{self, ApiAccess, InternalTrafficPolicy, Rules, SourceSpec};
use bridge_userspace::config::{Config, DEFAULT_PIN_PATH, Environment, RunArgs};
use k8s_openapi::api::rbac::v1::PolicyRule;
use serde_json::{Value, json};

fn manifest(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy/kustomize")
        .join(name)
}

fn documents(name: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(&fs::read_to_string(manifest(name)).unwrap()).unwrap()
}

fn load(environment: Environment) -> Result<Config, String> {
    let flags = RunArgs {
        config: Some(manifest("bridge.yaml")),
        ..RunArgs::default()
    };
    let (config, remarks) = Config::load(flags, environment).map_err(|error| error.to_string())?;
    assert!(remarks.is_empty(), "{remarks:?}");
    Ok(config)
}

fn in_a_pod() -> Environment {
    Environment {
        is_in_cluster: true,
        node_name: Some("node-30".to_owned()),
        ..Environment::default()
    }
}

#[test]
fn the_configuration_of_the_config_map_is_accepted_in_a_pod() {
    let config = load(in_a_pod()).unwrap();
    assert_eq!(config.cluster, SourceSpec::Kube(ApiAccess::ServiceAccount));
    assert!(config.dns.is_some(), "the relay is part of the recipe");
    load(Environment::default()).unwrap_err();
}

#[test]
fn probes_and_volumes_of_the_daemon_set_are_where_the_configuration_has_them() {
    let config = load(in_a_pod()).unwrap();
    let [daemon_set] = &documents("daemonset.yaml")[..] else {
        panic!("one object expected")
    };
    let spec = &daemon_set["spec"]["template"]["spec"];
    let container = &spec["containers"][0];
    let listen = config.http.unwrap().listen;
    assert_eq!(container["ports"][0]["containerPort"], listen.port());
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let get = &container[probe]["httpGet"];
        assert_eq!(get["host"], listen.ip().to_string(), "{probe}");
        assert_eq!(get["port"], container["ports"][0]["name"], "{probe}");
    }
    let paths: BTreeSet<&str> = spec["volumes"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|volume| volume["hostPath"]["path"].as_str())
        .collect();
    assert!(
        paths
            .iter()
            .any(|path| Path::new(DEFAULT_PIN_PATH).parent() == Some(Path::new(path))),
        "{paths:?}"
    );
    assert_eq!(config.pin_path, Path::new(DEFAULT_PIN_PATH));
}

#[test]
fn the_image_has_the_version_of_the_program() {
    for name in ["kustomization.yaml", "uninstall/kustomization.yaml"] {
        let image = &documents(name)[0]["images"][0];
        assert_eq!(image["newTag"], env!("CARGO_PKG_VERSION"), "{name}");
    }
}

/// A right: API group, resource, namespace and name of the object, verb. Empty namespace: in all of them.
type Right = (String, String, String, String, String);

/// What the roles grant.
fn granted() -> BTreeSet<Right> {
    let mut rights = BTreeSet::new();
    for object in documents("rbac.yaml") {
        let rules = match object["kind"].as_str() {
            Some("ClusterRole" | "Role") => object["rules"].clone(),
            _ => continue,
        };
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
        for rule in serde_json::from_value::<Vec<PolicyRule>>(rules).unwrap() {
            let names = rule.resource_names.unwrap_or_else(|| vec![String::new()]);
            for group in rule.api_groups.iter().flatten() {
                for resource in rule.resources.iter().flatten() {
                    for name in &names {
                        for verb in &rule.verbs {
                            rights.insert((
                                group.clone(),
                                resource.clone(),
                                namespace.to_owned(),
                                name.clone(),
                                verb.clone(),
                            ));
                        }
                    }
                }
            }
        }
    }
    rights
}

/// The right that a request needs (`RequestInfoFactory` of k8s.io/apiserver); none for what is no object.
fn needed(uri: &Uri) -> Option<Right> {
    let words: Vec<&str> = uri.path().split('/').skip(1).collect();
    let (group, rest) = match &words[..] {
        ["api", _, rest @ ..] => ("", rest),
        ["apis", group, _, rest @ ..] => (*group, rest),
        _ => return None,
    };
    let (namespace, resource) = match rest {
        ["namespaces", namespace, resource] => (*namespace, *resource),
        [resource] => ("", *resource),
        other => panic!("{other:?}"),
    };
    let query: Vec<&str> = uri.query().unwrap_or_default().split('&').collect();
    let is_watch = query
        .iter()
        .any(|field| ["watch=true", "watch=1"].contains(field));
    let name = query
        .iter()
        .find_map(|field| field.strip_prefix("fieldSelector=metadata.name%3D"))
        .unwrap_or_default();
    let verb = if is_watch { "watch" } else { "list" };
    Some(
        [group, resource, namespace, name, verb]
            .map(str::to_owned)
            .into(),
    )
}

type Seen = Arc<Mutex<BTreeSet<Right>>>;

/// Notes what is asked for, and has nothing.
async fn answer(State(seen): State<Seen>, uri: Uri) -> Response {
    let Some(right) = needed(&uri) else {
        return "ok".into_response();
    };
    let is_watch = right.4 == "watch";
    seen.lock().unwrap().insert(right);
    if is_watch {
        // Nothing happens for as long as a test takes.
        std::future::pending::<()>().await;
    }
    let list = json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "1"}, "items": []});
    ([(CONTENT_TYPE, "application/json")], list.to_string()).into_response()
}

#[tokio::test]
async fn the_roles_grant_what_the_program_asks_for_and_nothing_else() {
    let seen = Seen::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().fallback(answer).with_state(seen.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });

    let directory = tempfile::tempdir().unwrap();
    let kubeconfig = directory.path().join("kubeconfig");
    let text = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "here", "cluster": {"server": format!("http://{address}")}}],
        "users": [{"name": "us", "user": {}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "us"}}],
        "current-context": "here",
    });
    fs::write(&kubeconfig, text.to_string()).unwrap();
    let rules = Rules {
        explicit: Vec::new(),
        internal_traffic_policy: InternalTrafficPolicy::Ignore,
    };
    let source = SourceSpec::Kube(ApiAccess::Kubeconfig(kubeconfig));
    let (source, _feed) = cluster::open(&source, rules).await.unwrap();
    tokio::spawn(async move { source.follow().await });

    let granted = granted();
    let wait = async {
        while *seen.lock().unwrap() != granted {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let complete = tokio::time::timeout(Duration::from_secs(10), wait).await;
    assert!(
        complete.is_ok(),
        "asked: {:#?}\ngranted: {granted:#?}",
        seen.lock().unwrap()
    );
}
