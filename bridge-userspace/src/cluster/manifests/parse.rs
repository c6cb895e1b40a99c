//! One manifest file: YAML with any number of documents, or JSON; lists of objects are unpacked.

use std::path::Path;

use k8s_openapi::api::core::v1::{ConfigMap, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_saphyr::Spanned;

use super::error::ManifestError;
use crate::cluster::Object;

/// The objects of a file, without those of kinds that don't matter here.
pub(in crate::cluster) fn objects(path: &Path, text: &str) -> Result<Vec<Object>, ManifestError> {
    let documents = if path
        .extension()
        .is_some_and(|extension| extension == "json")
    {
        json_documents(path, text)?
    } else {
        yaml_documents(path, text)?
    };
    let mut found = Vec::new();
    for Document { line, value } in documents {
        collect(value, &Defaults::default(), &mut found).map_err(|message| {
            ManifestError::Parse {
                path: path.to_owned(),
                line,
                message,
            }
        })?;
    }
    Ok(found)
}

struct Document {
    line: Option<u64>,
    value: Value,
}

fn yaml_documents(path: &Path, text: &str) -> Result<Vec<Document>, ManifestError> {
    // A big cluster's dump is long but not deep; what guards against malicious nesting and
    // aliases keeps its defaults.
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_documents: 1_000_000,
            max_events: 100_000_000,
            max_nodes: 100_000_000,
            max_total_scalar_bytes: 1 << 30,
        },
        with_snippet: false,
    };
    let documents: Vec<Spanned<Value>> = serde_saphyr::from_multiple_with_options(text, options)
        .map_err(|error| ManifestError::Parse {
            path: path.to_owned(),
            line: error.location().map(|location| location.line()),
            message: error.without_snippet().to_string(),
        })?;
    Ok(documents
        .into_iter()
        .map(|document| Document {
            line: Some(document.referenced.line()),
            value: document.value,
        })
        .collect())
}

fn json_documents(path: &Path, text: &str) -> Result<Vec<Document>, ManifestError> {
    serde_json::Deserializer::from_str(text)
        .into_iter::<Value>()
        .map(|value| {
            value
                .map(|value| Document { line: None, value })
                .map_err(|error| ManifestError::Parse {
                    path: path.to_owned(),
                    line: u64::try_from(error.line()).ok(),
                    message: error.to_string(),
                })
        })
        .collect()
}

/// What the items of a typed list (`ServiceList`, as the API itself answers) inherit from it.
#[derive(Default)]
struct Defaults {
    kind: Option<String>,
    api_version: Option<String>,
}

fn collect(value: Value, defaults: &Defaults, found: &mut Vec<Object>) -> Result<(), String> {
    let mut object = match value {
        Value::Null => return Ok(()),
        Value::Object(object) => object,
        other => return Err(format!("expected a Kubernetes object, found `{other}`")),
    };
    let field = |name: &str, default: &Option<String>| match object.get(name) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(format!("`{name}` is `{other}`, not a text")),
        None => default
            .clone()
            .ok_or_else(|| format!("this is no Kubernetes object: it has no `{name}`")),
    };
    let kind = field("kind", &defaults.kind)?;
    let api_version = field("apiVersion", &defaults.api_version)?;

    if let Some(item_kind) = kind.strip_suffix("List")
        && let Some(Value::Array(items)) = object.remove("items")
    {
        let defaults = Defaults {
            kind: Some(item_kind.to_owned()).filter(|kind| !kind.is_empty()),
            api_version: Some(api_version),
        };
        for (index, item) in items.into_iter().enumerate() {
            collect(item, &defaults, found)
                .map_err(|message| format!("item {} of the {kind}: {message}", index + 1))?;
        }
        return Ok(());
    }

    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    let known: &[&str] = match (group, kind.as_str()) {
        ("", "Node" | "Service" | "ConfigMap") | ("discovery.k8s.io", "EndpointSlice") => &["v1"],
        // The same fields since 1.31.
        ("networking.k8s.io", "ServiceCIDR") => &["v1", "v1beta1"],
        _ => return Ok(()),
    };
    let name = display_name(&kind, &object);
    if !known.contains(&version) {
        return Err(format!(
            "{name} has apiVersion {api_version}; only {} is read",
            known.join(" and ")
        ));
    }
    // The types insist on their own apiVersion and kind; both have been looked at already.
    object.remove("apiVersion");
    object.remove("kind");
    let value = Value::Object(object);
    let object = match kind.as_str() {
        "Node" => typed::<Node>(value),
        "Service" => typed::<Service>(value),
        "ConfigMap" => typed::<ConfigMap>(value),
        "EndpointSlice" => typed::<EndpointSlice>(value),
        _ => typed::<ServiceCIDR>(value),
    }
    .map_err(|message| format!("{name}: {message}"))?;
    if object.key().name.is_empty() {
        return Err(format!("{name} has no metadata.name"));
    }
    found.push(object);
    Ok(())
}

fn typed<T: DeserializeOwned + Into<Object>>(value: Value) -> Result<Object, String> {
    serde_json::from_value(value)
        .map(T::into)
        .map_err(|error| error.to_string())
}

fn display_name(kind: &str, object: &serde_json::Map<String, Value>) -> String {
    let metadata = |field: &str| {
        object
            .get("metadata")
            .and_then(|metadata| metadata.get(field))
            .and_then(Value::as_str)
    };
    match (metadata("namespace"), metadata("name")) {
        (Some(namespace), Some(name)) => format!("{kind} {namespace}/{name}"),
        (None, Some(name)) => format!("{kind} {name}"),
        (_, None) => format!("a {kind}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn yaml(text: &str) -> Result<Vec<Object>, String> {
        objects(Path::new("dir/a.yaml"), text).map_err(|error| error.to_string())
    }

    fn names(objects: &[Object]) -> Vec<String> {
        objects
            .iter()
            .map(|object| format!("{} {}", object.kind(), object.key().name))
            .collect()
    }

    #[test]
    fn documents_lists_and_unknown_kinds_share_a_file() {
        let found = yaml(
            "# a comment first
---
apiVersion: v1
kind: List
metadata: {resourceVersion: ''}
items:
- apiVersion: v1
  kind: Node
  metadata: {name: worker-1}
- apiVersion: apps/v1
  kind: Deployment
  metadata: {name: web}
  spec: {replicas: 1e3}
---
---
apiVersion: v1
kind: Service
metadata: {name: web}
---
apiVersion: example.com/v1
kind: Service
metadata: {name: someone-elses}
",
        )
        .unwrap();
        assert_eq!(names(&found), ["Node worker-1", "Service web"]);
    }

    #[test]
    fn a_typed_list_names_the_kind_of_its_items() {
        let found = objects(
            Path::new("a.json"),
            r#"{"kind":"ServiceList","apiVersion":"v1","items":[{"metadata":{"name":"web"}}]}"#,
        )
        .unwrap();
        assert_eq!(names(&found), ["Service web"]);
    }

    #[test]
    fn an_empty_file_has_no_objects() {
        for text in ["", "\n", "# nothing yet\n", "---\n", "---\n---\n"] {
            assert_eq!(yaml(text), Ok(Vec::new()), "{text:?}");
        }
    }

    #[test]
    fn a_syntax_error_is_reported_with_file_and_line() {
        let error = yaml("apiVersion: v1\nkind: Node\nmetadata: {name: [}\n").unwrap_err();
        assert!(error.starts_with("dir/a.yaml:3: "), "{error}");
        let error = objects(Path::new("dir/a.json"), "{\n\"kind\": \n}").unwrap_err();
        assert!(error.to_string().starts_with("dir/a.json:3: "), "{error}");
    }

    #[test]
    fn a_wrong_field_is_reported_with_the_object_it_is_in() {
        let error = yaml(
            "apiVersion: v1
kind: Node
metadata: {name: worker-1}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {ports: [{port: http}]}
",
        )
        .unwrap_err();
        assert!(
            error.starts_with("dir/a.yaml:5: Service shop/web: "),
            "{error}"
        );
    }

    #[test]
    fn what_is_no_kubernetes_object_is_an_error() {
        for (text, expected) in [
            ("just words", "expected a Kubernetes object"),
            ("name: web", "it has no `kind`"),
            ("kind: Service", "it has no `apiVersion`"),
            (
                "kind: Service\napiVersion: v1",
                "a Service has no metadata.name",
            ),
            (
                "kind: EndpointSlice\napiVersion: discovery.k8s.io/v1beta1\nmetadata: {name: x}",
                "EndpointSlice x has apiVersion discovery.k8s.io/v1beta1; only v1 is read",
            ),
        ] {
            let error = yaml(text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
