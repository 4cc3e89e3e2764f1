//! IPAM: the allocation of addresses.
//!
//! A block of the network's `block_mask` belongs to (network, leaf group, host, tenant, segment). An allocation goes
//! through the networks in order and takes the first of: the lowest free address of the host's blocks of that owner,
//! in order; a block returned to the host's group, oldest first; a block never used, lowest first. A released address
//! cools down before it is free again; an empty block returns to its group after the same delay
//! ([`crate::Command::EndCooldowns`]).
//!
//! Every index is a persistent B-tree: allocate and release are O(log n), and a copy of the whole is O(1). [`Ipam`]
//! holds them; `change` changes them (`evolve_…`); `allocate` and `release` decide.

mod adopt;
mod allocate;
mod blackout;
mod block;
mod change;
mod check;
mod live;
mod names;
mod open;
mod release;

use alloc::format;
use alloc::string::ToString;
use alloc::sync::Arc;
use core::net::IpAddr;
use core::ops::Bound;

use imbl::{OrdMap, OrdSet};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::entry::{Millis, Revision};
use crate::event::AddressAllocated;
use crate::name::{AddressName, HostName, NetworkName, SegmentId, TenantId};
use crate::prefix::{self, Start};
use crate::refusal::Refusal;
use crate::state::State;

pub(crate) use adopt::decide_adopt;
pub(crate) use allocate::decide_allocate;
pub(crate) use blackout::{decide_blackout, decide_unblackout};
use block::Pool;
pub use block::{Block, Owner};
pub(crate) use change::{evolve_assigned, evolve_released, owner_of};
pub(crate) use live::Address;
use names::{Names, Place};
use open::OpenBlocks;
pub(crate) use release::{decide_leaked, decide_release, end_cooldowns, evict};

/// Blocks, addresses, blackouts, and all indexes over them.
#[derive(Clone, Debug, Default)]
pub struct Ipam {
    /// By first address: blocks do not overlap. Each block is shared separately, so that a change after copying the
    /// state copies one block and a row of pointers.
    blocks: OrdMap<Start, Arc<Block>>,
    /// Blocks with a free address, by owner: the first place an allocation searches.
    open: OpenBlocks,
    pub(crate) host_blocks: OrdSet<(HostName, IpNet)>,
    /// Unassigned blocks, by leaf group.
    pub(crate) pools: OrdMap<IpNet, Pool>,
    names: Names,
    /// When each address that is cooling down was released.
    pub(crate) cooling: OrdMap<IpAddr, Millis>,
    cooling_queue: OrdSet<(Millis, IpAddr)>,
    /// Blocks without a live address, by the time they became empty.
    empty: OrdSet<(Millis, IpNet)>,
    pub(crate) blackouts: OrdSet<IpNet>,
    /// Addresses of VIPs: never allocated.
    pub(crate) reserved: OrdSet<IpAddr>,
    /// Addresses of hosts: never allocated. Empty before version 4.
    pub(crate) hosts: OrdSet<IpAddr>,
    /// Service ranges: never allocated.
    pub(crate) services: OrdSet<IpNet>,
}

/// A live address and its owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Allocation {
    pub name: AddressName,
    pub ip: IpAddr,
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Cidr"))]
    pub block: IpNet,
    pub network: NetworkName,
    pub host: HostName,
    pub tenant: TenantId,
    pub segment: SegmentId,
    /// The revision at which it was allocated.
    pub revision: Revision,
}

/// Usage of a leaf group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct GroupUsage {
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Cidr"))]
    pub cidr: IpNet,
    /// Hosts with their place in the group.
    pub hosts: u64,
    pub blocks: u64,
    pub addresses: u64,
    pub cooling: u64,
    /// Total number of addresses (2^64 − 1 if there are more).
    pub capacity: u64,
}

/// Reading.
impl Ipam {
    /// All blocks, by CIDR.
    pub fn blocks(&self) -> impl Iterator<Item = &Block> {
        self.blocks.values().map(|block| &**block)
    }

    /// Blocks from the first address of a CIDR on, in order.
    pub fn blocks_from(&self, from: IpNet) -> impl Iterator<Item = &Block> {
        self.blocks.range(Start::of(from)..).map(|(_, block)| &**block)
    }

    /// Blocks that begin after an address (all if `None`), in order.
    pub fn blocks_after(&self, after: Option<IpAddr>) -> impl Iterator<Item = &Block> {
        let from = after.map_or(Bound::Unbounded, |ip| Bound::Excluded(Start::of(ip.into())));
        self.blocks.range((from, Bound::Unbounded)).map(|(_, block)| &**block)
    }

    /// The block of that CIDR.
    #[must_use]
    pub fn block(&self, cidr: IpNet) -> Option<&Block> {
        self.blocks.get(&Start::of(cidr)).map(|block| &**block).filter(|block| block.cidr == cidr)
    }

    /// The assigned block that contains an address.
    #[must_use]
    pub fn block_of(&self, ip: IpAddr) -> Option<&Block> {
        let (_, block) = self.blocks.get_prev(&Start::of(ip.into()))?;
        block.cidr.contains(&ip).then_some(&**block)
    }

    /// CIDRs of a host's blocks, in order.
    pub fn host_blocks(&self, host: &HostName) -> impl Iterator<Item = IpNet> {
        let from = (host.clone(), lowest());
        let host = host.clone();
        self.host_blocks.range(from..).map_while(move |(h, cidr)| (*h == host).then_some(*cidr))
    }

    /// Number of live addresses.
    #[must_use]
    pub fn address_count(&self) -> usize {
        self.names.len()
    }

    /// Live addresses after `after` (from the first one if `None`), in order.
    pub fn addresses_after(&self, after: Option<IpAddr>) -> impl Iterator<Item = Allocation> {
        self.addresses_of(after, |_| true)
    }

    /// The same, for some owners only: blocks of other owners are skipped as a whole.
    pub fn addresses_of(
        &self,
        after: Option<IpAddr>,
        wanted: impl Fn(&Owner) -> bool,
    ) -> impl Iterator<Item = Allocation> {
        let around = after.and_then(|ip| self.block_of(ip));
        let begun = around.filter(|block| wanted(block.owner()));
        let rest = begun.zip(after).into_iter().flat_map(|(block, after)| {
            let next = prefix::offset(block.cidr, after).saturating_add(1);
            let rest = block.addresses.from(next);
            // If `after` has the last possible offset, no offset follows.
            rest.map(|(offset, address)| block.allocation(offset, address))
                .filter(move |allocation| allocation.ip > after)
        });
        let from = match (around, after) {
            (Some(block), _) => Bound::Excluded(Start::of(block.cidr)),
            (None, Some(ip)) => Bound::Excluded(Start::of(ip.into())),
            (None, None) => Bound::Unbounded,
        };
        let blocks = self.blocks.range((from, Bound::Unbounded));
        let blocks = blocks.filter(move |(_, block)| wanted(block.owner()));
        rest.chain(blocks.flat_map(|(_, block)| block.allocations()))
    }

    /// Live addresses of a range, in order.
    pub fn addresses_in(&self, cidr: IpNet) -> impl Iterator<Item = Allocation> {
        let around = self.block_of(cidr.network()).map_or(cidr, |block| block.cidr);
        let blocks =
            self.blocks_from(around).take_while(move |block| prefix::overlap(block.cidr, cidr));
        blocks.flat_map(Block::allocations).filter(move |allocation| cidr.contains(&allocation.ip))
    }

    /// The live allocation of an address.
    #[must_use]
    pub fn by_ip(&self, ip: IpAddr) -> Option<Allocation> {
        let block = self.block_of(ip)?;
        let offset = prefix::offset(block.cidr, ip);
        block.addresses.get(offset).map(|address| block.allocation(offset, address))
    }

    /// The live allocation of a name.
    #[must_use]
    pub fn by_name(&self, name: &AddressName) -> Option<Allocation> {
        self.names.find(name, |place| {
            let block = self.block_at(place)?;
            let offset = prefix::offset(block.cidr, place.ip);
            let address = block.addresses.get(offset).filter(|address| address.name == *name)?;
            Some(block.allocation(offset, address))
        })
    }

    fn block_at(&self, place: Place) -> Option<&Block> {
        self.block(prefix::enclosing(place.ip, place.block_len))
    }

    /// The allocation that an event created.
    pub(crate) fn allocated(
        &self,
        event: &AddressAllocated,
        revision: Revision,
    ) -> Option<Allocation> {
        let Owner { network, host, tenant, segment } = self.block(event.block)?.owner().clone();
        let (name, ip, block) = (event.name.clone(), event.ip, event.block);
        Some(Allocation { name, ip, block, network, host, tenant, segment, revision })
    }

    /// The address with this name or, failing that, the address that the text spells.
    #[must_use]
    pub fn by_name_or_ip(&self, text: &AddressName) -> Option<Allocation> {
        self.by_name(text).or_else(|| self.by_ip(text.as_str().parse().ok()?))
    }

    /// Refuses a text that is the name of one address and spells another.
    ///
    /// # Errors
    /// [`Refusal::AmbiguousName`], with both.
    pub fn check_unambiguous(&self, text: &AddressName) -> Result<(), Refusal> {
        let Ok(ip) = text.as_str().parse::<IpAddr>() else { return Ok(()) };
        match (self.by_name(text), self.by_ip(ip)) {
            (Some(named), Some(found)) if named.ip != found.ip => Err(Refusal::AmbiguousName {
                text: text.to_string(),
                named: format!("address {}", named.ip),
                found: format!("address {ip}, named {}", found.name),
            }),
            _ => Ok(()),
        }
    }

    /// Blackouts, in order.
    pub fn blackouts(&self) -> impl Iterator<Item = IpNet> {
        self.blackouts.iter().copied()
    }

    /// Usage of a leaf group.
    #[must_use]
    pub fn usage(&self, group: IpNet) -> GroupUsage {
        let mut usage = GroupUsage {
            cidr: group,
            hosts: self.pools.get(&group).map_or(0, |pool| pool.hosts),
            blocks: 0,
            addresses: 0,
            cooling: self.cooling_in(group),
            capacity: u64::try_from(prefix::last_offset(group)).unwrap_or(u64::MAX),
        };
        usage.capacity = usage.capacity.saturating_add(1);
        for block in self.blocks_from(group).take_while(|block| group.contains(&block.cidr)) {
            usage.blocks += 1;
            usage.addresses += block.live;
        }
        usage
    }

    /// Number of addresses of a range that are cooling down.
    fn cooling_in(&self, cidr: IpNet) -> u64 {
        self.cooling.range(cidr.network()..=cidr.broadcast()).count() as u64
    }

    /// The blackout that covers an address.
    pub(crate) fn blackout_of(&self, ip: IpAddr) -> Option<IpNet> {
        if self.blackouts.is_empty() {
            return None;
        }
        self.blackouts.get_prev(&IpNet::from(ip)).copied().filter(|cidr| cidr.contains(&ip))
    }

    /// The service range that contains an address.
    pub(crate) fn services_of(&self, ip: IpAddr) -> Option<IpNet> {
        self.services.iter().copied().find(|range| range.contains(&ip))
    }

    /// The closed range around an address, from which nothing is allocated: a blackout, a service range, or the
    /// address of a VIP or host.
    fn closed_around(&self, ip: IpAddr) -> Option<IpNet> {
        let alone = || self.reserved.contains(&ip) || self.hosts.contains(&ip);
        self.blackout_of(ip).or_else(|| self.services_of(ip)).or_else(|| alone().then(|| ip.into()))
    }

    /// Whether `EndCooldowns` would have an effect.
    fn due(&self, limit: Millis) -> bool {
        let cooled = self.cooling_queue.get_min().is_some_and(|(at, _)| *at <= limit);
        cooled || self.empty.get_min().is_some_and(|(since, _)| *since <= limit)
    }
}

/// The smallest possible CIDR.
fn lowest() -> IpNet {
    IpNet::V4(ipnet::Ipv4Net::default())
}

impl State {
    /// Whether `EndCooldowns` would have an effect at a given time. Leader tasks check before they propose it.
    #[must_use]
    pub fn cooldowns_due(&self, at: Millis) -> bool {
        release::limit(self, at).is_some_and(|limit| self.ipam.due(limit))
    }
}
