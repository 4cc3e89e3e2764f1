//! Services that share an address: those with the same key that ask for the same one.
//!
//! The VIP belongs to one of them, and leads to the endpoints of all. kube-proxy tells them apart by port; so no two
//! may have the same one. With `externalTrafficPolicy: Local` the node that has the VIP needs an endpoint of each of
//! them, which is certain only if all select the same pods.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Service;

use super::requests::{Address, Fault, Request};
use crate::shown::Record;

/// A VIP: the Services that it leads to, its owner first. There is at least one.
pub(super) struct Group<'a>(pub(super) Vec<Request<'a>>);

/// The groups, and what cannot be in the one that it asks for.
pub(super) fn groups(requests: Vec<Request<'_>>) -> (Vec<Group<'_>>, Vec<(Request<'_>, Fault)>) {
    let (mut groups, mut refused) = (Vec::new(), Vec::new());
    let mut shared: BTreeMap<(&str, Vec<Address>), Vec<Request<'_>>> = BTreeMap::new();
    for request in requests {
        match request.key {
            Some(key) => shared.entry((key, request.addresses.clone())).or_default().push(request),
            None => groups.push(Group(vec![request])),
        }
    }
    for (_, mut sharing) in shared {
        // The owner stays the owner: under another name the VIP would be another one.
        sharing.sort_by(|a, b| (!owns(a), a.age()).cmp(&(!owns(b), b.age())));
        let mut group: Vec<Request<'_>> = Vec::new();
        for request in sharing {
            let why = group.iter().find_map(|other| clash(other, &request));
            match why {
                Some(message) => {
                    let fault = Fault { reason: "AddressNotShared", message, keeps: false };
                    refused.push((request, fault));
                }
                None => group.push(request),
            }
        }
        groups.push(Group(group));
    }
    (groups, refused)
}

/// Whether the VIP that the Service was last told is its own.
fn owns(request: &Request<'_>) -> bool {
    Record::of(request.service).vip.as_deref() == Some(request.name.as_str())
}

/// Why two Services cannot share an address.
fn clash(first: &Request<'_>, second: &Request<'_>) -> Option<String> {
    let (ports, others) = (ports(first.service), ports(second.service));
    let with = format!("its address cannot be shared with {}:", first.object);
    if let Some((protocol, port)) = ports.intersection(&others).next() {
        return Some(format!(
            "{with} both have port {port}/{protocol}. Give one another port, or another key."
        ));
    }
    let local = first.is_local() || second.is_local();
    if local && !select_the_same(first.service, second.service) {
        return Some(format!(
            "{with} with externalTrafficPolicy Local both must be in one namespace and have the same selector. Use \
             Cluster, or another key."
        ));
    }
    None
}

/// Protocols and ports.
fn ports(service: &Service) -> BTreeSet<(&str, i32)> {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    ports.iter().map(|port| (port.protocol.as_deref().unwrap_or("TCP"), port.port)).collect()
}

fn select_the_same(first: &Service, second: &Service) -> bool {
    let selector = |service: &Service| service.spec.as_ref()?.selector.clone();
    let same = first.metadata.namespace == second.metadata.namespace;
    same && selector(first).is_some() && selector(first) == selector(second)
}
