//! Which backend of a service a new flow goes to.

use crate::abi::{
    Affinity, AffinityKey, Backend, BackendKey, FlowKey, Ipv4, Service, ServiceKey, Settings, since,
};
use crate::drops::DropReason;
use crate::packet::parse::{ICMP, TCP};
use crate::packet::rewrite::Endpoint;
use crate::tables::{Insertion, Tables};
use crate::verdict::{LocalReplyKind, Verdict};

/// Whether there is a service with this address, port and protocol; port 0 and ICMP stand for the whole address.
#[inline(always)]
pub fn is_known<T: Tables>(tables: &T, vip: Ipv4, port: u16, protocol: u8) -> bool {
    let key = ServiceKey {
        vip,
        port,
        protocol,
        pad: 0,
    };
    tables.service(&key).is_some()
}

/// The service that a client addressed.
#[inline(always)]
const fn service_key(key: &FlowKey) -> ServiceKey {
    ServiceKey {
        vip: key.destination,
        port: key.destination_port,
        protocol: key.protocol,
        pad: 0,
    }
}

#[inline(always)]
const fn endpoint(backend: Backend) -> Endpoint {
    Endpoint {
        address: backend.address,
        port: backend.port,
    }
}

/// A backend of the service that the client addressed.
///
/// # Errors
/// The verdict on a packet that no backend gets: a rejection, or the reply to a ping.
#[inline(always)]
pub fn select_backend<T: Tables>(
    tables: &T,
    key: &FlowKey,
    settings: &Settings,
) -> Result<Endpoint, Verdict> {
    let refusal = |reason| {
        Err(Verdict::Reject(
            reason,
            if key.protocol == TCP {
                LocalReplyKind::TcpReset.without_mtu()
            } else {
                LocalReplyKind::PortUnreachable.without_mtu()
            },
        ))
    };
    let service_key = service_key(key);
    let Some(service) = tables.service(&service_key) else {
        return if key.protocol == ICMP {
            Err(Verdict::Reject(
                DropReason::NoService,
                LocalReplyKind::HostUnreachable.without_mtu(),
            ))
        } else {
            refusal(DropReason::NoService)
        };
    };
    if key.protocol == ICMP {
        return Err(match (settings.answer_ping, service.backend_count) {
            (0, _) => Verdict::Drop(DropReason::UnsupportedProtocol),
            (_, 0) => Verdict::Reject(
                DropReason::NoBackend,
                LocalReplyKind::HostUnreachable.without_mtu(),
            ),
            _ => Verdict::LocalReply(LocalReplyKind::EchoReply.without_mtu()),
        });
    }
    let chosen = if service.affinity_seconds == 0 {
        if service.backend_count == 1 {
            return Ok(endpoint(service.only));
        }
        random_backend(tables, &service)
    } else {
        let affinity_key = AffinityKey {
            client: key.client,
            service: service_key,
        };
        sticky_backend(tables, &affinity_key, &service)
    };
    match chosen {
        Some(backend) => Ok(endpoint(backend)),
        None => refusal(DropReason::NoBackend),
    }
}

/// The backend that a connection which is under way must have, if that can be told: the only one, or the one that the
/// client came to last.
#[inline(always)]
pub fn known_backend<T: Tables>(tables: &T, key: &FlowKey) -> Option<Endpoint> {
    let service_key = service_key(key);
    let service = tables.service(&service_key)?;
    let backend = if service.backend_count == 1 {
        service.only
    } else if service.affinity_seconds != 0 {
        let affinity = AffinityKey {
            client: key.client,
            service: service_key,
        };
        tables.affinity(&affinity)?.backend
    } else {
        return None;
    };
    Some(endpoint(backend))
}

/// A random backend.
#[inline(always)]
fn random_backend<T: Tables>(tables: &T, service: &Service) -> Option<Backend> {
    if service.backend_count == 0 {
        return None;
    }
    tables.backend(&BackendKey {
        service_id: service.id,
        slot: tables.random() % service.backend_count,
    })
}

/// The backend that the client came to last, as long as that is not too long ago; each new flow renews it, as
/// kube-proxy's `recent` match does. Userspace removes entries that lead to a backend which the service has lost.
#[inline(always)]
fn sticky_backend<T: Tables>(tables: &T, key: &AffinityKey, service: &Service) -> Option<Backend> {
    let now = tables.now();
    let known = tables.affinity(key);
    let affinity = match known {
        Some(last)
            if service.backend_count != 0
                && since(now, last.last_used) < service.affinity_seconds =>
        {
            Affinity {
                last_used: now,
                ..last
            }
        }
        _ => Affinity {
            backend: random_backend(tables, service)?,
            last_used: now,
        },
    };
    if known.is_none() && matches!(tables.insert_affinity(key, &affinity), Insertion::Exists) {
        // Another CPU has chosen for the same client at the same time.
        return tables.affinity(key).map(|first| first.backend);
    }
    if known.is_some_and(|last| last != affinity) {
        tables.set_affinity(key, &affinity);
    }
    Some(affinity.backend)
}
