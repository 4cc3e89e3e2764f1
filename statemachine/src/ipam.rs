//! IPAM: which address belongs to whom.
//!
//! A block of the network's `block_mask` belongs to (network, leaf group, host, tenant, segment). An
//! allocation takes, first that works, network by network: the lowest free address of the host's own
//! blocks of that owner, in order; a block that came back to the host's group, oldest first; a block
//! never used, lowest first. A released address cools down before it is free again; an emptied block
//! comes back to its group after the same delay ([`crate::Command::EndCooldowns`]).
//!
//! Every index is a persistent B-tree, so that allocate and release are O(log n) and a copy of the
//! whole is O(1). [`Ipam`] holds them; `change` changes them (`evolve_…`); deciding is in `allocate` and
//! `release`.

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
    /// By where they begin: they do not overlap. Shared one by one, so that a change under a copy of the
    /// state copies one block and a row of pointers.
    blocks: OrdMap<Start, Arc<Block>>,
    /// Blocks with a free address, by owner: where an allocation looks first.
    open: OpenBlocks,
    pub(crate) host_blocks: OrdSet<(HostName, IpNet)>,
    /// What nobody has, by leaf group.
    pub(crate) pools: OrdMap<IpNet, Pool>,
    names: Names,
    /// When each address that is cooling down was released.
    pub(crate) cooling: OrdMap<IpAddr, Millis>,
    cooling_queue: OrdSet<(Millis, IpAddr)>,
    /// Blocks without a live address, by when they became so.
    empty: OrdSet<(Millis, IpNet)>,
    pub(crate) blackouts: OrdSet<IpNet>,
    /// Addresses of VIPs: never given out.
    pub(crate) reserved: OrdSet<IpAddr>,
    /// Addresses of hosts: never given out. Empty before version 4.
    pub(crate) hosts: OrdSet<IpAddr>,
    /// Ranges of services: never given out.
    pub(crate) services: OrdSet<IpNet>,
}

/// A live address and whose it is.
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

/// How full a leaf group is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct GroupUsage {
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Cidr"))]
    pub cidr: IpNet,
    /// Hosts that have their place there.
    pub hosts: u64,
    /// Blocks assigned.
    pub blocks: u64,
    /// Live addresses.
    pub addresses: u64,
    /// Addresses cooling down.
    pub cooling: u64,
    /// Addresses in all (2^64 − 1 when there are more).
    pub capacity: u64,
}

/// Reading.
impl Ipam {
    /// All blocks, by CIDR.
    pub fn blocks(&self) -> impl Iterator<Item = &Block> {
        self.blocks.values().map(|block| &**block)
    }

    /// Blocks from where a CIDR begins on, in order.
    pub fn blocks_from(&self, from: IpNet) -> impl Iterator<Item = &Block> {
        self.blocks.range(Start::of(from)..).map(|(_, block)| &**block)
    }

    /// Blocks that begin after an address (all when absent), in order.
    pub fn blocks_after(&self, after: Option<IpAddr>) -> impl Iterator<Item = &Block> {
        let from = after.map_or(Bound::Unbounded, |ip| Bound::Excluded(Start::of(ip.into())));
        self.blocks.range((from, Bound::Unbounded)).map(|(_, block)| &**block)
    }

    /// The block of that CIDR.
    #[must_use]
    pub fn block(&self, cidr: IpNet) -> Option<&Block> {
        self.blocks.get(&Start::of(cidr)).map(|block| &**block).filter(|block| block.cidr == cidr)
    }

    /// The assigned block around an address.
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

    /// Live addresses after `after` (from the first one when absent), in order.
    pub fn addresses_after(&self, after: Option<IpAddr>) -> impl Iterator<Item = Allocation> {
        self.addresses_of(after, |_| true)
    }

    /// The same, of some owners only: the blocks of others are passed over whole.
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
            // The offset after the last one of all there are is not past `after`.
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

    /// The live address.
    #[must_use]
    pub fn by_ip(&self, ip: IpAddr) -> Option<Allocation> {
        let block = self.block_of(ip)?;
        let offset = prefix::offset(block.cidr, ip);
        block.addresses.get(offset).map(|address| block.allocation(offset, address))
    }

    /// The address of that name.
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

    /// The allocation that an event made.
    pub(crate) fn allocated(
        &self,
        event: &AddressAllocated,
        revision: Revision,
    ) -> Option<Allocation> {
        let Owner { network, host, tenant, segment } = self.block(event.block)?.owner().clone();
        let (name, ip, block) = (event.name.clone(), event.ip, event.block);
        Some(Allocation { name, ip, block, network, host, tenant, segment, revision })
    }

    /// The address that is named so or, failing that, is so written.
    #[must_use]
    pub fn by_name_or_ip(&self, text: &AddressName) -> Option<Allocation> {
        self.by_name(text).or_else(|| self.by_ip(text.as_str().parse().ok()?))
    }

    /// Refuses a text that is the name of one address and the writing of another.
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

    /// How full a leaf group is.
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

    /// The range of services that an address is in.
    pub(crate) fn services_of(&self, ip: IpAddr) -> Option<IpNet> {
        self.services.iter().copied().find(|range| range.contains(&ip))
    }

    /// The range around an address in which none is given out: a blackout's, that of services, or the address of a
    /// VIP or host.
    fn closed_around(&self, ip: IpAddr) -> Option<IpNet> {
        let alone = || self.reserved.contains(&ip) || self.hosts.contains(&ip);
        self.blackout_of(ip).or_else(|| self.services_of(ip)).or_else(|| alone().then(|| ip.into()))
    }

    /// Whether an end of cool-downs would do something: leader tasks ask before they propose.
    fn due(&self, limit: Millis) -> bool {
        let cooled = self.cooling_queue.get_min().is_some_and(|(at, _)| *at <= limit);
        cooled || self.empty.get_min().is_some_and(|(since, _)| *since <= limit)
    }
}

/// The smallest CIDR there is.
fn lowest() -> IpNet {
    IpNet::V4(ipnet::Ipv4Net::default())
}

impl State {
    /// Whether `EndCooldowns` would do something at a time.
    #[must_use]
    pub fn cooldowns_due(&self, at: Millis) -> bool {
        release::limit(self, at).is_some_and(|limit| self.ipam.due(limit))
    }
}
