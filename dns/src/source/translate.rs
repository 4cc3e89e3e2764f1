//! Objects of Kubernetes, as the zone needs them. Pure; nothing that an object has makes it fail: what DNS cannot use is
//! left out.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Endpoints, Service as KubernetesService};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::inventory::{Backend, Group, Port, Protocol, Service, ServiceKind, Slice, is_label};

/// The label of an EndpointSlice that names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The older form of `publishNotReadyAddresses`.
const TOLERATE_UNREADY: &str = "service.alpha.kubernetes.io/tolerate-unready-endpoints";

/// The annotation in which romanad notes the VIP that a Service shows.
const VIP_STATUS: &str = "romana.io/vip-status";

/// A Service.
#[must_use]
pub fn service(object: &KubernetesService) -> Service {
    let spec = object.spec.clone().unwrap_or_default();
    let annotations = object.metadata.annotations.as_ref();
    let tolerates =
        annotations.and_then(|all| all.get(TOLERATE_UNREADY)).is_some_and(|said| said == "true");
    let ports = spec.ports.unwrap_or_default().into_iter();
    let ports = ports.filter_map(|port| named(port.name, port.protocol, Some(port.port)));
    let primary = spec.cluster_ip.unwrap_or_default();
    let kind = if spec.type_.as_deref() == Some("ExternalName") {
        ServiceKind::External(spec.external_name.unwrap_or_default())
    } else if primary == "None" {
        ServiceKind::Headless
    } else {
        let all = spec.cluster_ips.filter(|ips| !ips.is_empty());
        ServiceKind::Cluster(addresses(&all.unwrap_or_else(|| vec![primary])))
    };
    let publish_not_ready = spec.publish_not_ready_addresses.unwrap_or(tolerates);
    let shared_vip = shared_vip(object);
    Service { kind, ports: ports.collect(), publish_not_ready, shared_vip }
}

/// The VIP that a Service shows, if it is that of another one.
fn shared_vip(object: &KubernetesService) -> Option<String> {
    let meta = &object.metadata;
    let note = meta.annotations.as_ref()?.get(VIP_STATUS)?;
    let note: serde_json::Value = serde_json::from_str(note).ok()?;
    let vip = note.get("vip")?.as_str()?.to_ascii_lowercase();
    let own = format!("{}.{}", meta.name.as_deref()?, meta.namespace.as_deref()?);
    (vip != own).then_some(vip)
}

/// An EndpointSlice; `None` if it is of no Service.
#[must_use]
pub fn slice(object: &EndpointSlice) -> Option<Slice> {
    let service = object.metadata.labels.as_ref()?.get(SERVICE_NAME)?.clone();
    let ports = object.ports.clone().unwrap_or_default().into_iter();
    let ports = ports.filter_map(|port| named(port.name, port.protocol, port.port)).collect();
    let backends = object.endpoints.iter().flatten().map(|endpoint| {
        let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready);
        Backend {
            addresses: addresses(&endpoint.addresses),
            hostname: endpoint.hostname.clone().filter(|name| is_label(name)),
            // Not said: ready.
            ready: ready.unwrap_or(true),
        }
    });
    Some(Slice { service, groups: vec![Group { ports, backends: backends.collect() }] })
}

/// The Endpoints of the Service with the same name: for servers without EndpointSlices.
#[must_use]
pub fn endpoints(object: &Endpoints) -> Option<Slice> {
    let service = object.metadata.name.clone()?;
    let subsets = object.subsets.clone().unwrap_or_default().into_iter();
    let groups = subsets.map(|subset| {
        let ports = subset.ports.unwrap_or_default().into_iter();
        let ports = ports.filter_map(|port| named(port.name, port.protocol, Some(port.port)));
        let ready = subset.addresses.unwrap_or_default().into_iter().map(|one| (one, true));
        let not_ready = subset.not_ready_addresses.unwrap_or_default().into_iter();
        let all = ready.chain(not_ready.map(|one| (one, false)));
        let backends = all.map(|(address, ready)| Backend {
            addresses: addresses(&[address.ip]),
            hostname: address.hostname.filter(|name| is_label(name)),
            ready,
        });
        Group { ports: ports.collect(), backends: backends.collect() }
    });
    Some(Slice { service, groups: groups.collect() })
}

fn addresses(texts: &[String]) -> Vec<IpAddr> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

/// A port that has a name and a number.
fn named(name: Option<String>, protocol: Option<String>, number: Option<i32>) -> Option<Port> {
    let name = name.filter(|name| !name.is_empty())?.to_ascii_lowercase();
    let number = u16::try_from(number?).ok().filter(|number| *number > 0)?;
    let protocol = match protocol.as_deref() {
        None | Some("TCP") => Protocol::Tcp,
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        Some(_) => return None,
    };
    Some(Port { name, protocol, number })
}
