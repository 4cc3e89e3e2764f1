//! Blocks, and the pools of unassigned blocks.

use alloc::sync::Arc;
use core::borrow::Borrow;
use core::cmp::Ordering;

use imbl::OrdMap;
use ipnet::IpNet;

use super::Allocation;
use super::live::{Address, Live};
use crate::entry::{Millis, Revision};
use crate::event::BlockAssigned;
use crate::hash::Hash;
use crate::name::{HostName, NetworkName, SegmentId, TenantId};
use crate::prefix;
use crate::ranges::{FreeSet, RangeSet};
use crate::topology::Network;

/// The owner of a block.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    pub host: HostName,
    pub network: NetworkName,
    pub tenant: TenantId,
    /// … and the segment whose addresses it holds.
    pub segment: SegmentId,
}

/// A shared owner with its hash: most comparisons touch no other memory.
#[derive(Clone, Debug)]
pub(crate) struct OwnerKey {
    hash: u64,
    owner: Arc<Owner>,
}

/// An owner by its names, for a lookup without allocating memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnerNames<'a> {
    hash: u64,
    host: &'a HostName,
    network: &'a NetworkName,
    tenant: &'a TenantId,
    segment: &'a SegmentId,
}

/// Common to [`OwnerKey`] and [`OwnerNames`], so that a map with one as the key can be searched by the other.
pub(crate) trait Owns {
    fn names(&self) -> OwnerNames<'_>;
}

impl<'a> OwnerNames<'a> {
    pub(crate) fn new(
        host: &'a HostName,
        network: &'a NetworkName,
        tenant: &'a TenantId,
        segment: &'a SegmentId,
    ) -> Self {
        let names = [host.as_str(), network.as_str(), tenant.as_str(), segment.as_str()];
        Self { hash: Hash::of_all(names), host, network, tenant, segment }
    }

    /// Whether these are the names of the key's owner.
    pub(crate) fn are(&self, key: &OwnerKey) -> bool {
        self.hash == key.hash && self.texts() == key.names().texts()
    }

    fn texts(&self) -> (&str, &str, &str, &str) {
        let Self { host, network, tenant, segment, .. } = self;
        (host.as_str(), network.as_str(), tenant.as_str(), segment.as_str())
    }
}

impl OwnerKey {
    pub(crate) fn new(owner: Owner) -> Self {
        let Owner { host, network, tenant, segment } = &owner;
        let hash = OwnerNames::new(host, network, tenant, segment).hash;
        Self { hash, owner: Arc::new(owner) }
    }
}

impl Owns for OwnerKey {
    fn names(&self) -> OwnerNames<'_> {
        let Owner { host, network, tenant, segment } = &*self.owner;
        OwnerNames { hash: self.hash, host, network, tenant, segment }
    }
}

impl Owns for OwnerNames<'_> {
    fn names(&self) -> OwnerNames<'_> {
        *self
    }
}

impl<'a> Borrow<dyn Owns + 'a> for OwnerKey {
    fn borrow(&self) -> &(dyn Owns + 'a) {
        self
    }
}

impl Ord for dyn Owns + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        let (a, b) = (self.names(), other.names());
        a.hash.cmp(&b.hash).then_with(|| a.texts().cmp(&b.texts()))
    }
}

impl PartialOrd for dyn Owns + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for dyn Owns + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for dyn Owns + '_ {}

impl Ord for OwnerKey {
    fn cmp(&self, other: &Self) -> Ordering {
        if Arc::ptr_eq(&self.owner, &other.owner) {
            return Ordering::Equal;
        }
        self.hash.cmp(&other.hash).then_with(|| self.names().texts().cmp(&other.names().texts()))
    }
}

impl PartialOrd for OwnerKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for OwnerKey {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for OwnerKey {}

/// An assigned block.
#[derive(Clone, Debug)]
pub struct Block {
    pub cidr: IpNet,
    /// CIDR of its leaf group.
    pub group: IpNet,
    /// Number of live addresses in it.
    pub live: u64,
    pub(crate) owner: OwnerKey,
    pub(crate) addresses: Live,
    /// Addresses that can be allocated: neither live, nor cooling, nor skipped at the ends. Blackouts are not
    /// considered here: an allocation skips them.
    pub(crate) free: FreeSet,
    /// When its last live address was released, if it has none.
    pub(crate) empty_since: Option<Millis>,
    /// Whether its first and last address are skipped.
    pub(crate) skip_ends: bool,
}

impl Block {
    /// The owner of the block.
    #[must_use]
    pub fn owner(&self) -> &Owner {
        &self.owner.owner
    }

    /// When its last live address was released, if it has none.
    #[must_use]
    pub fn empty_since(&self) -> Option<Millis> {
        self.empty_since
    }

    pub(super) fn assigned(
        event: &BlockAssigned,
        owner: OwnerKey,
        at: Millis,
        skip_ends: bool,
        free: FreeSet,
    ) -> Self {
        let (cidr, group) = (event.cidr, event.group);
        let addresses = Live::none(prefix::last_offset(cidr));
        Self { cidr, group, live: 0, owner, addresses, free, empty_since: Some(at), skip_ends }
    }

    /// A block from a snapshot; [`super::Ipam::refresh`] computes its free addresses.
    pub(crate) fn restored(
        event: &BlockAssigned,
        owner: Owner,
        live: u64,
        empty_since: Option<Millis>,
        skip_ends: bool,
    ) -> Self {
        let (owner, free) = (OwnerKey::new(owner), free_set(event.cidr, skip_ends));
        Self { live, empty_since, ..Self::assigned(event, owner, Millis(0), skip_ends, free) }
    }

    /// The live allocation at an offset.
    pub(super) fn allocation(&self, offset: u128, address: &Address) -> Allocation {
        let Owner { network, host, tenant, segment } = self.owner().clone();
        let Address { name, revision } = address.clone();
        let (ip, block) = (prefix::nth(self.cidr, offset), self.cidr);
        Allocation { name, ip, block, network, host, tenant, segment, revision }
    }

    /// Its live addresses, in order.
    pub(super) fn allocations(&self) -> impl Iterator<Item = Allocation> {
        self.addresses.from(0).map(|(offset, address)| self.allocation(offset, address))
    }

    /// Moves the block to the network and group that now contain its range.
    pub(super) fn rehome(&mut self, network: &Network, group: IpNet) {
        self.group = group;
        self.skip_ends = network.skip_first_last;
        if self.owner().network != network.name {
            let owner = Owner { network: network.name.clone(), ..self.owner().clone() };
            self.owner = OwnerKey::new(owner);
        }
    }

    /// Whether an offset is a skipped end of the block.
    pub(crate) fn skips(cidr: IpNet, skip_ends: bool, offset: u128) -> bool {
        skip_ends && (offset == 0 || offset == prefix::last_offset(cidr))
    }
}

/// All addresses of a block except skipped ends.
pub(super) fn free_set(cidr: IpNet, skip_ends: bool) -> FreeSet {
    let last = prefix::last_offset(cidr);
    let ends = u128::from(skip_ends);
    FreeSet::of(last.saturating_add(1), ends, last.saturating_sub(ends))
}

/// The unassigned blocks of a leaf group.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    pub(crate) block_mask: u8,
    /// Hosts with their place in the group.
    pub(crate) hosts: u64,
    /// Positions of blocks never used.
    pub(crate) untouched: RangeSet,
    /// Returned blocks, by the time from which they may be assigned again, then by age.
    pub(crate) returned: OrdMap<(Millis, Revision), IpNet>,
    /// The same, by block.
    returned_as: OrdMap<IpNet, (Millis, Revision)>,
}

impl Pool {
    pub(super) fn new(group: IpNet, block_mask: u8) -> Self {
        let bits = u32::from(block_mask.saturating_sub(group.prefix_len()));
        let last = if bits >= 128 { u128::MAX } else { (1 << bits) - 1 };
        Self {
            block_mask,
            hosts: 0,
            untouched: RangeSet::of(0, last),
            returned: OrdMap::new(),
            returned_as: OrdMap::new(),
        }
    }

    /// Whether the block is unassigned.
    pub(crate) fn has(&self, group: IpNet, cidr: IpNet) -> bool {
        let position = prefix::position(group, self.block_mask, cidr.network());
        self.untouched.contains(position) || self.returned_as.contains_key(&cidr)
    }

    pub(super) fn take(&mut self, group: IpNet, cidr: IpNet) {
        if let Some(key) = self.returned_as.remove(&cidr) {
            self.returned.remove(&key);
        } else {
            self.untouched.remove(prefix::position(group, self.block_mask, cidr.network()));
        }
    }

    /// Restores a returned block from a snapshot.
    pub(crate) fn restore_returned(
        &mut self,
        group: IpNet,
        cidr: IpNet,
        at: Millis,
        revision: Revision,
    ) {
        self.take(group, cidr);
        self.put_back(cidr, at, revision);
    }

    pub(super) fn put_back(&mut self, cidr: IpNet, at: Millis, revision: Revision) {
        self.returned.insert((at, revision), cidr);
        self.returned_as.insert(cidr, (at, revision));
    }
}
