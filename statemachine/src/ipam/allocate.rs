//! Decides allocations.

use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::net::IpAddr;

use ipnet::IpNet;

use super::block::{Block, Owner, OwnerNames, Pool};
use super::{Allocation, Ipam};
use crate::address;
use crate::command::AllocateAddress;
use crate::endpoint;
use crate::entry::Millis;
use crate::event::{AddressAllocated, BlockAssigned, Event};
use crate::hold;
use crate::host;
use crate::prefix;
use crate::ranges::FreeSet;
use crate::refusal::Refusal;
use crate::state::{Now, State};
use crate::topology::Network;
use crate::version;
use crate::vip;

/// A network that may serve the request, and the host's leaf group in it.
struct Candidate<'a> {
    network: &'a Network,
    group: IpNet,
    owner: OwnerNames<'a>,
}

/// Where an address was found.
enum Found {
    InOwnBlock(IpAddr, IpNet),
    InNewBlock(IpAddr, IpNet),
}

pub(crate) fn decide_allocate(
    state: &State,
    ask: &AllocateAddress,
    now: Now,
) -> Result<Vec<Event>, Refusal> {
    check_names(ask)?;
    if let Some(existing) = existing(state, ask) {
        return existing;
    }
    check_fresh_name(state, ask)?;
    hold::check(state, ask)?;
    let first = find(state, ask, now.at, None);
    let Err(Refusal::NetworkExhausted { .. } | Refusal::AddressCoolingDown { .. }) = first else {
        return first;
    };
    // Expired cool-downs that no leader task has ended yet must not prevent an allocation.
    let mut events = super::end_cooldowns(state, now.at);
    if events.is_empty() {
        return first;
    }
    let mut later = state.clone();
    later.at = now.at;
    for event in &events {
        later.revision = later.revision.next();
        later.evolve(event);
    }
    events.extend(find(&later, ask, now.at, None)?);
    Ok(events)
}

/// From version 4 on, the name of an address must not spell another address: lookups accept either.
fn check_fresh_name(state: &State, ask: &AllocateAddress) -> Result<(), Refusal> {
    let reads_as: Option<IpAddr> = ask.name.as_str().parse().ok();
    match reads_as.filter(|ip| state.version >= version::ADDRESS_CHECKS && ask.ip != Some(*ip)) {
        None => Ok(()),
        Some(_) => Err(Refusal::NameReadsAsAddress { name: ask.name.to_string() }),
    }
}

fn check_names(ask: &AllocateAddress) -> Result<(), Refusal> {
    ask.name.check()?;
    ask.host.check()?;
    ask.tenant.check()?;
    ask.segment.check()
}

/// The result if the name already has an address.
fn existing(state: &State, ask: &AllocateAddress) -> Option<Result<Vec<Event>, Refusal>> {
    let existing = state.ipam.by_name(&ask.name)?;
    let same = existing.host == ask.host
        && existing.tenant == ask.tenant
        && existing.segment == ask.segment
        && ask.ip.is_none_or(|ip| ip == existing.ip)
        && ask.network.as_ref().is_none_or(|network| *network == existing.network);
    let Allocation { name, ip, host, tenant, segment, .. } = existing;
    let in_use = Refusal::AddressNameInUse { name, ip, host, tenant, segment };
    Some(if same { Ok(Vec::new()) } else { Err(in_use) })
}

/// Allocates exactly the requested address. It may be cooling down if it was released until then: the requester
/// already uses it.
pub(super) fn decide_exactly(
    state: &State,
    ask: &AllocateAddress,
    now: Now,
    released_until: Millis,
) -> Result<Vec<Event>, Refusal> {
    check_names(ask)?;
    match existing(state, ask) {
        Some(existing) => existing,
        None => find(state, ask, now.at, Some(released_until)),
    }
}

/// Finds an address in the current state; an address released until a given time qualifies although it is cooling
/// down.
fn find(
    state: &State,
    ask: &AllocateAddress,
    at: Millis,
    released_until: Option<Millis>,
) -> Result<Vec<Event>, Refusal> {
    let candidates = candidates(state, ask)?;
    let found = match ask.ip {
        Some(ip) => Some(find_exact(state, ask, &candidates, ip, released_until)?),
        None => candidates.iter().find_map(|c| find_any(&state.ipam, c, at).map(|f| (f, c))),
    };
    match found {
        Some((found, candidate)) => Ok(events(state, ask, found, candidate)),
        None => Err(exhausted(&state.ipam, ask, &candidates)),
    }
}

/// Networks that name the tenant, then the unrestricted ones, in definition order; only those where the host has a
/// place.
fn candidates<'a>(
    state: &'a State,
    ask: &'a AllocateAddress,
) -> Result<Vec<Candidate<'a>>, Refusal> {
    let host = state.host(&ask.host);
    let host = host.ok_or_else(|| host::not_found(state, &ask.host))?;
    let topology = state.topology().ok_or(Refusal::NoTopology)?;
    let networks = topology.networks();
    let named = networks.iter().filter(|network| network.tenants.contains(&ask.tenant));
    let open = networks.iter().filter(|network| network.tenants.is_empty());
    let candidates: Vec<_> = named
        .chain(open)
        .filter(|network| ask.network.as_ref().is_none_or(|name| *name == network.name))
        .filter_map(|network| {
            let group = host.place(&network.name)?;
            let owner = OwnerNames::new(&ask.host, &network.name, &ask.tenant, &ask.segment);
            Some(Candidate { network, group, owner })
        })
        .collect();
    if !candidates.is_empty() {
        return Ok(candidates);
    }
    let (tenant, host) = (ask.tenant.clone(), ask.host.clone());
    Err(match &ask.network {
        None => Refusal::NoNetworkForTenant { tenant, host },
        Some(network) if topology.network(network).is_none() => {
            Refusal::NetworkNotFound { network: network.clone() }
        }
        Some(network) => Refusal::NetworkNotForTenant { network: network.clone(), tenant, host },
    })
}

fn find_any(ipam: &Ipam, candidate: &Candidate<'_>, at: Millis) -> Option<Found> {
    in_own_block(ipam, &candidate.owner).or_else(|| in_new_block(ipam, candidate, at))
}

/// The lowest free address in the owner's blocks, in order.
fn in_own_block(ipam: &Ipam, owner: &OwnerNames<'_>) -> Option<Found> {
    ipam.open.of(owner).find_map(|cidr| {
        let ip = ipam.first_free(cidr, &ipam.block(cidr)?.free)?;
        Some(Found::InOwnBlock(ip, cidr))
    })
}

/// The first address of an unassigned block: a returned one, oldest first; otherwise one never used, lowest first.
fn in_new_block(ipam: &Ipam, candidate: &Candidate<'_>, at: Millis) -> Option<Found> {
    let pool = ipam.pools.get(&candidate.group)?;
    let skip = candidate.network.skip_first_last;
    let first_of = |cidr| Some((ipam.first_free(cidr, &ipam.fresh_free(cidr, skip))?, cidr));
    let returned = pool.returned.iter().take_while(|((reusable_at, _), _)| *reusable_at <= at);
    let (ip, cidr) = returned
        .map(|(_, cidr)| *cidr)
        .find_map(first_of)
        .or_else(|| untouched(ipam, pool, candidate.group).find_map(first_of))?;
    Some(Found::InNewBlock(ip, cidr))
}

/// Blocks of a group that were never used, lowest first, without those that are entirely closed.
fn untouched<'a>(ipam: &'a Ipam, pool: &'a Pool, group: IpNet) -> impl Iterator<Item = IpNet> + 'a {
    let mut from = Some(0);
    core::iter::from_fn(move || {
        loop {
            let position = pool.untouched.first_from(from?)?;
            let cidr = prefix::subnet(group, pool.block_mask, position);
            let closed = ipam.closed_around(cidr.network()).filter(|c| c.contains(&cidr));
            let last = closed.map_or(position, |closed| {
                let end = closed.broadcast().min(group.broadcast());
                prefix::position(group, pool.block_mask, end)
            });
            from = last.checked_add(1);
            if closed.is_none() {
                return Some(cidr);
            }
        }
    })
}

impl Ipam {
    /// The lowest free address of a block outside blackouts, VIPs, hosts and service ranges.
    fn first_free(&self, cidr: IpNet, free: &FreeSet) -> Option<IpAddr> {
        let mut from = 0;
        loop {
            let ip = prefix::nth(cidr, free.first_from(from)?);
            let Some(closed) = self.closed_around(ip) else { return Some(ip) };
            let last = closed.broadcast();
            if last >= cidr.broadcast() {
                return None;
            }
            from = prefix::offset(cidr, last) + 1;
        }
    }
}

/// Exactly the requested address.
fn find_exact<'a, 'b>(
    state: &State,
    ask: &AllocateAddress,
    candidates: &'b [Candidate<'a>],
    ip: IpAddr,
    released_until: Option<Millis>,
) -> Result<(Found, &'b Candidate<'a>), Refusal> {
    let ipam = &state.ipam;
    let groups = || candidates.iter().map(|candidate| candidate.group).collect();
    let outside = || Refusal::AddressOutsideGroup { ip, host: ask.host.clone(), groups: groups() };
    let candidate = candidates.iter().find(|c| c.group.contains(&ip)).ok_or_else(outside)?;
    if let Some(holder) = ipam.by_ip(ip) {
        return Err(Refusal::AddressInUse { ip, name: holder.name });
    }
    if let Some(vip) = vip::at(state, ip) {
        return Err(Refusal::VipAddressInUse { ip, by: format!("VIP {}", vip.name) });
    }
    if state.version >= version::ADDRESS_CHECKS {
        address::check_endpoint(state, ip)?;
    }
    if let Some(cidr) = ipam.blackout_of(ip) {
        return Err(Refusal::AddressBlackedOut { ip, cidr });
    }
    let cidr = prefix::enclosing(ip, candidate.network.block_mask);
    let skip = candidate.network.skip_first_last;
    if Block::skips(cidr, skip, prefix::offset(cidr, ip)) {
        return Err(Refusal::AddressSkipped { ip, block: cidr });
    }
    let cooling = ipam.cooling.get(&ip).copied();
    if let Some(released_at) = cooling.filter(|at| released_until.is_none_or(|until| *at > until)) {
        let reuse_delay_ms = state.settings.address_reuse_delay_ms;
        return Err(Refusal::AddressCoolingDown { ip, released_at, reuse_delay_ms });
    }
    match ipam.block(cidr) {
        Some(block) if candidate.owner.are(&block.owner) => {
            Ok((Found::InOwnBlock(ip, cidr), candidate))
        }
        Some(block) => {
            let Owner { host, tenant, segment, .. } = block.owner().clone();
            Err(Refusal::BlockInUse { block: cidr, host, tenant, segment })
        }
        None => Ok((Found::InNewBlock(ip, cidr), candidate)),
    }
}

fn events(
    state: &State,
    ask: &AllocateAddress,
    found: Found,
    candidate: &Candidate<'_>,
) -> Vec<Event> {
    let (ip, block, new) = match found {
        Found::InOwnBlock(ip, block) => (ip, block, false),
        Found::InNewBlock(ip, block) => (ip, block, true),
    };
    let assigned = || {
        Event::BlockAssigned(BlockAssigned {
            cidr: block,
            network: candidate.network.name.clone(),
            group: candidate.group,
            host: ask.host.clone(),
            tenant: ask.tenant.clone(),
            segment: ask.segment.clone(),
        })
    };
    let allocated = Event::AddressAllocated(AddressAllocated {
        name: ask.name.clone(),
        ip,
        block,
        host: ask.host.clone(),
        tenant: ask.tenant.clone(),
        segment: ask.segment.clone(),
    });
    let assigned = new.then(assigned);
    assigned.into_iter().chain(endpoint::outlived(state, ip)).chain([allocated]).collect()
}

fn exhausted(ipam: &Ipam, ask: &AllocateAddress, candidates: &[Candidate<'_>]) -> Refusal {
    let groups: Vec<_> = candidates.iter().map(|candidate| candidate.group).collect();
    let cooling = groups.iter().map(|group| ipam.cooling_in(*group)).sum();
    Refusal::NetworkExhausted { host: ask.host.clone(), groups, cooling }
}
