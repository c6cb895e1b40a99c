//! The Kubernetes objects that matter here, as a source has last seen them.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::{ConfigMap, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

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

/// One object of a kind that matters here.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    /// A node, for its pod CIDRs.
    Node(Box<Node>),
    /// A service.
    Service(Box<Service>),
    /// Some of a service's endpoints.
    EndpointSlice(Box<EndpointSlice>),
    /// A network that cluster IPs are taken from.
    ServiceCidr(Box<ServiceCIDR>),
    /// A configuration map, of which only `kube-system/kubeadm-config` is read.
    ConfigMap(Box<ConfigMap>),
}

impl Object {
    /// The object's metadata.
    #[must_use]
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::Node(object) => &object.metadata,
            Self::Service(object) => &object.metadata,
            Self::EndpointSlice(object) => &object.metadata,
            Self::ServiceCidr(object) => &object.metadata,
            Self::ConfigMap(object) => &object.metadata,
        }
    }

    /// The Kubernetes kind.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Node(_) => "Node",
            Self::Service(_) => "Service",
            Self::EndpointSlice(_) => "EndpointSlice",
            Self::ServiceCidr(_) => "ServiceCIDR",
            Self::ConfigMap(_) => "ConfigMap",
        }
    }
}

/// The objects of a cluster by kind, namespace and name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Objects {
    pub(super) nodes: BTreeMap<String, Node>,
    pub(super) services: BTreeMap<Key, Service>,
    pub(super) endpoint_slices: BTreeMap<Key, EndpointSlice>,
    pub(super) service_cidrs: BTreeMap<String, ServiceCIDR>,
    pub(super) config_maps: BTreeMap<Key, ConfigMap>,
}

impl Objects {
    /// Adds an object or replaces the one of the same kind, namespace and name; says whether it
    /// replaced one.
    pub fn insert(&mut self, object: Object) -> bool {
        let key = Key::of(object.metadata());
        match object {
            Object::Node(object) => self.nodes.insert(key.name, *object).is_some(),
            Object::Service(object) => self.services.insert(key, *object).is_some(),
            Object::EndpointSlice(object) => self.endpoint_slices.insert(key, *object).is_some(),
            Object::ServiceCidr(object) => self.service_cidrs.insert(key.name, *object).is_some(),
            Object::ConfigMap(object) => self.config_maps.insert(key, *object).is_some(),
        }
    }

    /// How many objects there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
            + self.services.len()
            + self.endpoint_slices.len()
            + self.service_cidrs.len()
            + self.config_maps.len()
    }

    /// Whether there is no object.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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
