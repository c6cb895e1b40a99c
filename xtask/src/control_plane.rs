//! Looks for the programs of the Kubernetes control plane, which some end-to-end tests need.

use anyhow::Result;
use lab::envtest::{self, Programs};

use crate::process::{say, step};

/// A part of the control plane that is not installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// etcd and kube-apiserver.
    ApiServer,
    /// kube-proxy only.
    KubeProxy,
}

impl Missing {
    /// Prefix of the names of the test files that need it.
    pub fn files(self) -> &'static str {
        match self {
            Self::ApiServer => "kube_",
            Self::KubeProxy => "kube_proxy",
        }
    }

    /// What is missing, and how to get it.
    pub fn advice(self) -> String {
        match self {
            Self::ApiServer => {
                format!("they need etcd and kube-apiserver: {}", envtest::HOW_TO_GET)
            }
            Self::KubeProxy => format!(
                "they need kube-proxy: put the one of a Kubernetes release beside kube-apiserver ({}) \
                 or on PATH",
                envtest::VARIABLE
            ),
        }
    }
}

/// Looks for the programs, and prints what is found.
pub fn look() -> Result<(Option<Programs>, Option<Missing>)> {
    step("Looking for a Kubernetes API server");
    let programs = Programs::find()?;
    let missing = if let Some(found) = &programs {
        say(&format!(
            "kube-apiserver 1.{} and etcd are in {}",
            found.minor_version()?,
            found.directory().display()
        ));
        found.kube_proxy().is_none().then_some(Missing::KubeProxy)
    } else {
        say(&format!("there is none: {} is not set", envtest::VARIABLE));
        Some(Missing::ApiServer)
    };
    Ok((programs, missing))
}
