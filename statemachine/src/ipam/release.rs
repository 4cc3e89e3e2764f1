//! Decides releases: requested ones, leaks, evictions, the end of cool-downs.

use alloc::collections::BTreeSet;

use alloc::vec::Vec;

use super::{Allocation, Ipam};
use crate::command::ReleaseAddress;
use crate::endpoint;
use crate::entry::{Millis, Revision};
use crate::event::{AddressReleased, BlockReleased, CooldownsEnded, Event, ReleaseReason};
use crate::host;
use crate::limits::BLOCKS_RETURNED_MAX;
use crate::name::{AddressName, HostName};
use crate::refusal::Refusal;
use crate::state::{Now, State};
use crate::version;

/// Idempotent: releasing an unallocated address has no effect.
pub(crate) fn decide_release(
    state: &State,
    ask: &ReleaseAddress,
    now: Now,
) -> Result<Vec<Event>, Refusal> {
    // An IPv6 address may start with a colon, which no name does.
    if ask.address.as_str().parse::<core::net::IpAddr>().is_err() {
        ask.address.check()?;
    }
    if state.version >= version::ADDRESS_CHECKS {
        state.ipam.check_unambiguous(&ask.address)?;
    }
    let Some(allocation) = state.ipam.by_name_or_ip(&ask.address) else {
        return Ok(Vec::new());
    };
    Ok(release(state, [allocation], ReleaseReason::Requested, now))
}

/// Releases addresses that a host had at a revision but no longer uses.
pub(crate) fn decide_leaked(
    state: &State,
    host: &HostName,
    revision: Revision,
    running: &BTreeSet<&AddressName>,
    now: Now,
) -> Result<Vec<Event>, Refusal> {
    host.check()?;
    if state.host(host).is_none() {
        return Err(host::not_found(state, host));
    }
    if revision > state.revision() {
        return Err(Refusal::ReportAhead { revision, current: state.revision() });
    }
    let live = state.ipam.host_addresses(host);
    let leaked = live.filter(|live| live.revision <= revision && !running.contains(&live.name));
    Ok(release(state, leaked, ReleaseReason::Reported(revision), now))
}

/// Releases everything on a host. Its blocks may be assigned again after the cool-down of their addresses.
pub(crate) fn evict(state: &State, host: &HostName, now: Now) -> Vec<Event> {
    let delay = state.settings.address_reuse_delay_ms;
    let live = state.ipam.host_addresses(host);
    // Endpoints of the host were removed already; endpoints that name another host are removed with their address.
    let elsewhere = |ip| {
        endpoint::outlived(state, ip)
            .filter(|_| state.endpoint(ip).is_some_and(|e| e.host != *host))
    };
    let mut events: Vec<_> = live
        .flat_map(|live| [elsewhere(live.ip), Some(released(live, ReleaseReason::Evicted))])
        .flatten()
        .collect();
    let blocks = state.ipam.host_blocks(host).filter_map(|cidr| state.ipam.block(cidr));
    events.extend(blocks.map(|block| {
        let emptied = block.empty_since.unwrap_or(now.at);
        let reusable_at = emptied.plus(delay).max(now.at);
        let (cidr, host) = (block.cidr, host.clone());
        Event::BlockReleased(BlockReleased { cidr, host, reusable_at })
    }));
    events
}

/// Frees addresses whose cool-down has expired, and blocks that have been empty for as long.
pub(crate) fn end_cooldowns(state: &State, at: Millis) -> Vec<Event> {
    let Some(limit) = limit(state, at) else { return Vec::new() };
    let ipam = &state.ipam;
    let mut events = Vec::new();
    if ipam.cooling_queue.get_min().is_some_and(|(released_at, _)| *released_at <= limit) {
        events.push(Event::CooldownsEnded(CooldownsEnded { released_until: limit }));
    }
    let empty = ipam.empty.iter().take_while(|(since, _)| *since <= limit);
    let blocks = empty.filter_map(|(_, cidr)| ipam.block(*cidr)).take(BLOCKS_RETURNED_MAX);
    events.extend(blocks.map(|block| {
        let (cidr, host) = (block.cidr, block.owner().host.clone());
        Event::BlockReleased(BlockReleased { cidr, host, reusable_at: at })
    }));
    events
}

/// Addresses released at or before the returned time have cooled down.
pub(super) fn limit(state: &State, at: Millis) -> Option<Millis> {
    at.0.checked_sub(state.settings.address_reuse_delay_ms).map(Millis)
}

/// Releases addresses; without a reuse delay, also the blocks that this empties.
fn release(
    state: &State,
    allocations: impl IntoIterator<Item = Allocation>,
    reason: ReleaseReason,
    now: Now,
) -> Vec<Event> {
    let at_once = state.settings.address_reuse_delay_ms == 0;
    let allocations = allocations.into_iter();
    let mut events = Vec::with_capacity(allocations.size_hint().0);
    let mut left: Option<(ipnet::IpNet, u64)> = None;
    for allocation in allocations {
        let (cidr, host) = (allocation.block, allocation.host.clone());
        events.extend(endpoint::outlived(state, allocation.ip));
        events.push(released(allocation, reason));
        // Allocations come in order of address: those of one block follow each other.
        let before = match left {
            Some((block, live)) if block == cidr => live,
            _ => state.ipam.block(cidr).map_or(0, |block| block.live),
        };
        left = Some((cidr, before.saturating_sub(1)));
        if at_once && before == 1 {
            let event = BlockReleased { cidr, host, reusable_at: now.at };
            events.push(Event::BlockReleased(event));
        }
    }
    events
}

fn released(allocation: Allocation, reason: ReleaseReason) -> Event {
    let Allocation { name, ip, block, host, tenant, segment, .. } = allocation;
    Event::AddressReleased(AddressReleased { name, ip, block, host, tenant, segment, reason })
}

impl Ipam {
    /// Live addresses of a host, in order.
    pub fn host_addresses(&self, host: &HostName) -> impl Iterator<Item = Allocation> {
        let blocks: Vec<_> = self.host_blocks(host).collect();
        blocks.into_iter().flat_map(|cidr| self.addresses_in(cidr).collect::<Vec<_>>())
    }
}
