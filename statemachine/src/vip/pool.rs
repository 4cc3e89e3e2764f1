//! Pools of addresses for VIPs. Since version 4.
//!
//! A VIP from a pool is one like any other afterwards: which pool its address lies in follows from the address, so that
//! pools can be changed while their addresses are in use. A request that is repeated keeps the address.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::net::IpAddr;

use ipnet::IpNet;

use super::decide_request;
use crate::address;
use crate::command::{IpFamily, SetVipPools, VipFromPool, VipSpec};
use crate::event::{Event, VipPool, VipPoolsSet};
use crate::limits::{VIP_POOL_RANGES_MAX, VIP_POOLS_MAX};
use crate::name::{VipName, VipPoolName};
use crate::prefix;
use crate::refusal::Refusal;
use crate::state::State;

pub(crate) fn decide_pools(state: &State, set: &SetVipPools) -> Result<Vec<Event>, Refusal> {
    check_size("pools", set.pools.len(), VIP_POOLS_MAX)?;
    let mut pools: BTreeMap<VipPoolName, Vec<IpNet>> = BTreeMap::new();
    let mut all: Vec<(&VipPoolName, IpNet)> = Vec::new();
    for pool in &set.pools {
        pool.name.check()?;
        check_size("ranges", pool.ranges.len(), VIP_POOL_RANGES_MAX)?;
        let ranges = pools.entry(pool.name.clone()).or_default();
        for text in &pool.ranges {
            let cidr = prefix::parse(text)?;
            check_range(state, cidr)?;
            if let Some((name, other)) = all.iter().find(|(_, other)| prefix::overlap(*other, cidr))
            {
                return Err(Refusal::VipPoolTaken {
                    cidr,
                    by: format!("VIP pool {name} ({other})"),
                });
            }
            all.push((&pool.name, cidr));
            ranges.push(cidr);
        }
    }
    if pools.iter().eq(state.vip_pools.iter().map(|(name, ranges)| (name, &**ranges))) {
        return Ok(Vec::new());
    }
    let pools = pools.into_iter().map(|(name, ranges)| VipPool { name, ranges }).collect();
    Ok(vec![Event::VipPoolsSet(VipPoolsSet { pools })])
}

fn check_size(field: &str, size: usize, max: usize) -> Result<(), Refusal> {
    if size <= max {
        return Ok(());
    }
    Err(Refusal::TooLarge { field: field.to_string(), size: size as u64, max: max as u64 })
}

/// Refuses a range in which no host can answer, or whose addresses are for endpoints or services.
fn check_range(state: &State, cidr: IpNet) -> Result<(), Refusal> {
    address::check_range(cidr)?;
    let mut networks = state.topology().into_iter().flat_map(|topology| topology.networks());
    let network = networks.find(|network| prefix::overlap(network.cidr, cidr));
    let network = network.map(|network| format!("network {} ({})", network.name, network.cidr));
    let services = || {
        let services = state.service_ranges().find(|range| prefix::overlap(*range, cidr))?;
        Some(format!("services, whose range is {services}"))
    };
    network.or_else(services).map_or(Ok(()), |by| Err(Refusal::VipPoolTaken { cidr, by }))
}

pub(crate) fn decide_from_pool(
    state: &State,
    request: &VipFromPool,
) -> Result<Vec<Event>, Refusal> {
    let VipFromPool { name, pool, family, candidates } = request;
    name.check()?;
    let ip = state.vip_address(name, pool.as_ref(), *family)?;
    let (name, candidates) = (name.clone(), candidates.clone());
    decide_request(state, &VipSpec { name, ip, candidates })
}

pub(crate) fn evolve_pools(state: &mut State, set: &VipPoolsSet) {
    let pools = set.pools.iter();
    state.vip_pools =
        pools.map(|pool| (pool.name.clone(), Arc::new(pool.ranges.clone()))).collect();
}

impl IpFamily {
    fn of(cidr: IpNet) -> Self {
        if cidr.addr().is_ipv4() { Self::Ipv4 } else { Self::Ipv6 }
    }
}

impl State {
    /// The pools of addresses for VIPs, by name, with their ranges.
    pub fn vip_pools(&self) -> impl Iterator<Item = (&VipPoolName, &[IpNet])> {
        self.vip_pools.iter().map(|(name, ranges)| (name, ranges.as_slice()))
    }

    /// A pool that shares addresses with a range, and its range.
    pub(crate) fn vip_pool_in(&self, cidr: IpNet) -> Option<(&VipPoolName, IpNet)> {
        self.vip_pools().find_map(|(name, ranges)| {
            let range = ranges.iter().find(|range| prefix::overlap(**range, cidr))?;
            Some((name, *range))
        })
    }

    /// The address that a VIP gets from a pool: the one that it has, if it lies in the pool, else the lowest that nobody
    /// has, in the first range with one.
    ///
    /// # Errors
    /// [`Refusal::VipPoolNotFound`]: there is no such pool, or none with addresses of this family;
    /// [`Refusal::VipPoolsExhausted`]; [`Refusal::InvalidName`].
    pub fn vip_address(
        &self,
        name: &VipName,
        pool: Option<&VipPoolName>,
        family: Option<IpFamily>,
    ) -> Result<IpAddr, Refusal> {
        if let Some(pool) = pool {
            pool.check()?;
        }
        let pools = self.vip_pools().filter(|(name, _)| pool.is_none_or(|pool| pool == *name));
        let fits = |range: &IpNet| family.is_none_or(|family| family == IpFamily::of(*range));
        let ranges =
            pools.flat_map(|(name, ranges)| ranges.iter().map(move |range| (name, *range)));
        let ranges: Vec<(&VipPoolName, IpNet)> = ranges.filter(|(_, range)| fits(range)).collect();
        if ranges.is_empty() {
            return Err(not_found(pool, family));
        }
        let present = self.vip(name).map(|vip| vip.ip);
        let present = present.filter(|ip| ranges.iter().any(|(_, range)| range.contains(ip)));
        let free = || ranges.iter().find_map(|(_, range)| self.free_for_vip(*range));
        present.or_else(free).ok_or_else(|| {
            let mut pools: Vec<VipPoolName> =
                ranges.iter().map(|(name, _)| (*name).clone()).collect();
            pools.dedup();
            Refusal::VipPoolsExhausted { pools }
        })
    }

    /// The lowest address of a range that nobody has and nobody is given.
    fn free_for_vip(&self, range: IpNet) -> Option<IpAddr> {
        let last = prefix::last_offset(range);
        // They may be those of the subnet and its broadcasts.
        let (mut offset, end) = if last < 3 { (0, last) } else { (1, last - 1) };
        while offset <= end {
            let ip = prefix::nth(range, offset);
            let Some(taken) = self.taken_around(ip) else { return Some(ip) };
            // To the end of what takes it; a range that is taken may be larger than this one.
            let beyond = if range.contains(&taken.broadcast()) {
                prefix::offset(range, taken.broadcast())
            } else {
                end
            };
            offset = beyond.checked_add(1)?;
        }
        None
    }

    /// What takes an address: the network or the service range around it, or the address alone.
    fn taken_around(&self, ip: IpAddr) -> Option<IpNet> {
        let alone = || {
            let taken = self.ipam.reserved.contains(&ip)
                || self.host_addresses.contains_key(&ip)
                || self.endpoint(ip).is_some()
                || self.ipam.by_ip(ip).is_some()
                || address::check(ip).is_err();
            taken.then(|| IpNet::from(ip))
        };
        let network = self.topology().and_then(|topology| topology.network_around(ip.into()));
        network.map(|network| network.cidr).or_else(|| self.ipam.services_of(ip)).or_else(alone)
    }
}

fn not_found(pool: Option<&VipPoolName>, family: Option<IpFamily>) -> Refusal {
    let family = match family {
        None => "addresses",
        Some(IpFamily::Ipv4) => "IPv4 addresses",
        Some(IpFamily::Ipv6) => "IPv6 addresses",
    };
    let name = pool.map(|pool| format!("{pool} ")).unwrap_or_default();
    Refusal::VipPoolNotFound { wanted: format!("{name}with {family}") }
}
