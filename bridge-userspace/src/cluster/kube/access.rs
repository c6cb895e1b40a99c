//! The way to the API server: from kubeconfig or service account to a client.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use http::{Request, StatusCode};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use tokio::time::timeout;

use super::super::ApiAccess;
use super::tls;
use crate::model::{Finding, Subject};

/// Longest time for a TCP and TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time that a living API server takes to say so.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(5);

/// A client for what is configured now: certificates and tokens are read anew.
///
/// # Errors
/// When the configuration leads nowhere.
pub(super) async fn client(access: &ApiAccess) -> Result<Client, Finding> {
    let (mut config, origin) = match access {
        ApiAccess::Kubeconfig(file) => {
            let origin = format!("--kubeconfig {}", file.display());
            (from_file(file).await.map_err(kubeconfig(&origin))?, origin)
        }
        ApiAccess::KubeconfigVariable => {
            let origin = "the variable KUBECONFIG".to_owned();
            (from_variable().await.map_err(kubeconfig(&origin))?, origin)
        }
        ApiAccess::ServiceAccount => {
            let origin = "the pod's service account".to_owned();
            let config = Config::incluster().map_err(|error| unusable(&origin, &chain(&error)))?;
            (config, origin)
        }
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    tls::client(config).map_err(|error| unusable(&origin, &chain(error.as_ref())))
}

fn unusable(origin: &str, what: &str) -> Finding {
    Finding::usage(
        Subject::Cluster,
        format!("{origin} can't be used: {what}"),
        "correct it, or name another kubeconfig with --kubeconfig",
    )
}

fn kubeconfig(origin: &str) -> impl Fn(KubeconfigError) -> Finding {
    move |error| {
        let what = match &error {
            KubeconfigError::CurrentContextNotSet => "it has no current-context".to_owned(),
            KubeconfigError::LoadContext(name) => format!("it has no context `{name}`"),
            KubeconfigError::LoadClusterOfContext(name) => format!("it has no cluster `{name}`"),
            KubeconfigError::ReadConfig(error, path) => format!("{}: {error}", path.display()),
            KubeconfigError::Parse(error) => {
                format!("it is no valid YAML: {}", error.without_snippet())
            }
            other => chain(other),
        };
        unusable(origin, &what)
    }
}

async fn from_file(file: &Path) -> Result<Config, KubeconfigError> {
    from(Kubeconfig::read_from(file)?).await
}

async fn from_variable() -> Result<Config, KubeconfigError> {
    // The variable was there when the configuration was read, and nothing here changes it.
    from(Kubeconfig::from_env()?.ok_or(KubeconfigError::FindPath)?).await
}

async fn from(kubeconfig: Kubeconfig) -> Result<Config, KubeconfigError> {
    let has_proxy = kubeconfig.clusters.iter().any(|named| {
        let cluster = named.cluster.as_ref();
        cluster.is_some_and(|cluster| cluster.proxy_url.is_some())
    });
    let mut config =
        Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    if !has_proxy {
        // From HTTPS_PROXY, which is for the world outside.
        config.proxy_url = None;
    }
    Ok(config)
}

/// Asks the API server whether it is well.
///
/// # Errors
/// When it is not, does not answer, or does not know us.
pub(super) async fn heartbeat(client: &Client) -> Result<(), String> {
    let request = Request::get("/readyz")
        .body(Vec::new())
        .map_err(|error| error.to_string())?;
    match timeout(HEARTBEAT_TIMEOUT, client.request_text(request)).await {
        Ok(Ok(_)) => Ok(()),
        // It lives; whether we may know more than that is another matter.
        Ok(Err(kube::Error::Api(status)))
            if [StatusCode::FORBIDDEN, StatusCode::NOT_FOUND]
                .iter()
                .any(|code| status.code == code.as_u16()) =>
        {
            Ok(())
        }
        Ok(Err(error)) => Err(describe(&error)),
        Err(_) => Err(format!(
            "the API server has not answered within {} s",
            HEARTBEAT_TIMEOUT.as_secs()
        )),
    }
}

/// An error of a request, for people.
pub(super) fn describe(error: &kube::Error) -> String {
    if let Some(why) = tls::distrust(error) {
        return format!("the API server is not trusted: {why}");
    }
    match error {
        kube::Error::Api(status) if status.code == StatusCode::UNAUTHORIZED.as_u16() => {
            "the API server does not know us (401 Unauthorized): the token or the client certificate \
             is wrong or has expired"
                .to_owned()
        }
        kube::Error::Api(status) => {
            let message = status.message.trim();
            // The whole report of a server that is not well has a line for each of its parts.
            let line = message.lines().last().unwrap_or("no reason given");
            format!("the API server answers {}: {line}", status.code)
        }
        // Its own name for the layer that failed says nothing to people.
        kube::Error::Service(error) => {
            format!("the API server can't be reached: {}", chain(error.as_ref()))
        }
        other => format!("the API server can't be reached: {}", chain(other)),
    }
}

/// An error with its causes, each said once.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::cluster::{InternalTrafficPolicy, Rules, SourceSpec, open};

    #[tokio::test]
    async fn a_kubeconfig_that_leads_nowhere_is_wrong_usage_and_told_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("kubeconfig");
        let rules = Rules {
            explicit: Vec::new(),
            internal_traffic_policy: InternalTrafficPolicy::Ignore,
        };
        for (text, expected) in [
            (None, "No such file or directory"),
            (Some("clusters: ["), "no valid YAML"),
            (Some("apiVersion: v1\nkind: Config\n"), "no current-context"),
            (Some("current-context: lab\n"), "no context `lab`"),
            (
                Some(
                    "current-context: lab\ncontexts: [{name: lab, context: {cluster: c, user: u}}]\n",
                ),
                "no cluster `c`",
            ),
        ] {
            if let Some(text) = text {
                fs::write(&file, text).unwrap();
            }
            let source = SourceSpec::Kube(ApiAccess::Kubeconfig(file.clone()));
            let error = open(&source, rules.clone()).await.err().unwrap();
            let message = format!("{error:#}");
            assert!(message.contains(expected), "{message}");
            assert!(
                message.contains(&format!("--kubeconfig {}", file.display())),
                "{message}"
            );
            assert!(error.is_usage(), "{message}");
        }
    }
}
