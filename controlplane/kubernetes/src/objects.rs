//! The objects of the API server, as a watch keeps them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Endpoints, Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{ListableResource, Metadata, NamespaceResourceScope, Resource};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Namespace and name of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// Empty: the object is cluster-scoped.
    pub namespace: String,
    pub name: String,
}

impl ObjectName {
    /// The name in an object's metadata.
    #[must_use]
    pub fn of(meta: &ObjectMeta) -> Self {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        Self { namespace: text(&meta.namespace), name: text(&meta.name) }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

/// Objects of one kind, by name.
pub type Store<T> = BTreeMap<ObjectName, Arc<T>>;

/// All objects that are translated. A kind must have been listed completely before it is translated: an object that is
/// missing counts as deleted. A kind that the server does not serve is empty.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    pub nodes: Store<Node>,
    pub namespaces: Store<Namespace>,
    pub pods: Store<Pod>,
    pub policies: Store<NetworkPolicy>,
    pub services: Store<Service>,
    pub slices: Store<EndpointSlice>,
    /// For servers without EndpointSlices: the Endpoints of a Service that has no slice.
    pub endpoints: Store<Endpoints>,
}

/// A NetworkPolicy with its spec as JSON. The type of `k8s-openapi` drops fields that it does not know; a policy must
/// be refused instead, as it means something else without them (P9).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NetworkPolicy {
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// `NetworkPolicySpec`.
    #[serde(default)]
    pub spec: Value,
}

impl Resource for NetworkPolicy {
    const API_VERSION: &'static str = "networking.k8s.io/v1";
    const GROUP: &'static str = "networking.k8s.io";
    const KIND: &'static str = "NetworkPolicy";
    const VERSION: &'static str = "v1";
    const URL_PATH_SEGMENT: &'static str = "networkpolicies";
    type Scope = NamespaceResourceScope;
}

impl ListableResource for NetworkPolicy {
    const LIST_KIND: &'static str = "NetworkPolicyList";
}

impl Metadata for NetworkPolicy {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
