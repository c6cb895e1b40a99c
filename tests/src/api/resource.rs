//! Where the API server has an object, told from the object itself.

use anyhow::{Context as _, Result, bail};
use kube::core::{ApiResource, GroupVersionKind, TypeMeta};
use serde_json::Value;

/// The path of the collection that an object belongs to.
pub fn collection(object: &Value) -> Result<String> {
    let types: TypeMeta = serde_json::from_value(object.clone())
        .with_context(|| format!("no apiVersion and kind: {object}"))?;
    let kind = GroupVersionKind::try_from(&types)
        .with_context(|| format!("apiVersion {}", types.api_version))?;
    let resource = ApiResource::from_gvk(&kind);
    let root = if kind.group.is_empty() {
        "/api"
    } else {
        "/apis"
    };
    let namespace = match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("/namespaces/{namespace}"),
        None => String::new(),
    };
    Ok(format!(
        "{root}/{}{namespace}/{}",
        resource.api_version, resource.plural
    ))
}

/// The path of an object.
pub fn path(object: &Value) -> Result<String> {
    let name = object["metadata"]["name"]
        .as_str()
        .with_context(|| format!("an object without a name: {object}"))?;
    Ok(format!("{}/{name}", collection(object)?))
}

/// The key of an object in etcd.
pub fn storage_key(object: &Value) -> Result<String> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
    let folder = match object["kind"].as_str() {
        Some("Service") => "services/specs",
        Some("EndpointSlice") => "endpointslices",
        _ => bail!("not known where etcd has {object}"),
    };
    Ok(format!("/registry/{folder}/{namespace}/{name}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_are_found_with_and_without_group_and_namespace() {
        let object = |version: &str, kind: &str, namespace: Option<&str>| {
            path(&json!({
                "apiVersion": version,
                "kind": kind,
                "metadata": {"name": "x", "namespace": namespace},
            }))
            .unwrap()
        };
        assert_eq!(object("v1", "Node", None), "/api/v1/nodes/x");
        assert_eq!(
            object("discovery.k8s.io/v1", "EndpointSlice", Some("n")),
            "/apis/discovery.k8s.io/v1/namespaces/n/endpointslices/x"
        );
        assert_eq!(
            object("networking.k8s.io/v1", "ServiceCIDR", None),
            "/apis/networking.k8s.io/v1/servicecidrs/x"
        );
    }
}
