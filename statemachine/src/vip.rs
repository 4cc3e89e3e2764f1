//! Virtual IPs and routers: roles that one host at a time fills for the cluster.
//!
//! A VIP is held under a lease that the holder times by its own clock: it stops answering when the lease expires,
//! even if it is cut off. Hence no other host gets the VIP's address before then.
//!
//! From version 4 on, the log says which host has a VIP, since when and why ([`placement`]); renewing is soft state of
//! the leader ([`crate::lease`]), and the leader decides where a VIP goes ([`plan`]). An address may come from a [`pool`].
//! Until version 3 the leases were
//! in the log, in log time (`State::vip_fences`); no release served VIPs then.

mod placement;
mod plan;
mod pool;

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::address::User;
use crate::command::{
    AssignRouter, AssignVip, HostState, UnassignRouter, UnassignVip, VipRef, VipSpec,
};
use crate::entry::Millis;
use crate::event::{
    Event, RouterAssigned, RouterUnassigned, VipAssigned, VipReason, VipRemoved, VipUnassigned,
};
use crate::host;
use crate::limits::VIP_CANDIDATES_MAX;
use crate::name::{HostName, TableId, VipName};
use crate::refusal::Refusal;
use crate::state::{Now, State};
use crate::tenant::check_routable;
use crate::version::VIP_PLACEMENT;
pub use placement::VipPlacement;
pub(crate) use placement::{decide_place, evolve_placed, forget_leases, forget_placements, leased};
pub use plan::{Renewing, VipMove};
pub(crate) use pool::{decide_from_pool, decide_pools, evolve_pools};

/// A requested VIP and its holder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Vip {
    pub name: VipName,
    pub ip: IpAddr,
    /// Hosts that may hold it; empty: any host that is up.
    pub candidates: Vec<HostName>,
    /// The host that holds it, if any. Until version 3.
    pub holder: Option<VipHolder>,
    /// The host that has it, if any. Since version 4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<VipPlacement>,
}

/// The host that holds a VIP, and the end of its lease in log time. Until version 3.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VipHolder {
    pub host: HostName,
    /// When its lease expires, unless renewed.
    pub until: Millis,
}

/// The prefix and route table of a router assignment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RouterKey {
    /// The prefix that is routed.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Cidr"))]
    pub prefix: IpNet,
    /// The route table or zone of the route.
    pub table: TableId,
}

impl Vip {
    /// Whether the request allows a host to hold the VIP.
    #[must_use]
    pub fn is_candidate(&self, host: &HostName) -> bool {
        self.candidates.is_empty() || self.candidates.contains(host)
    }

    /// The host that has it, if any.
    #[must_use]
    pub fn holder(&self) -> Option<&HostName> {
        let placed = self.placement.as_ref().map(|placement| &placement.host);
        placed.or_else(|| self.holder.as_ref().map(|holder| &holder.host))
    }

    /// The event that takes it from its host, if it has one.
    fn unassigned(&self, reason: VipReason) -> Option<Event> {
        if let Some(placement) = &self.placement {
            return Some(self.placed(None, reason, placement.grant_ms));
        }
        self.holder.as_ref().map(|holder| {
            let (name, host) = (self.name.clone(), holder.host.clone());
            Event::VipUnassigned(VipUnassigned { name, ip: self.ip, host })
        })
    }
}

pub(crate) fn decide_request(state: &State, spec: &VipSpec) -> Result<Vec<Event>, Refusal> {
    spec.name.check()?;
    check_routable(state, spec.ip)?;
    if spec.candidates.len() > VIP_CANDIDATES_MAX {
        let (size, max) = (spec.candidates.len() as u64, VIP_CANDIDATES_MAX as u64);
        return Err(Refusal::TooLarge { field: "candidates".into(), size, max });
    }
    let mut seen = BTreeSet::new();
    let mut candidates = Vec::new();
    for host in &spec.candidates {
        host.check()?;
        if seen.insert(host) {
            candidates.push(host.clone());
        }
    }
    if let Some(by) = user_of(state, spec) {
        return Err(Refusal::VipAddressInUse { ip: spec.ip, by });
    }
    let (name, ip) = (spec.name.clone(), spec.ip);
    let wanted = Event::VipRequested(VipSpec { name, ip, candidates: candidates.clone() });
    let Some(vip) = state.vip(&spec.name) else { return Ok(vec![wanted]) };
    if vip.ip == ip {
        return Ok(if vip.candidates == candidates { Vec::new() } else { vec![wanted] });
    }
    let unassigned = vip.unassigned(VipReason::AddressChanged);
    Ok(unassigned.into_iter().chain([wanted]).collect())
}

/// The VIP that has an address.
pub(crate) fn at(state: &State, ip: IpAddr) -> Option<&Vip> {
    if !state.ipam.reserved.contains(&ip) {
        return None;
    }
    state.vips().find(|vip| vip.ip == ip)
}

/// What else uses the address that a VIP requests.
fn user_of(state: &State, spec: &VipSpec) -> Option<String> {
    at(state, spec.ip)
        .filter(|vip| vip.name != spec.name)
        .map(|vip| format!("VIP {}", vip.name))
        .or_else(|| state.host_at(spec.ip).map(|host| format!("host {}", host.name)))
        .or_else(|| {
            let endpoint = state.endpoint(spec.ip)?;
            Some(format!("an endpoint of {}/{}", endpoint.tenant, endpoint.segment))
        })
        .or_else(|| state.ipam().by_ip(spec.ip).map(|found| format!("address {}", found.name)))
        .or_else(|| {
            state.ipam().services_of(spec.ip).map(|range| User::Services(range).to_string())
        })
}

pub(crate) fn decide_assign(
    state: &State,
    assign: &AssignVip,
    now: Now,
) -> Result<Vec<Event>, Refusal> {
    placement::check_replaced(state, "AssignVip")?;
    let vip = find(state, &assign.name)?;
    let Some(host) = state.host(&assign.host) else {
        return Err(host::not_found(state, &assign.host));
    };
    let holds = vip.holder.as_ref().is_some_and(|holder| holder.host == assign.host);
    let refuse = |why: &str| {
        let (vip, host) = (assign.name.clone(), assign.host.clone());
        Err(Refusal::HostNotCandidate { vip, host, why: why.into() })
    };
    if !vip.is_candidate(&assign.host) {
        return refuse("it is not one of its candidates");
    }
    match host.state {
        HostState::Up => {}
        // The holder keeps the VIP until another host can take over.
        HostState::Draining if holds => {}
        HostState::Draining => return refuse("it is draining"),
        HostState::Down => return refuse("it is down"),
    }
    let leases = [vip.holder.as_ref(), state.vip_fences.get(&vip.ip)];
    for lease in leases.into_iter().flatten() {
        if lease.host != assign.host && lease.until > now.at {
            let (vip, host, until) = (assign.name.clone(), lease.host.clone(), lease.until);
            return Err(Refusal::VipLeaseHeld { vip, host, until });
        }
    }
    let (name, host) = (assign.name.clone(), assign.host.clone());
    let lease_ms = state.settings().vip_lease_ms;
    Ok(vec![Event::VipAssigned(VipAssigned { name, ip: vip.ip, host, lease_ms })])
}

pub(crate) fn decide_unassign(
    state: &State,
    unassign: &UnassignVip,
) -> Result<Vec<Event>, Refusal> {
    placement::check_replaced(state, "UnassignVip")?;
    let vip = find(state, &unassign.name)?;
    // No reason: until version 3 the event has none.
    Ok(vip.unassigned(VipReason::VipRemoved).into_iter().collect())
}

pub(crate) fn decide_remove(state: &State, vip: &VipRef) -> Result<Vec<Event>, Refusal> {
    let found = find(state, &vip.name)?;
    let removed = Event::VipRemoved(VipRemoved { name: vip.name.clone() });
    Ok(found.unassigned(VipReason::VipRemoved).into_iter().chain([removed]).collect())
}

fn find<'a>(state: &'a State, name: &VipName) -> Result<&'a Vip, Refusal> {
    state.vip(name).ok_or_else(|| Refusal::VipNotFound { vip: name.clone() })
}

/// Takes all VIPs from a host.
pub(crate) fn release(
    state: &State,
    host: &HostName,
    reason: VipReason,
) -> impl Iterator<Item = Event> {
    let held = state.vips().filter(move |vip| vip.holder() == Some(host));
    held.filter_map(move |vip| vip.unassigned(reason))
}

/// Unassigns every VIP and router role of a host that is being removed.
pub(crate) fn release_host(state: &State, host: &HostName) -> Vec<Event> {
    let vips = release(state, host, VipReason::HostRemoved);
    let routers = state.routers().filter(|(_, router)| *router == host);
    vips.chain(routers.map(|(key, host)| router_gone(key, host))).collect()
}

pub(crate) fn decide_assign_router(
    state: &State,
    assign: &AssignRouter,
) -> Result<Vec<Event>, Refusal> {
    assign.table.check()?;
    let AssignRouter { prefix, table, host, .. } = assign.clone();
    let network = prefix.trunc();
    if prefix != network {
        return Err(Refusal::HostBitsSet { cidr: prefix, network });
    }
    if state.host(&host).is_none() {
        return Err(host::not_found(state, &host));
    }
    let key = RouterKey { prefix, table };
    if state.routers.get(&key) == Some(&host) {
        return Ok(Vec::new());
    }
    Ok(vec![Event::RouterAssigned(RouterAssigned { prefix, table: key.table, host })])
}

pub(crate) fn decide_unassign_router(
    state: &State,
    unassign: &UnassignRouter,
) -> Result<Vec<Event>, Refusal> {
    let key = RouterKey { prefix: unassign.prefix, table: unassign.table.clone() };
    match state.routers.get(&key) {
        Some(host) => Ok(vec![router_gone(&key, host)]),
        None => Err(Refusal::RouterNotFound { prefix: key.prefix, table: key.table }),
    }
}

fn router_gone(key: &RouterKey, host: &HostName) -> Event {
    let (table, host) = (key.table.clone(), host.clone());
    Event::RouterUnassigned(RouterUnassigned { prefix: key.prefix, table, host })
}

pub(crate) fn evolve_requested(state: &mut State, spec: &VipSpec) {
    let VipSpec { name, ip, candidates } = spec.clone();
    let old = state.vip(&name).cloned();
    if let Some(old) = &old {
        state.ipam.reserved.remove(&old.ip);
    }
    state.ipam.reserved.insert(ip);
    if state.version >= VIP_PLACEMENT && old.as_ref().is_none_or(|old| old.ip != ip) {
        placement::vacate(state, &name);
    }
    let (holder, placement) = old.map(|old| (old.holder, old.placement)).unwrap_or_default();
    let vip = Vip { name: name.clone(), ip, candidates, holder, placement };
    state.vips.insert(name, Arc::new(vip));
}

pub(crate) fn evolve_removed(state: &mut State, name: &VipName) {
    if let Some(vip) = state.vips.remove(name) {
        state.ipam.reserved.remove(&vip.ip);
        state.vips_vacant.remove(name);
    }
}

pub(crate) fn evolve_assigned(state: &mut State, assigned: &VipAssigned) {
    state.vip_fences.remove(&assigned.ip);
    let Some(mut vip) = state.vip(&assigned.name).cloned() else { return };
    let until = state.at().plus(assigned.lease_ms);
    vip.holder = Some(VipHolder { host: assigned.host.clone(), until });
    state.vips.insert(assigned.name.clone(), Arc::new(vip));
}

pub(crate) fn evolve_unassigned(state: &mut State, name: &VipName) {
    let now = state.at();
    let over = state.vip_fences.iter().filter(|(_, fence)| fence.until <= now);
    for ip in over.map(|(ip, _)| *ip).collect::<Vec<_>>() {
        state.vip_fences.remove(&ip);
    }
    let Some(mut vip) = state.vip(name).cloned() else { return };
    let fenced = |holder: &VipHolder| holder.until > now && state.version < VIP_PLACEMENT;
    if let Some(holder) = vip.holder.take().filter(fenced) {
        state.vip_fences.insert(vip.ip, holder);
    }
    state.vips.insert(name.clone(), Arc::new(vip));
}

pub(crate) fn evolve_router(state: &mut State, assigned: &RouterAssigned) {
    let RouterAssigned { prefix, table, host } = assigned.clone();
    state.routers.insert(RouterKey { prefix, table }, host);
}

pub(crate) fn evolve_router_gone(state: &mut State, gone: &RouterUnassigned) {
    let RouterUnassigned { prefix, table, .. } = gone.clone();
    state.routers.remove(&RouterKey { prefix, table });
}
