//! Services with an annotation → VIPs. Candidates are the nodes with a ready endpoint of the Service, so that a VIP
//! moves before the last ready endpoint of its node ends.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ObjectReference, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use romana_statemachine::command::{Imported, ObjectKey, VipSpec};
use romana_statemachine::name::{HostName, VipName};
use serde::Deserialize;

use crate::desired::{Desired, Translation};
use crate::objects::{ObjectName, Objects};
use crate::problem::ObjectRef;

/// The annotations that ask for a VIP: as in the documentation, and as Romana 2.0.2 reads it.
const ANNOTATIONS: [&str; 2] = ["romanaip", "romanavip"];
/// The label of an EndpointSlice that names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The value of the annotation: `{"auto": false, "ip": "192.168.99.101"}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    #[serde(default)]
    auto: bool,
    #[serde(default)]
    ip: Option<String>,
}

/// Why a Service gets no VIP.
struct Fault {
    reason: &'static str,
    message: String,
    /// Whether the VIP that the log has stays: what the Service asks for is not known.
    keeps: bool,
}

pub(super) fn translate(objects: &Objects, out: &mut Translation) {
    let slices = slices(objects);
    for service in objects.services.values() {
        let Some(ip) = requested(service).transpose() else { continue };
        let object = ObjectRef::of(&**service);
        let name = VipName::from(format!("{}.{}", object.name, object.namespace));
        let spec = ip.and_then(|ip| {
            let of = (object.namespace.as_str(), object.name.as_str());
            let slices = slices.get(&of).map(Vec::as_slice).unwrap_or_default();
            let candidates = Backends::of(objects, service, slices).candidates(objects)?;
            Ok(VipSpec { name: name.clone(), ip, candidates })
        });
        match spec {
            Ok(spec) => out.want(Desired::of(&**service, Imported::Vip(spec))),
            Err(Fault { reason, message, keeps }) => {
                out.problem(&object, reason, message);
                if keeps {
                    out.kept.insert(ObjectKey::Vip(name));
                }
            }
        }
    }
}

/// The address that a Service asks for.
fn requested(service: &Service) -> Result<Option<IpAddr>, Fault> {
    let annotations = service.metadata.annotations.as_ref();
    let given = |key: &str| annotations.and_then(|annotations| annotations.get(key));
    let mut values = ANNOTATIONS.iter().filter_map(|key| given(key).map(|value| (*key, value)));
    let Some((key, value)) = values.next() else { return Ok(None) };
    let wrong = |why: String| {
        let message =
            format!("annotation {key} {why}. Write {{\"auto\": false, \"ip\": \"ADDRESS\"}}.");
        Fault { reason: "InvalidAnnotation", message, keeps: true }
    };
    if values.any(|(_, other)| other != value) {
        return Err(wrong(format!("and {} differ", ANNOTATIONS[1])));
    }
    let request: Request = serde_json::from_str(value)
        .map_err(|error| wrong(format!("is not understood: {error}")))?;
    if request.auto {
        let message = "annotation with \"auto\": true: addresses for VIPs are not chosen \
                       automatically yet. Give \"auto\": false and an \"ip\".";
        return Err(Fault { reason: "AutoNotSupported", message: message.into(), keeps: false });
    }
    let text = request.ip.ok_or_else(|| wrong("has no ip".into()))?;
    let ip = text
        .parse()
        .map_err(|_| wrong(format!("has no address as ip: \"{}\"", text.escape_default())));
    let external =
        service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("ExternalName");
    if external {
        let message = "a Service of type ExternalName has no endpoints that a VIP could lead to.";
        return Err(Fault { reason: "ExternalName", message: message.into(), keeps: false });
    }
    ip.map(Some)
}

/// The slices of each Service, by namespace and name.
fn slices(objects: &Objects) -> BTreeMap<(&str, &str), Vec<&EndpointSlice>> {
    let mut slices: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (name, slice) in &objects.slices {
        let labels = slice.metadata.labels.as_ref();
        if let Some(service) = labels.and_then(|labels| labels.get(SERVICE_NAME)) {
            slices.entry((name.namespace.as_str(), service.as_str())).or_default().push(&**slice);
        }
    }
    slices
}

/// The nodes of a Service's endpoints.
#[derive(Default)]
struct Backends {
    /// With a ready endpoint.
    ready: BTreeSet<HostName>,
    /// With an endpoint that still serves while it terminates.
    serving: BTreeSet<HostName>,
}

impl Backends {
    fn of(objects: &Objects, service: &Service, slices: &[&EndpointSlice]) -> Self {
        let spec = service.spec.as_ref();
        let all = spec.and_then(|spec| spec.publish_not_ready_addresses).unwrap_or_default();
        let mut found = Self::default();
        if slices.is_empty() {
            found.add_endpoints(objects, service, all);
        }
        for endpoint in slices.iter().flat_map(|slice| slice.endpoints.iter().flatten()) {
            let node =
                node(objects, service, endpoint.node_name.as_ref(), endpoint.target_ref.as_ref());
            let Some(node) = node else { continue };
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            // Not said: ready. Not said whether it serves: it does if it is ready.
            let ready = conditions.ready.unwrap_or(true);
            if ready || all {
                found.ready.insert(node);
            } else if conditions.serving.unwrap_or(ready) {
                found.serving.insert(node);
            }
        }
        found
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

    /// The nodes that may have the VIP. There is at least one: a VIP without candidates could be on any host.
    fn candidates(self, objects: &Objects) -> Result<Vec<HostName>, Fault> {
        let exists = |host: &HostName| {
            let name = ObjectName { namespace: String::new(), name: host.to_string() };
            objects.nodes.contains_key(&name)
        };
        let living =
            |hosts: BTreeSet<HostName>| hosts.into_iter().filter(exists).collect::<Vec<_>>();
        let (ready, serving) = (living(self.ready), living(self.serving));
        let candidates = if ready.is_empty() { serving } else { ready };
        if candidates.is_empty() {
            let message = "no node has a ready endpoint of this Service, so no node has its VIP.";
            let message = message.to_owned();
            return Err(Fault { reason: "NoReadyEndpoint", message, keeps: false });
        }
        Ok(candidates)
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
