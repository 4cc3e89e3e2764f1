//! The nodes that the endpoints of a Service are on.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{ObjectReference, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use romana_statemachine::name::HostName;

use crate::objects::{ObjectName, Objects};

/// The label of an EndpointSlice that names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The slices of each Service, by namespace and name.
pub(super) type Slices<'a> = BTreeMap<(&'a str, &'a str), Vec<&'a EndpointSlice>>;

/// The slices of all Services.
pub(super) fn slices(objects: &Objects) -> Slices<'_> {
    let mut slices = Slices::new();
    for (name, slice) in &objects.slices {
        let labels = slice.metadata.labels.as_ref();
        if let Some(service) = labels.and_then(|labels| labels.get(SERVICE_NAME)) {
            slices.entry((name.namespace.as_str(), service.as_str())).or_default().push(&**slice);
        }
    }
    slices
}

/// The nodes of the endpoints of Services.
#[derive(Default)]
pub(super) struct Backends {
    /// With a ready endpoint.
    ready: BTreeSet<HostName>,
    /// With an endpoint that still serves while it terminates.
    serving: BTreeSet<HostName>,
}

impl Backends {
    /// Adds those of a Service.
    pub(super) fn add(&mut self, objects: &Objects, service: &Service, slices: &Slices<'_>) {
        let name = ObjectName::of(&service.metadata);
        let of = (name.namespace.as_str(), name.name.as_str());
        let slices = slices.get(&of).map(Vec::as_slice).unwrap_or_default();
        let spec = service.spec.as_ref();
        let all = spec.and_then(|spec| spec.publish_not_ready_addresses).unwrap_or_default();
        if slices.is_empty() {
            self.add_endpoints(objects, service, all);
        }
        for endpoint in slices.iter().flat_map(|slice| slice.endpoints.iter().flatten()) {
            let node =
                node(objects, service, endpoint.node_name.as_ref(), endpoint.target_ref.as_ref());
            let Some(node) = node else { continue };
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            // Not said: ready. Not said whether it serves: it does if it is ready.
            let ready = conditions.ready.unwrap_or(true);
            if ready || all {
                self.ready.insert(node);
            } else if conditions.serving.unwrap_or(ready) {
                self.serving.insert(node);
            }
        }
    }

    /// The Endpoints object of the Service.
    fn add_endpoints(&mut self, objects: &Objects, service: &Service, all: bool) {
        let endpoints = objects.endpoints.get(&ObjectName::of(&service.metadata));
        let subsets = endpoints.and_then(|endpoints| endpoints.subsets.as_ref());
        for subset in subsets.into_iter().flatten() {
            let not_ready = subset.not_ready_addresses.iter().flatten().filter(|_| all);
            for address in subset.addresses.iter().flatten().chain(not_ready) {
                let (name, target) = (address.node_name.as_ref(), address.target_ref.as_ref());
                self.ready.extend(node(objects, service, name, target));
            }
        }
    }

    /// The nodes with a ready endpoint; if there are none, those with one that still serves.
    pub(super) fn nodes(self, objects: &Objects) -> Vec<HostName> {
        let exists = |host: &HostName| {
            let name = ObjectName { namespace: String::new(), name: host.to_string() };
            objects.nodes.contains_key(&name)
        };
        let living =
            |hosts: BTreeSet<HostName>| hosts.into_iter().filter(exists).collect::<Vec<_>>();
        let (ready, serving) = (living(self.ready), living(self.serving));
        if ready.is_empty() { serving } else { ready }
    }
}

/// The node of an endpoint: as given, or that of the pod that it refers to.
fn node(
    objects: &Objects,
    service: &Service,
    name: Option<&String>,
    target: Option<&ObjectReference>,
) -> Option<HostName> {
    if let Some(name) = name.filter(|name| !name.is_empty()) {
        return Some(name.as_str().into());
    }
    let target = target.filter(|target| target.kind.as_deref() == Some("Pod"))?;
    let namespace = service.metadata.namespace.clone().unwrap_or_default();
    let pod = ObjectName { namespace, name: target.name.clone()? };
    let pod = objects.pods.get(&pod)?;
    Some(pod.spec.as_ref()?.node_name.as_deref()?.into())
}
