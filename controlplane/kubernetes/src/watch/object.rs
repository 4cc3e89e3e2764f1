//! The kinds that are followed, and the part of their objects that is kept.

use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Endpoints, Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Resource;
use serde::de::DeserializeOwned;

use crate::{NetworkPolicy, ObjectName, Objects};

/// Annotation with a copy of the whole object.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Node,
    Namespace,
    Pod,
    NetworkPolicy,
    Service,
    EndpointSlice,
    Endpoints,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 7] = [
        Self::Node,
        Self::Namespace,
        Self::Pod,
        Self::NetworkPolicy,
        Self::Service,
        Self::EndpointSlice,
        Self::Endpoints,
    ];

    /// The resource's name in the API.
    #[must_use]
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Node => "nodes",
            Self::Namespace => "namespaces",
            Self::Pod => "pods",
            Self::NetworkPolicy => "networkpolicies",
            Self::Service => "services",
            Self::EndpointSlice => "endpointslices",
            Self::Endpoints => "endpoints",
        }
    }
}

/// Names an object.
pub type Key = (Kind, ObjectName);

/// An object of a kind that is followed.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    Node(Arc<Node>),
    Namespace(Arc<Namespace>),
    Pod(Arc<Pod>),
    NetworkPolicy(Arc<NetworkPolicy>),
    Service(Arc<Service>),
    EndpointSlice(Arc<EndpointSlice>),
    Endpoints(Arc<Endpoints>),
}

impl Object {
    /// The object's kind and name.
    #[must_use]
    pub fn key(&self) -> Key {
        match self {
            Self::Node(node) => key(&**node),
            Self::Namespace(namespace) => key(&**namespace),
            Self::Pod(pod) => key(&**pod),
            Self::NetworkPolicy(policy) => key(&**policy),
            Self::Service(service) => key(&**service),
            Self::EndpointSlice(slice) => key(&**slice),
            Self::Endpoints(endpoints) => key(&**endpoints),
        }
    }
}

/// A change of one object.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// It was created or changed.
    Apply(Object),
    /// It was deleted.
    Delete(Key),
}

/// Applies a change.
pub fn apply(objects: &mut Objects, change: Change) {
    match change {
        Change::Apply(object) => put(objects, object),
        Change::Delete((kind, name)) => remove(objects, kind, &name),
    }
}

fn put(objects: &mut Objects, object: Object) {
    let (_, name) = object.key();
    match object {
        Object::Node(node) => _ = objects.nodes.insert(name, node),
        Object::Namespace(namespace) => _ = objects.namespaces.insert(name, namespace),
        Object::Pod(pod) => _ = objects.pods.insert(name, pod),
        Object::NetworkPolicy(policy) => _ = objects.policies.insert(name, policy),
        Object::Service(service) => _ = objects.services.insert(name, service),
        Object::EndpointSlice(slice) => _ = objects.slices.insert(name, slice),
        Object::Endpoints(endpoints) => _ = objects.endpoints.insert(name, endpoints),
    }
}

fn remove(objects: &mut Objects, kind: Kind, name: &ObjectName) {
    match kind {
        Kind::Node => _ = objects.nodes.remove(name),
        Kind::Namespace => _ = objects.namespaces.remove(name),
        Kind::Pod => _ = objects.pods.remove(name),
        Kind::NetworkPolicy => _ = objects.policies.remove(name),
        Kind::Service => _ = objects.services.remove(name),
        Kind::EndpointSlice => _ = objects.slices.remove(name),
        Kind::Endpoints => _ = objects.endpoints.remove(name),
    }
}

/// Number of objects of each kind.
#[must_use]
pub fn count(objects: &Objects) -> [(Kind, usize); 7] {
    Kind::ALL.map(|kind| {
        let count = match kind {
            Kind::Node => objects.nodes.len(),
            Kind::Namespace => objects.namespaces.len(),
            Kind::Pod => objects.pods.len(),
            Kind::NetworkPolicy => objects.policies.len(),
            Kind::Service => objects.services.len(),
            Kind::EndpointSlice => objects.slices.len(),
            Kind::Endpoints => objects.endpoints.len(),
        };
        (kind, count)
    })
}

/// A type of the API that is followed.
pub(super) trait Followed:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
    const KIND: Kind;

    fn wrap(this: Arc<Self>) -> Object;

    /// Drops large parts that the translation does not read.
    fn trim(&mut self) {}
}

/// The part of an object that is kept.
pub(super) fn kept<K: Followed>(mut object: K) -> Object {
    let meta = object.meta_mut();
    meta.managed_fields = None;
    if let Some(annotations) = &mut meta.annotations {
        annotations.remove(LAST_APPLIED);
    }
    object.trim();
    K::wrap(Arc::new(object))
}

/// Kind and name of an object.
pub(super) fn key<K: Followed>(object: &K) -> Key {
    (K::KIND, ObjectName::of(object.meta()))
}

/// Names and ports of a container.
fn ports_only(container: &mut Container) {
    let Container { name, ports, restart_policy, .. } = std::mem::take(container);
    *container = Container { name, ports, restart_policy, ..Container::default() };
}

impl Followed for Node {
    const KIND: Kind = Kind::Node;

    fn wrap(this: Arc<Self>) -> Object {
        Object::Node(this)
    }

    fn trim(&mut self) {
        if let Some(status) = &mut self.status {
            (status.images, status.volumes_attached, status.volumes_in_use) = (None, None, None);
        }
    }
}

impl Followed for Pod {
    const KIND: Kind = Kind::Pod;

    fn wrap(this: Arc<Self>) -> Object {
        Object::Pod(this)
    }

    fn trim(&mut self) {
        if let Some(spec) = &mut self.spec {
            spec.containers.iter_mut().for_each(ports_only);
            spec.init_containers.iter_mut().flatten().for_each(ports_only);
            (spec.volumes, spec.affinity, spec.ephemeral_containers) = (None, None, None);
        }
        if let Some(status) = &mut self.status {
            status.container_statuses = None;
            status.init_container_statuses = None;
            status.ephemeral_container_statuses = None;
        }
    }
}

impl Followed for Namespace {
    const KIND: Kind = Kind::Namespace;

    fn wrap(this: Arc<Self>) -> Object {
        Object::Namespace(this)
    }
}

impl Followed for NetworkPolicy {
    const KIND: Kind = Kind::NetworkPolicy;

    fn wrap(this: Arc<Self>) -> Object {
        Object::NetworkPolicy(this)
    }
}

impl Followed for Service {
    const KIND: Kind = Kind::Service;

    fn wrap(this: Arc<Self>) -> Object {
        Object::Service(this)
    }
}

impl Followed for EndpointSlice {
    const KIND: Kind = Kind::EndpointSlice;

    fn wrap(this: Arc<Self>) -> Object {
        Object::EndpointSlice(this)
    }
}

impl Followed for Endpoints {
    const KIND: Kind = Kind::Endpoints;

    fn wrap(this: Arc<Self>) -> Object {
        Object::Endpoints(this)
    }
}
