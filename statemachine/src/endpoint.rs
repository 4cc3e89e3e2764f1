//! Endpoints, which are subject to policy, and the properties that policies select by. Since version 4 an endpoint is
//! tied to the allocation of its address: it has the same tenant and host, and is removed with the allocation. So the
//! next user of an address is never matched by the labels of the previous one.
//!
//! Its segment may be another one: a pod that is relabelled keeps its address, and an address that was taken from a
//! host's reserve may be one of another segment's block. Policies go by the endpoint's segment.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use core::net::IpAddr;

use crate::command::{Endpoint, EndpointRef, NamedPort};
use crate::event::{EndpointRemoved, Event};
use crate::host;
use crate::ipam::Allocation;
use crate::labels;
use crate::limits::NAMED_PORTS_MAX;
use crate::policy::{Protocol, check_port_name};
use crate::refusal::Refusal;
use crate::state::State;
use crate::tenant::check_routable;
use crate::version;
use crate::vip;

pub(crate) fn decide_set(state: &State, endpoint: &Endpoint) -> Result<Vec<Event>, Refusal> {
    check_routable(state, endpoint.ip)?;
    endpoint.tenant.check()?;
    endpoint.segment.check()?;
    endpoint.host.check()?;
    labels::check(&endpoint.labels)?;
    check_ports(state, endpoint)?;
    if state.host(&endpoint.host).is_none() {
        return Err(host::not_found(state, &endpoint.host));
    }
    let refuse = |why| Err(Refusal::InvalidEndpoint { ip: endpoint.ip, why });
    if let Some(vip) = vip::at(state, endpoint.ip) {
        return refuse(format!("VIP {} has its address", vip.name));
    }
    if let Some(host) = state.host_at(endpoint.ip) {
        return refuse(format!("host {} has its address", host.name));
    }
    if let Some(range) = state.ipam.services_of(endpoint.ip) {
        return refuse(format!("services have the addresses of {range}"));
    }
    if let Some(address) =
        contradicted(state, endpoint).filter(|_| state.version >= version::ENDPOINTS_TIED)
    {
        let Allocation { name, tenant, segment, host, .. } = address;
        return refuse(format!("{name} of {tenant}/{segment} on {host} has its address"));
    }
    if state.endpoint(endpoint.ip) == Some(endpoint) {
        return Ok(Vec::new());
    }
    Ok(vec![Event::EndpointSet(endpoint.clone())])
}

/// Checks named ports: their count, names, numbers (from 1) and protocols (only those with ports). A name may occur
/// several times: each container of a pod names its own ports, and a policy that refers to the name matches all of
/// them. Before version 4, once per protocol.
fn check_ports(state: &State, endpoint: &Endpoint) -> Result<(), Refusal> {
    let ip = endpoint.ip;
    let refuse = |why| Err(Refusal::InvalidEndpoint { ip, why });
    if endpoint.ports.len() > NAMED_PORTS_MAX {
        return refuse(format!("it has more than {NAMED_PORTS_MAX} named ports"));
    }
    let mut seen = BTreeSet::new();
    for (i, NamedPort { name, protocol, port }) in endpoint.ports.iter().enumerate() {
        if let Err(why) = check_port_name(name) {
            return refuse(format!("ports[{i}].name: {why}"));
        }
        if *port == 0 {
            return refuse(format!("ports[{i}].port is not between 1 and 65535"));
        }
        if !matches!(protocol, Protocol::Tcp | Protocol::Udp | Protocol::Sctp) {
            return refuse(format!("ports[{i}].protocol is not tcp, udp or sctp"));
        }
        if !seen.insert((name, protocol)) && state.version < version::ENDPOINTS_TIED {
            return refuse(format!("ports[{i}].name: {name} is there twice"));
        }
    }
    Ok(())
}

pub(crate) fn decide_remove(state: &State, endpoint: &EndpointRef) -> Result<Vec<Event>, Refusal> {
    let Some(found) = state.endpoint(endpoint.ip) else { return Ok(Vec::new()) };
    Ok(vec![removed(found)])
}

/// The allocation of an endpoint's address, if its tenant or host differs from the endpoint's.
pub(crate) fn contradicted(state: &State, endpoint: &Endpoint) -> Option<Allocation> {
    let address = state.ipam.by_ip(endpoint.ip)?;
    let same = address.tenant == endpoint.tenant && address.host == endpoint.host;
    (!same).then_some(address)
}

/// Removes endpoints that contradict the allocation of their address, when a cluster reaches
/// [`version::ENDPOINTS_TIED`].
pub(crate) fn contradicting(state: &State) -> Vec<Event> {
    let differs = |endpoint: &&Endpoint| contradicted(state, endpoint).is_some();
    state.endpoints().filter(differs).map(removed).collect()
}

/// Removes the endpoint at an address whose allocation ends or begins.
pub(crate) fn outlived(state: &State, ip: IpAddr) -> Option<Event> {
    let endpoint = state.endpoint(ip).filter(|_| state.version >= version::ENDPOINTS_TIED);
    endpoint.map(removed)
}

fn removed(endpoint: &Endpoint) -> Event {
    let (ip, host) = (endpoint.ip, endpoint.host.clone());
    Event::EndpointRemoved(EndpointRemoved { ip, host })
}
