//! What matters here of a cluster's Kubernetes objects, as a source has last seen them.
//!
//! Whole objects would take many times the memory (`managedFields`, annotations, status), and most of their
//! changes mean nothing here: a change of an object that leaves its facts as they are is none.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::facts::{ConfigMap, EndpointSlice, Node, Service, ServiceCidr};

/// Namespace and name of a namespaced object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl Key {
    /// The key of an object; one without a namespace counts as in `default`, as `kubectl apply`
    /// would have it.
    #[must_use]
    pub fn of(metadata: &ObjectMeta) -> Self {
        Self {
            namespace: metadata
                .namespace
                .clone()
                .unwrap_or_else(|| "default".to_owned()),
            name: metadata.name.clone().unwrap_or_default(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The kinds of objects that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A node, for its pod CIDRs.
    Node,
    /// A service.
    Service,
    /// Some of a service's endpoints.
    EndpointSlice,
    /// A network that cluster IPs are taken from.
    ServiceCidr,
    /// A configuration map, of which only `kube-system/kubeadm-config` is read.
    ConfigMap,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Node => "Node",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::ServiceCidr => "ServiceCIDR",
            Self::ConfigMap => "ConfigMap",
        })
    }
}

/// The facts of one object.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    key: Key,
    facts: Facts,
}

#[derive(Debug, Clone, PartialEq)]
enum Facts {
    Node(Node),
    Service(Service),
    EndpointSlice(EndpointSlice),
    ServiceCidr(ServiceCidr),
    ConfigMap(ConfigMap),
}

impl Object {
    /// Its namespace and name.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The Kubernetes kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self.facts {
            Facts::Node(_) => Kind::Node,
            Facts::Service(_) => Kind::Service,
            Facts::EndpointSlice(_) => Kind::EndpointSlice,
            Facts::ServiceCidr(_) => Kind::ServiceCidr,
            Facts::ConfigMap(_) => Kind::ConfigMap,
        }
    }
}

macro_rules! object_from {
    ($($whole:ty => $facts:ident),* $(,)?) => {
        $(impl From<$whole> for Object {
            fn from(object: $whole) -> Self {
                Self {
                    key: Key::of(&object.metadata),
                    facts: Facts::$facts($facts::from(object)),
                }
            }
        })*
    };
}

object_from! {
    core::Node => Node,
    core::Service => Service,
    discovery::EndpointSlice => EndpointSlice,
    networking::ServiceCIDR => ServiceCidr,
    core::ConfigMap => ConfigMap,
}

/// A change of the objects.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// An object is there, new or different.
    Put(Object),
    /// An object is gone.
    Remove(Kind, Key),
    /// These are all objects of a kind.
    Replace(Kind, Vec<Object>),
}

/// What changes since the last look have touched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Touched {
    /// Services with another object or other slices.
    pub(super) services: BTreeSet<Key>,
    /// Whether anything changed that networks are discovered from.
    pub(super) networks: bool,
}

impl Touched {
    pub(super) fn is_empty(&self) -> bool {
        self.services.is_empty() && !self.networks
    }
}

/// The objects of a cluster by kind, namespace and name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Objects {
    pub(super) nodes: BTreeMap<Key, Node>,
    pub(super) services: BTreeMap<Key, Service>,
    pub(super) endpoint_slices: BTreeMap<Key, EndpointSlice>,
    pub(super) service_cidrs: BTreeMap<Key, ServiceCidr>,
    pub(super) config_maps: BTreeMap<Key, ConfigMap>,
    slices_of: BTreeMap<Key, BTreeSet<Key>>,
    touched: Touched,
}

impl Objects {
    /// Adds an object or replaces the one of the same kind, namespace and name; says whether it
    /// replaced one.
    pub fn insert(&mut self, object: Object) -> bool {
        let Object { key, facts } = object;
        match facts {
            Facts::Node(node) => put(&mut self.nodes, key, node, &mut self.touched.networks),
            Facts::ServiceCidr(cidr) => put(
                &mut self.service_cidrs,
                key,
                cidr,
                &mut self.touched.networks,
            ),
            Facts::ConfigMap(map) => {
                put(&mut self.config_maps, key, map, &mut self.touched.networks)
            }
            Facts::Service(service) => {
                let mut changed = false;
                let replaced = put(&mut self.services, key.clone(), service, &mut changed);
                if changed {
                    self.touched.services.insert(key);
                }
                replaced
            }
            Facts::EndpointSlice(slice) => self.insert_slice(key, slice),
        }
    }

    /// Removes an object; says whether there was one.
    pub fn remove(&mut self, kind: Kind, key: &Key) -> bool {
        let networks = match kind {
            Kind::Node => self.nodes.remove(key).is_some(),
            Kind::ServiceCidr => self.service_cidrs.remove(key).is_some(),
            Kind::ConfigMap => self.config_maps.remove(key).is_some(),
            Kind::Service => {
                let removed = self.services.remove(key).is_some();
                if removed {
                    self.touched.services.insert(key.clone());
                }
                return removed;
            }
            Kind::EndpointSlice => return self.remove_slice(key),
        };
        self.touched.networks |= networks;
        networks
    }

    /// Applies a change.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Put(object) => {
                self.insert(object);
            }
            Change::Remove(kind, key) => {
                self.remove(kind, &key);
            }
            Change::Replace(kind, objects) => {
                let there: BTreeSet<Key> =
                    objects.iter().map(|object| object.key.clone()).collect();
                for key in self.keys(kind) {
                    if !there.contains(&key) {
                        self.remove(kind, &key);
                    }
                }
                for object in objects {
                    self.insert(object);
                }
            }
        }
    }

    /// A service's slices.
    pub(super) fn slices_of(&self, service: &Key) -> impl Iterator<Item = &EndpointSlice> {
        self.slices_of
            .get(service)
            .into_iter()
            .flatten()
            .filter_map(|key| self.endpoint_slices.get(key))
    }

    /// What has changed since this was asked last.
    pub(super) fn take_touched(&mut self) -> Touched {
        std::mem::take(&mut self.touched)
    }

    fn keys(&self, kind: Kind) -> Vec<Key> {
        match kind {
            Kind::Node => self.nodes.keys().cloned().collect(),
            Kind::Service => self.services.keys().cloned().collect(),
            Kind::EndpointSlice => self.endpoint_slices.keys().cloned().collect(),
            Kind::ServiceCidr => self.service_cidrs.keys().cloned().collect(),
            Kind::ConfigMap => self.config_maps.keys().cloned().collect(),
        }
    }

    fn insert_slice(&mut self, key: Key, slice: EndpointSlice) -> bool {
        if self.endpoint_slices.get(&key) == Some(&slice) {
            return true;
        }
        let service = service_of(&key, &slice);
        let replaced = self.remove_slice(&key);
        if let Some(service) = service {
            self.slices_of
                .entry(service.clone())
                .or_default()
                .insert(key.clone());
            self.touched.services.insert(service);
        }
        self.endpoint_slices.insert(key, slice);
        replaced
    }

    fn remove_slice(&mut self, key: &Key) -> bool {
        let Some(slice) = self.endpoint_slices.remove(key) else {
            return false;
        };
        if let Some(service) = service_of(key, &slice) {
            if let Some(slices) = self.slices_of.get_mut(&service) {
                slices.remove(key);
                if slices.is_empty() {
                    self.slices_of.remove(&service);
                }
            }
            self.touched.services.insert(service);
        }
        true
    }
}

fn service_of(key: &Key, slice: &EndpointSlice) -> Option<Key> {
    slice.service.as_ref().map(|service| Key {
        namespace: key.namespace.clone(),
        name: service.to_string(),
    })
}

/// Adds or replaces; says whether it replaced one.
fn put<V: PartialEq>(
    objects: &mut BTreeMap<Key, V>,
    key: Key,
    facts: V,
    changed: &mut bool,
) -> bool {
    match objects.entry(key) {
        Entry::Vacant(entry) => {
            entry.insert(facts);
            *changed = true;
            false
        }
        Entry::Occupied(mut entry) => {
            if *entry.get() != facts {
                entry.insert(facts);
                *changed = true;
            }
            true
        }
    }
}

impl FromIterator<Object> for Objects {
    fn from_iter<I: IntoIterator<Item = Object>>(objects: I) -> Self {
        let mut store = Self::default();
        for object in objects {
            store.insert(object);
        }
        store
    }
}
