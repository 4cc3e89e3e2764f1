//! Nodes → hosts.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Node;
use romana_statemachine::Labels;
use romana_statemachine::command::{HostSource, HostSpec, Imported, ObjectKey};
use romana_statemachine::name::HostName;

use crate::desired::{Desired, Translation, UNSCHEDULABLE};
use crate::objects::Store;
use crate::problem::ObjectRef;

pub(super) fn translate(nodes: &Store<Node>, out: &mut Translation) {
    nodes.values().for_each(|node| one(node, out));
}

fn one(node: &Node, out: &mut Translation) {
    let object = ObjectRef::of(node);
    let name = HostName::from(object.name.as_str());
    let spec = node.spec.clone().unwrap_or_default();
    let cidrs = spec.pod_cidrs.into_iter().flatten().chain(spec.pod_cidr);
    out.pod_cidrs.extend(cidrs.map(|cidr| (object.clone(), cidr)));
    let ips = internal_ips(node, &object, out);
    let Some((ip, addresses)) = ips.split_first() else {
        let message = "it has no address of type InternalIP, so it is no host. The kubelet or the \
                       cloud controller sets status.addresses (kubelet --node-ip).";
        out.problem(&object, "NoInternalIP", message);
        // A status that was lost for a moment is no reason to evict what runs there.
        out.kept.insert(ObjectKey::Host(name));
        return;
    };
    let unschedulable = spec.unschedulable.unwrap_or_default().to_string();
    let spec = HostSpec {
        name,
        ip: *ip,
        addresses: addresses.to_vec(),
        labels: node.metadata.labels.clone().unwrap_or_default(),
        info: Labels::from([(UNSCHEDULABLE.to_owned(), unschedulable)]),
        source: HostSource::Kubernetes,
    };
    out.want(Desired::of(node, Imported::Host(spec)));
}

/// The addresses of type InternalIP in the order of the status: the first one is the main address, of whichever family.
fn internal_ips(node: &Node, object: &ObjectRef, out: &mut Translation) -> Vec<IpAddr> {
    let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let mut ips = Vec::new();
    for address in addresses.filter(|address| address.type_ == "InternalIP") {
        match address.address.parse() {
            Ok(ip) if !ips.contains(&ip) => ips.push(ip),
            Ok(_) => {}
            Err(_) => {
                let message = format!(
                    "its InternalIP \"{}\" is no address.",
                    address.address.escape_default()
                );
                out.problem(object, "InvalidInternalIP", message);
            }
        }
    }
    ips
}
