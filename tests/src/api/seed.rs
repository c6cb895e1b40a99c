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
                Ok(put(&resource::storage_key(object)?, &stored))
            })
            .collect::<Result<Vec<_>>>()?;
        write(namespace, &operations)?;
    }
    Ok(())
}

/// Writes which addresses of the services' network are allocated. A server that starts repairs each service whose address
/// is missing there, at most one in a millisecond.
pub fn take(namespace: &Namespace, network: &str, addresses: &[Ipv4Addr]) -> Result<()> {
    let (base, _) = network
        .split_once('/')
        .with_context(|| format!("{network} is no network"))?;
    let base: Ipv4Addr = base.parse().context("read the services' network")?;
    let allocation = json!({
        "apiVersion": "v1",
        "kind": "RangeAllocation",
        "metadata": {},
        "range": network,
        "data": STANDARD.encode(bitmap(base, addresses)),
    });
    write(
        namespace,
        &[put("/registry/ranges/serviceips", &allocation)],
    )
}

/// A bit for each address from the one after `base` on, as a big-endian integer (the `AllocationBitmap` of
/// k8s.io/kubernetes, whose bytes are those of a `big.Int`).
fn bitmap(base: Ipv4Addr, addresses: &[Ipv4Addr]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for address in addresses {
        let offset = address.to_bits().saturating_sub(base.to_bits() + 1) as usize;
        if bytes.len() <= offset / 8 {
            bytes.resize(offset / 8 + 1, 0_u8);
        }
        bytes[offset / 8] |= 1 << (offset % 8);
    }
    bytes.reverse();
    bytes
}

fn put(key: &str, value: &Value) -> Value {
    json!({"requestPut": {
        "key": STANDARD.encode(key),
        "value": STANDARD.encode(value.to_string()),
    }})
}

/// One transaction.
fn write(namespace: &Namespace, operations: &[Value]) -> Result<()> {
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
    Ok(())
}

/// With the metadata that the API server adds, but for the version, which is etcd's.
fn as_stored(object: &Value, batch: u32, number: u32) -> Value {
    let mut object = object.clone();
    object["metadata"]["creationTimestamp"] = "2024-05-06T07:08:09Z".into();
    object["metadata"]["uid"] = format!("7c7e2f55-0000-4000-{batch:04x}-{number:012x}").into();
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bit_is_the_first_address_and_the_last_byte() {
        let base = Ipv4Addr::new(10, 96, 0, 0);
        let taken = [1, 9, 10].map(|last| Ipv4Addr::new(10, 96, 0, last));
        assert_eq!(bitmap(base, &taken), [0b11, 0b1]);
    }
}
