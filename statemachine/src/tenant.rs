//! Tenants and their segments: the owners of addresses.
//!
//! A tenant can own addresses without being created (Romana 2.0 never created any); creating it gives it labels,
//! which policies select by, and a list of segments.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::net::IpAddr;

use imbl::OrdMap;

use crate::address;
use crate::command::{SegmentRef, SegmentSpec, TenantRef, TenantSpec};
use crate::event::{Event, SegmentCreated, SegmentDeleted, TenantCreated, TenantDeleted};
use crate::labels::{self, Labels};
use crate::name::{SegmentId, TenantId};
use crate::policy::Policy;
use crate::refusal::Refusal;
use crate::state::State;
use crate::version;

/// A tenant that was created.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tenant {
    pub labels: Labels,
    pub segments: OrdMap<SegmentId, Labels>,
}

pub(crate) fn decide_create(state: &State, spec: &TenantSpec) -> Result<Vec<Event>, Refusal> {
    spec.id.check()?;
    labels::check(&spec.labels)?;
    if state.tenant(&spec.id).is_some_and(|tenant| tenant.labels == spec.labels) {
        return Ok(Vec::new());
    }
    let created = TenantCreated { id: spec.id.clone(), labels: spec.labels.clone() };
    Ok(vec![Event::TenantCreated(created)])
}

pub(crate) fn decide_delete(state: &State, tenant: &TenantRef) -> Result<Vec<Event>, Refusal> {
    let id = &tenant.id;
    let Some(found) = state.tenant(id) else {
        return Err(Refusal::TenantNotFound { tenant: id.clone() });
    };
    let left = match found.segments.keys().next() {
        Some(segment) => Some(format!("segment {segment}")),
        None => left_of(state, id, None),
    };
    match left {
        Some(what) => Err(Refusal::TenantInUse { tenant: id.clone(), what }),
        None => Ok(vec![Event::TenantDeleted(TenantDeleted { id: id.clone() })]),
    }
}

pub(crate) fn decide_create_segment(
    state: &State,
    spec: &SegmentSpec,
) -> Result<Vec<Event>, Refusal> {
    spec.id.check()?;
    labels::check(&spec.labels)?;
    let Some(tenant) = state.tenant(&spec.tenant) else {
        return Err(Refusal::TenantNotFound { tenant: spec.tenant.clone() });
    };
    if tenant.segments.get(&spec.id) == Some(&spec.labels) {
        return Ok(Vec::new());
    }
    let SegmentSpec { tenant, id, labels } = spec.clone();
    Ok(vec![Event::SegmentCreated(SegmentCreated { tenant, id, labels })])
}

pub(crate) fn decide_delete_segment(
    state: &State,
    segment: &SegmentRef,
) -> Result<Vec<Event>, Refusal> {
    let SegmentRef { tenant, id } = segment.clone();
    let Some(found) = state.tenant(&tenant) else {
        return Err(Refusal::TenantNotFound { tenant });
    };
    if !found.segments.contains_key(&id) {
        return Err(Refusal::SegmentNotFound { tenant, segment: id });
    }
    match left_of(state, &tenant, Some(&id)) {
        Some(what) => Err(Refusal::SegmentInUse { tenant, segment: id, what }),
        None => Ok(vec![Event::SegmentDeleted(SegmentDeleted { tenant, id })]),
    }
}

/// Something that still belongs to a tenant, or to one segment of it, other than segments.
fn left_of(state: &State, tenant: &TenantId, segment: Option<&SegmentId>) -> Option<String> {
    let is_of = |t: &TenantId, s: &SegmentId| t == tenant && segment.is_none_or(|id| id == s);
    let names = |policy: &&Policy| match segment {
        Some(segment) => policy.names_segment(tenant, segment),
        None => policy.names_tenant(tenant),
    };
    let mut blocks = state.ipam().blocks();
    let block = blocks.find(|block| is_of(&block.owner().tenant, &block.owner().segment));
    let mut endpoints = state.endpoints();
    block
        .map(|block| format!("block {}", block.cidr))
        .or_else(|| {
            let endpoint = endpoints.find(|endpoint| is_of(&endpoint.tenant, &endpoint.segment));
            endpoint.map(|endpoint| format!("endpoint {}", endpoint.ip))
        })
        .or_else(|| state.policies().find(names).map(|policy| format!("policy {}", policy.name)))
}

pub(crate) fn evolve_created(state: &mut State, created: &TenantCreated) {
    let segments = state.tenant(&created.id).map(|t| t.segments.clone()).unwrap_or_default();
    let tenant = Tenant { labels: created.labels.clone(), segments };
    state.tenants.insert(created.id.clone(), Arc::new(tenant));
}

pub(crate) fn evolve_segment(state: &mut State, created: &SegmentCreated) {
    let mut tenant = state.tenant(&created.tenant).cloned().unwrap_or_default();
    tenant.segments.insert(created.id.clone(), created.labels.clone());
    state.tenants.insert(created.tenant.clone(), Arc::new(tenant));
}

pub(crate) fn evolve_segment_deleted(state: &mut State, deleted: &SegmentDeleted) {
    let Some(mut tenant) = state.tenant(&deleted.tenant).cloned() else { return };
    tenant.segments.remove(&deleted.id);
    state.tenants.insert(deleted.tenant.clone(), Arc::new(tenant));
}

/// Refuses addresses that are not routable unicast addresses, for an endpoint or a VIP. Before version 4, fewer of
/// them.
pub(crate) fn check_routable(state: &State, ip: IpAddr) -> Result<(), Refusal> {
    if state.version >= version::ADDRESS_CHECKS {
        return address::check(ip);
    }
    let why = match ip {
        _ if ip.is_unspecified() => "it is the unspecified address",
        _ if ip.is_loopback() => "it is a loopback address",
        _ if ip.is_multicast() => "it is a multicast address",
        IpAddr::V4(v4) if v4.is_broadcast() => "it is the broadcast address",
        IpAddr::V4(v4) if v4.is_link_local() => "it is a link-local address",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => "it is a link-local address",
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => "it is IPv4 written as IPv6",
        _ => return Ok(()),
    };
    Err(Refusal::InvalidAddress { ip, why: why.into() })
}
