//! Blocks, and the pools of blocks that nobody has.

use alloc::sync::Arc;
use core::cmp::Ordering;

use imbl::OrdMap;
use ipnet::IpNet;

use super::{FNV_START, fnv};
use crate::entry::{Millis, Revision};
use crate::event::BlockAssigned;
use crate::name::{HostName, NetworkName, SegmentId, TenantId};
use crate::prefix;
use crate::ranges::{FreeSet, RangeSet};
use crate::topology::Network;

/// Whose a block is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// The host it is on.
    pub host: HostName,
    /// The network it is from.
    pub network: NetworkName,
    /// The tenant …
    pub tenant: TenantId,
    /// … and the segment that get addresses from it.
    pub segment: SegmentId,
}

/// A shared owner with its hash in front: compared without touching other memory, mostly.
#[derive(Clone, Debug)]
pub(crate) struct OwnerKey {
    hash: u64,
    owner: Arc<Owner>,
}

impl OwnerKey {
    pub(crate) fn new(owner: Owner) -> Self {
        let parts = [
            owner.host.as_str(),
            owner.network.as_str(),
            owner.tenant.as_str(),
            owner.segment.as_str(),
        ];
        let hash = parts.iter().fold(FNV_START, |hash, part| fnv(hash, part.as_bytes()));
        Self { hash, owner: Arc::new(owner) }
    }
}

impl Ord for OwnerKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.hash.cmp(&other.hash).then_with(|| {
            if Arc::ptr_eq(&self.owner, &other.owner) {
                Ordering::Equal
            } else {
                self.owner.cmp(&other.owner)
            }
        })
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
    /// Its range.
    pub cidr: IpNet,
    /// CIDR of its leaf group.
    pub group: IpNet,
    /// Number of live addresses in it.
    pub live: u64,
    pub(crate) owner: OwnerKey,
    /// Addresses that can be given out: neither live, nor cooling, nor left out at the ends.
    /// Blackouts are not in the books: an allocation steps over them.
    pub(crate) free: FreeSet,
    /// Since when no address of it is live, if so.
    pub(crate) empty_since: Option<Millis>,
    /// Whether its first and last address are left out.
    pub(crate) skip_ends: bool,
}

impl Block {
    /// Whose it is.
    #[must_use]
    pub fn owner(&self) -> &Owner {
        &self.owner.owner
    }

    /// Since when no address of it is live, if so.
    #[must_use]
    pub fn empty_since(&self) -> Option<Millis> {
        self.empty_since
    }

    pub(super) fn assigned(
        event: &BlockAssigned,
        at: Millis,
        skip_ends: bool,
        free: FreeSet,
    ) -> Self {
        let owner = OwnerKey::new(Owner {
            host: event.host.clone(),
            network: event.network.clone(),
            tenant: event.tenant.clone(),
            segment: event.segment.clone(),
        });
        let (cidr, group) = (event.cidr, event.group);
        Self { cidr, group, live: 0, owner, free, empty_since: Some(at), skip_ends }
    }

    /// A block of a snapshot; its free addresses are counted by [`super::Ipam::refresh`].
    pub(crate) fn restored(
        event: &BlockAssigned,
        live: u64,
        empty_since: Option<Millis>,
        skip_ends: bool,
    ) -> Self {
        let free = free_set(event.cidr, skip_ends);
        Self { live, empty_since, ..Self::assigned(event, Millis(0), skip_ends, free) }
    }

    /// Moves the block to the network and group that its range lies in now.
    pub(super) fn rehome(&mut self, network: &Network, group: IpNet) {
        self.group = group;
        self.skip_ends = network.skip_first_last;
        if self.owner().network != network.name {
            let owner = Owner { network: network.name.clone(), ..self.owner().clone() };
            self.owner = OwnerKey::new(owner);
        }
    }

    /// Whether an address of the block is left out at its ends.
    pub(crate) fn skips(cidr: IpNet, skip_ends: bool, offset: u128) -> bool {
        skip_ends && (offset == 0 || offset == prefix::last_offset(cidr))
    }
}

/// All addresses of a block but those left out at its ends.
pub(super) fn free_set(cidr: IpNet, skip_ends: bool) -> FreeSet {
    let last = prefix::last_offset(cidr);
    let ends = u128::from(skip_ends);
    FreeSet::of(last.saturating_add(1), ends, last.saturating_sub(ends))
}

/// The blocks of a leaf group that nobody has.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    pub(crate) block_mask: u8,
    /// Hosts that have their place in the group.
    pub(crate) hosts: u64,
    /// Positions of blocks never used.
    pub(crate) untouched: RangeSet,
    /// Blocks that came back, by when they may be assigned again, then by age.
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

    /// Whether nobody has the block.
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

    /// Puts a block of a snapshot back, which is not among those never used.
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
