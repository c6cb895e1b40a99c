//! Filling the database of an API server with many objects at once.
//!
//! Through the server each new service costs a write of the whole map of allocated addresses. So this
//! writes what the server would store, through etcd's own HTTP gateway (`/v3/kv/txn`), as a restored
//! backup does; the server tells its watchers of them as of any others.

use std::net::{Ipv4Addr, TcpStream};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::resource;
use crate::machine::netns::Namespace;
use crate::serve::http::{self, Request};

/// Port of etcd.
const PORT: u16 = 2379;
/// etcd takes 128 operations in one transaction by default (`--max-txn-ops`).
const BATCH: usize = 100;

/// Writes objects that don't exist yet, as the API server would store them.
pub fn seed(namespace: &Namespace, objects: &[Value]) -> Result<()> {
    for (batch, objects) in (0_u32..).zip(objects.chunks(BATCH)) {
        let operations = (0_u32..)
            .zip(objects)
            .map(|(number, object)| {
                let stored = as_stored(object, batch, number);
                Ok(json!({"requestPut": {
                    "key": STANDARD.encode(resource::storage_key(object)?),
                    "value": STANDARD.encode(stored.to_string()),
                }}))
            })
            .collect::<Result<Vec<_>>>()?;
        let stream = namespace
            .run_in(|| Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, PORT))?))
            .context("connect to etcd")?;
        let request = Request {
            method: "POST".to_owned(),
            path: "/v3/kv/txn".to_owned(),
            body: json!({"success": operations}).to_string(),
        };
        let response = http::exchange(stream, &request).context("write to etcd")?;
        ensure!(
            response.status == 200,
            "etcd answers {}: {}",
            response.status,
            response.body
        );
    }
    Ok(())
}

/// With the metadata that the API server adds, but for the version, which is etcd's.
fn as_stored(object: &Value, batch: u32, number: u32) -> Value {
    let mut object = object.clone();
    object["metadata"]["creationTimestamp"] = "2024-05-06T07:08:09Z".into();
    object["metadata"]["uid"] = format!("7c7e2f55-0000-4000-{batch:04x}-{number:012x}").into();
    object
}
