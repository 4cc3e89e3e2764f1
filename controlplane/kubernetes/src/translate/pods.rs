//! Pods → endpoints.
//!
//! What ends an address: the kubelet kills the containers of a pod, then its sandbox (CNI DEL, which releases the
//! address, and with it the endpoint), and only then is the object removed from the API server. Between the two the
//! object still shows the address. So an endpoint of a pod that is being deleted is kept as long as the address is its
//! own, and not created again after that (`diff`); and it ends at the latest with the object, or with the terminal
//! phase, after which no container of the pod runs again.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use romana_statemachine::command::{Endpoint, Imported, NamedPort, ObjectKey};
use romana_statemachine::name::{DEFAULT_SEGMENT, HostName, SegmentId};
use romana_statemachine::policy::Protocol;

use crate::desired::{Desired, Translation};
use crate::objects::Store;
use crate::problem::ObjectRef;

/// The label of a pod that names its segment.
const SEGMENT: &str = "romana.io/segment";

pub(super) fn translate(pods: &Store<Pod>, out: &mut Translation) {
    let mut claims: BTreeMap<IpAddr, Vec<(&Pod, &str)>> = BTreeMap::new();
    for pod in pods.values() {
        let pod: &Pod = pod;
        let Some(node) = node_with_addresses(pod) else { continue };
        out.occupied.insert(node.into());
        for text in ips(pod) {
            match text.parse() {
                Ok(ip) => claims.entry(ip).or_default().push((pod, node)),
                Err(_) => {
                    let message =
                        format!("its address \"{}\" is no address.", text.escape_default());
                    out.problem(&ObjectRef::of(pod), "InvalidPodIP", message);
                }
            }
        }
    }
    for (ip, mut pods) in claims {
        // The address was released before it was allocated to the newest one.
        pods.sort_by_key(|(pod, _)| (&pod.metadata.creation_timestamp, &pod.metadata.uid));
        let mut newest_first = pods.into_iter().rev().map(|(pod, node)| {
            let endpoint = endpoint(pod, ip, node.into(), out);
            Desired::of(pod, Imported::Endpoint(endpoint))
        });
        let newest = newest_first.next();
        let rivals: Vec<Desired> = newest_first.collect();
        if !rivals.is_empty() {
            out.rivals.insert(ObjectKey::Endpoint(ip), rivals);
        }
        newest.into_iter().for_each(|newest| out.want(newest));
    }
}

/// The node of a pod that has addresses of its own; `None`: it is not bound to a node, has the addresses of its node,
/// or has ended.
fn node_with_addresses(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let ended = matches!(phase, Some("Succeeded" | "Failed"));
    let node = spec.node_name.as_deref().filter(|node| !node.is_empty())?;
    (!ended && !spec.host_network.unwrap_or_default()).then_some(node)
}

/// The addresses in a pod's status, each once.
fn ips(pod: &Pod) -> Vec<&str> {
    let Some(status) = &pod.status else { return Vec::new() };
    let several = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let mut ips: Vec<&str> = several.chain(status.pod_ip.as_deref()).collect();
    ips.retain(|ip| !ip.is_empty());
    ips.sort_unstable();
    ips.dedup();
    ips
}

fn endpoint(pod: &Pod, ip: IpAddr, host: HostName, out: &mut Translation) -> Endpoint {
    let object = ObjectRef::of(pod);
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    Endpoint {
        ip,
        tenant: object.namespace.as_str().into(),
        segment: segment(pod),
        host,
        ports: named_ports(pod.spec.as_ref(), &object, out),
        labels,
    }
}

/// The segment of a pod.
pub(crate) fn segment(pod: &Pod) -> SegmentId {
    let label = pod.metadata.labels.as_ref().and_then(|labels| labels.get(SEGMENT));
    let label = label.filter(|segment| !segment.is_empty());
    SegmentId::from(label.map_or(DEFAULT_SEGMENT, String::as_str))
}

/// The named ports of the containers that run as long as the pod does: sidecars are init containers that restart.
fn named_ports(
    spec: Option<&PodSpec>,
    object: &ObjectRef,
    out: &mut Translation,
) -> Vec<NamedPort> {
    let Some(spec) = spec else { return Vec::new() };
    let restarts = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().flatten().filter(restarts);
    let containers = sidecars.chain(&spec.containers);
    let mut ports = Vec::new();
    for port in containers.flat_map(|container| container.ports.iter().flatten()) {
        let Some(name) = port.name.clone().filter(|name| !name.is_empty()) else { continue };
        let protocol = match port.protocol.as_deref() {
            None | Some("" | "TCP") => Some(Protocol::Tcp),
            Some("UDP") => Some(Protocol::Udp),
            Some("SCTP") => Some(Protocol::Sctp),
            Some(_) => None,
        };
        let number = u16::try_from(port.container_port).ok().filter(|number| *number > 0);
        let (Some(protocol), Some(port)) = (protocol, number) else {
            let message = format!(
                "its port \"{}\" is left out: it has no number from 1 to 65535 of TCP, UDP or SCTP.",
                name.escape_default()
            );
            out.problem(object, "InvalidPort", message);
            continue;
        };
        let port = NamedPort { name, protocol, port };
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    ports
}
