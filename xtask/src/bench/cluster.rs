//! A cluster with many services that have one backend each.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use lab::cluster::{Cluster, Endpoint, Protocol, Service, ServicePort};

use super::layout::{SERVICE_PORT, backend, backend_port, vip};
use super::topology;

/// A cluster with that many services.
pub fn with_services(count: u32) -> Result<Cluster> {
    let services: Result<Vec<Service>> = (0..count).map(service).collect();
    Ok(Cluster {
        nodes: topology::nodes(),
        services: services.context("number the services")?,
    })
}

fn service(number: u32) -> Result<Service> {
    let name = format!("bench-{number}");
    Ok(Service {
        namespace: "bench".to_owned(),
        name: name.clone(),
        vip: Ipv4Addr::from_bits(vip(number)),
        ports: vec![ServicePort {
            name: "udp".to_owned(),
            protocol: Protocol::Udp,
            port: u16::try_from(SERVICE_PORT)?,
            target: u16::try_from(backend_port(number))?,
        }],
        endpoints: vec![Endpoint {
            pod: format!("{name}-0"),
            node: "worker-1".to_owned(),
            address: Ipv4Addr::from_bits(backend(number)),
            ready: true,
            terminating: false,
        }],
        session_affinity: None,
    })
}
