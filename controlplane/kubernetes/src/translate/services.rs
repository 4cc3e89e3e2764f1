//! Services that ask for a VIP → VIPs. Candidates are the nodes with a ready endpoint of the Service, so that a VIP
//! moves before the last ready endpoint of its node ends.

use k8s_openapi::api::core::v1::Service;
use romana_statemachine::command::{Imported, IpFamily, ObjectKey, VipFromPool, VipSpec};
use romana_statemachine::limits::VIP_CANDIDATES_MAX;
use romana_statemachine::name::{HostName, VipName, VipPoolName};

use super::backends::{Backends, Slices, slices};
use super::requests::{Address, Fault, Request};
use super::sharing::{Group, groups};
use crate::desired::{Desired, Translation, Wanted};
use crate::objects::{ObjectName, Objects};
use crate::problem::ObjectRef;
use crate::shown::{Shown, ShownVip};

/// The label of nodes that are not to have load balancers.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

pub(super) fn translate(objects: &Objects, out: &mut Translation) {
    let slices = slices(objects);
    let mut requests = Vec::new();
    for service in objects.services.values() {
        match Request::of(service) {
            Ok(request) => requests.extend(request),
            Err(fault) => refuse(service, fault, out),
        }
    }
    let (groups, refused) = groups(requests);
    for group in groups {
        want(objects, &slices, &group, out);
    }
    for (request, fault) in refused {
        refuse(request.service, fault, out);
    }
}

/// The VIP of a group.
fn want(objects: &Objects, slices: &Slices<'_>, group: &Group<'_>, out: &mut Translation) {
    let Group(requests) = group;
    let [owner, ..] = &requests[..] else { return };
    let vips =
        candidates(objects, slices, requests).and_then(|candidates| wanted(owner, &candidates));
    match vips {
        Ok(vips) => {
            requests.iter().for_each(|request| show(request.service, owner.service, out));
            for vip in vips {
                out.want(Desired::of(owner.service, vip));
            }
        }
        Err(Fault { reason, message, keeps }) => {
            for request in requests {
                let message = message.clone();
                refuse(request.service, Fault { reason, message, keeps }, out);
                if keeps {
                    show(request.service, owner.service, out);
                }
            }
        }
    }
}

/// A Service that gets no VIP, or keeps the one that it has.
fn refuse(service: &Service, fault: Fault, out: &mut Translation) {
    let Fault { reason, message, keeps } = fault;
    out.problem(&ObjectRef::of(service), reason, message);
    if keeps {
        show(service, service, out);
        out.kept.extend(ShownVip::of(service).all().map(|vip| ObjectKey::Vip(vip.name)));
    }
}

/// The API server shows the VIP of `owner` at a Service, if the log has it.
fn show(service: &Service, owner: &Service, out: &mut Translation) {
    out.shown.insert(ObjectName::of(&service.metadata), ShownVip::of(owner));
}

/// The VIPs that a Service asks for, one for each address.
fn wanted(request: &Request<'_>, candidates: &[HostName]) -> Result<Vec<Wanted>, Fault> {
    let names = ShownVip::of(request.service).all().map(|vip| vip.name);
    let all = request.addresses.iter().zip(names);
    all.map(|(address, name)| wanted_one(address, name, candidates.to_vec())).collect()
}

fn wanted_one(
    address: &Address,
    name: VipName,
    candidates: Vec<HostName>,
) -> Result<Wanted, Fault> {
    match address {
        Address::Given(ip) => Ok(Imported::Vip(VipSpec { name, ip: *ip, candidates }).into()),
        Address::Auto { pool, family } => {
            let pool = pool.as_deref().map(VipPoolName::from);
            let family = family.as_deref().map(ip_family).transpose()?;
            Ok(Wanted::VipFromPool(VipFromPool { name, pool, family, candidates }))
        }
    }
}

fn ip_family(text: &str) -> Result<IpFamily, Fault> {
    match text {
        "IPv4" => Ok(IpFamily::Ipv4),
        "IPv6" => Ok(IpFamily::Ipv6),
        other => {
            let message = format!(
                "spec.ipFamilies has \"{}\", which is neither IPv4 nor IPv6.",
                other.escape_default()
            );
            Err(Fault { reason: "InvalidFamily", message, keeps: true })
        }
    }
}

/// Whether a node is not to have load balancers.
fn is_excluded(objects: &Objects, node: &HostName) -> bool {
    let name = ObjectName { namespace: String::new(), name: node.to_string() };
    let labels = objects.nodes.get(&name).and_then(|node| node.metadata.labels.as_ref());
    labels.is_some_and(|labels| labels.contains_key(EXCLUDED))
}

/// The nodes that may have a VIP. There is at least one: a VIP without candidates could be on any host, also on one
/// where no kube-proxy runs.
fn candidates(
    objects: &Objects,
    slices: &Slices<'_>,
    requests: &[Request<'_>],
) -> Result<Vec<HostName>, Fault> {
    let mut backends = Backends::default();
    requests.iter().for_each(|request| backends.add(objects, request.service, slices));
    let balances = requests.iter().any(|request| request.shown == Shown::LoadBalancer);
    let usable = |node: &HostName| !balances || !is_excluded(objects, node);
    let mut nodes = backends.nodes(objects);
    nodes.retain(usable);
    if nodes.is_empty() && requests.iter().all(Request::is_anywhere) {
        nodes = objects.nodes.keys().map(|node| HostName::from(node.name.as_str())).collect();
        nodes.retain(usable);
        nodes.truncate(VIP_CANDIDATES_MAX);
    }
    if nodes.is_empty() {
        let keeps = requests.iter().any(Request::keeps);
        let message = match keeps {
            true => {
                "no node has a ready endpoint of this Service: its VIP, if it has one, stays where it is."
            }
            false => "no node has a ready endpoint of this Service, so no node has its VIP.",
        };
        return Err(Fault { reason: "NoReadyEndpoint", message: message.into(), keeps });
    }
    Ok(nodes)
}
