//! The cluster as `kubectl get -o yaml` prints it, for `--cluster manifests=DIR`.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::cluster::objects;
use crate::plan::SERVICE_CIDR;
use crate::variant::Overlay;

/// Writes one file per kind of object into `directory`. A file is replaced in one step, so that a
/// reader never sees half of it.
pub fn write(directory: &Path, cluster: &Cluster, overlay: Overlay) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    for (name, objects) in [
        ("nodes", objects::nodes(cluster, overlay)),
        ("services", objects::services(cluster)),
        ("endpointslices", objects::endpoint_slices(cluster)),
        (
            "servicecidrs",
            vec![objects::service_cidr("kubernetes", SERVICE_CIDR)],
        ),
    ] {
        let items: Vec<Value> = (1..)
            .zip(objects)
            .map(|(number, object)| as_stored(object, number))
            .collect();
        let list = json!({
            "apiVersion": "v1",
            "items": items,
            "kind": "List",
            "metadata": {"resourceVersion": ""},
        });
        let text = serde_saphyr::to_string(&list).context("write YAML")?;
        let path = directory.join(format!("{name}.yaml"));
        let next = directory.join(format!(".{name}.next"));
        fs::write(&next, text)
            .and_then(|()| fs::rename(&next, &path))
            .with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// With the metadata that the API server adds.
fn as_stored(mut object: Value, number: u32) -> Value {
    let metadata = &mut object["metadata"];
    metadata["creationTimestamp"] = "2024-05-06T07:08:09Z".into();
    metadata["resourceVersion"] = (1000 + number).to_string().into();
    metadata["uid"] = format!("7c7e2f55-0000-4000-8000-{number:012x}").into();
    object
}
