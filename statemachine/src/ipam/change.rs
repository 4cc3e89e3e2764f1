//! Applies events to blocks, addresses and their indexes.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

use imbl::OrdMap;
use ipnet::IpNet;

use super::Ipam;
use super::block::{self, Block, Owner, OwnerKey, Pool};
use super::live::Address;
use super::names::{Names, Place};
use super::open::OpenBlocks;
use crate::entry::{Millis, Revision};
use crate::event::{AddressAllocated, AddressReleased, BlockAssigned, BlockReleased};
use crate::prefix::{self, Start};
use crate::ranges::FreeSet;
use crate::state::State;
use crate::topology::Topology;

impl Ipam {
    pub(crate) fn evolve_allocated(&mut self, event: &AddressAllocated, revision: Revision) {
        let Some(block) = block_mut(&mut self.blocks, event.block) else { return };
        let place = Place { ip: event.ip, block_len: event.block.prefix_len() };
        self.names.insert(&event.name, place);
        let offset = prefix::offset(event.block, event.ip);
        block.addresses.insert(offset, Address { name: event.name.clone(), revision });
        block.free.remove(offset);
        block.live += 1;
        if let Some(since) = block.empty_since.take() {
            self.empty.remove(&(since, event.block));
        }
        if block.free.is_empty() {
            self.open.remove(&block.owner, event.block);
        }
    }

    fn evolve_address_released(&mut self, event: &AddressReleased, at: Millis, cools: bool) {
        self.names.remove(&event.name, event.ip);
        if cools {
            self.cooling.insert(event.ip, at);
            self.cooling_queue.insert((at, event.ip));
        }
        let Some(block) = block_mut(&mut self.blocks, event.block) else { return };
        let offset = prefix::offset(event.block, event.ip);
        block.addresses.remove(offset);
        if !cools {
            if block.free.is_empty() {
                self.open.insert(&block.owner, event.block);
            }
            block.free.insert(offset);
        }
        block.live = block.live.saturating_sub(1);
        if block.live == 0 {
            block.empty_since = Some(at);
            self.empty.insert((at, event.block));
        }
    }

    /// Ends the cool-down of everything released at or before a time.
    pub(crate) fn evolve_cooled(&mut self, released_until: Millis) {
        while let Some((at, ip)) = self.cooling_queue.get_min().copied() {
            if at > released_until {
                break;
            }
            self.cooling_queue.remove(&(at, ip));
            self.cooling.remove(&ip);
            self.set_free(ip);
        }
    }

    /// The free addresses of a block without live ones: all except skipped ends and those still cooling down from an
    /// earlier owner.
    pub(super) fn fresh_free(&self, cidr: IpNet, skip_ends: bool) -> FreeSet {
        let mut free = block::free_set(cidr, skip_ends);
        for (ip, _) in self.cooling.range(cidr.network()..=cidr.broadcast()) {
            free.remove(prefix::offset(cidr, *ip));
        }
        free
    }

    /// Marks an address as free if its block is assigned and does not skip it.
    pub(super) fn set_free(&mut self, ip: IpAddr) {
        let Some(cidr) = self.block_of(ip).map(|block| block.cidr) else { return };
        let Some(block) = block_mut(&mut self.blocks, cidr) else { return };
        let offset = prefix::offset(cidr, ip);
        // A topology that skips the ends may have been set while the address was cooling down.
        if Block::skips(cidr, block.skip_ends, offset) {
            return;
        }
        if block.free.is_empty() {
            self.open.insert(&block.owner, cidr);
        }
        block.free.insert(offset);
    }

    fn assign(&mut self, event: &BlockAssigned, owner: Owner, at: Millis, skip_ends: bool) {
        if let Some(pool) = self.pools.get_mut(&event.group) {
            pool.take(event.group, event.cidr);
        }
        let free = self.fresh_free(event.cidr, skip_ends);
        let block = Block::assigned(event, OwnerKey::new(owner), at, skip_ends, free);
        if !block.free.is_empty() {
            self.open.insert(&block.owner, event.cidr);
        }
        self.host_blocks.insert((block.owner().host.clone(), event.cidr));
        self.empty.insert((at, event.cidr));
        self.blocks.insert(Start::of(event.cidr), Arc::new(block));
    }

    pub(crate) fn evolve_released(&mut self, event: &BlockReleased, revision: Revision) {
        let Some(block) = self.blocks.remove(&Start::of(event.cidr)) else { return };
        self.open.remove(&block.owner, event.cidr);
        self.host_blocks.remove(&(event.host.clone(), event.cidr));
        if let Some(since) = block.empty_since {
            self.empty.remove(&(since, event.cidr));
        }
        if let Some(pool) = self.pools.get_mut(&block.group) {
            pool.put_back(event.cidr, event.reusable_at, revision);
        }
    }

    pub(crate) fn add_blackout(&mut self, cidr: IpNet) {
        self.blackouts.insert(cidr);
    }

    pub(crate) fn remove_blackout(&mut self, cidr: IpNet) {
        self.blackouts.remove(&cidr);
    }

    /// Increments or decrements the number of hosts of a leaf group.
    pub(crate) fn count_host(&mut self, group: IpNet, added: bool) {
        if let Some(pool) = self.pools.get_mut(&group) {
            pool.hosts = if added { pool.hosts + 1 } else { pool.hosts.saturating_sub(1) };
        }
    }

    /// Moves all blocks to the groups of a new topology: assigned blocks find their network and group by their range;
    /// unassigned blocks count as never used. The caller counts the hosts.
    pub(crate) fn adopt(&mut self, topology: &Topology) {
        self.pools = OrdMap::new();
        for network in topology.networks() {
            for leaf in network.leaves() {
                self.pools.insert(leaf.cidr, Pool::new(leaf.cidr, network.block_mask));
            }
        }
        let blocks: Vec<_> = self.blocks().cloned().collect();
        self.open = OpenBlocks::default();
        for mut block in blocks {
            if let Some(network) = topology.network_around(block.cidr) {
                let leaf = network.leaf_around(block.cidr);
                block.rehome(network, leaf.map_or(block.group, |leaf| leaf.cidr));
            }
            self.refresh(block);
        }
    }

    /// Inserts a block after recomputing its free addresses from the live and the cooling ones.
    pub(crate) fn refresh(&mut self, mut block: Block) {
        let cidr = block.cidr;
        block.free = self.fresh_free(cidr, block.skip_ends);
        for (offset, _) in block.addresses.from(0) {
            block.free.remove(offset);
        }
        if let Some(pool) = self.pools.get_mut(&block.group) {
            pool.take(block.group, cidr);
        }
        if !block.free.is_empty() {
            self.open.insert(&block.owner, cidr);
        }
        if let Some(since) = block.empty_since {
            self.empty.insert((since, cidr));
        }
        self.host_blocks.insert((block.owner().host.clone(), cidr));
        self.blocks.insert(Start::of(cidr), Arc::new(block));
    }

    /// Rebuilds the index by name, when reading a snapshot, after all blocks were inserted.
    pub(crate) fn restore_names(&mut self) {
        self.names = Names::of(self.blocks().flat_map(|block| {
            let place = |offset| Place {
                ip: prefix::nth(block.cidr, offset),
                block_len: block.cidr.prefix_len(),
            };
            block.addresses.from(0).map(move |(offset, address)| (&address.name, place(offset)))
        }));
    }

    /// Inserts a cooling address, when reading a snapshot.
    pub(crate) fn restore_cooling(&mut self, ip: IpAddr, at: Millis) {
        self.cooling.insert(ip, at);
        self.cooling_queue.insert((at, ip));
    }
}

/// The block with this CIDR, for a change; cloned first if a copy of the state shares it.
pub(super) fn block_mut(blocks: &mut OrdMap<Start, Arc<Block>>, cidr: IpNet) -> Option<&mut Block> {
    blocks.get_mut(&Start::of(cidr)).map(Arc::make_mut).filter(|block| block.cidr == cidr)
}

pub(crate) fn evolve_assigned(state: &mut State, event: &BlockAssigned) {
    let skips = |topology: &Topology| {
        topology.network(&event.network).is_some_and(|network| network.skip_first_last)
    };
    let skip_ends = state.topology().is_some_and(skips);
    let owner = owner_of(state, event);
    state.ipam.assign(event, owner, state.at, skip_ends);
}

/// The owner of the block, with the name strings of the host and tenant in the state if they exist: blocks share them
/// instead of keeping the strings of each command.
pub(crate) fn owner_of(state: &State, event: &BlockAssigned) -> Owner {
    let BlockAssigned { network, host, tenant, segment, .. } = event;
    let known = state.tenants.get_key_value(tenant);
    let known_segment = known.and_then(|(_, tenant)| tenant.segments.get_key_value(segment));
    let known_network = state.topology().and_then(|topology| topology.network(network));
    Owner {
        host: state.host(host).map_or(host, |host| &host.name).clone(),
        network: known_network.map_or(network, |network| &network.name).clone(),
        tenant: known.map_or(tenant, |(id, _)| id).clone(),
        segment: known_segment.map_or(segment, |(id, _)| id).clone(),
    }
}

pub(crate) fn evolve_released(state: &mut State, event: &AddressReleased) {
    let cools = state.settings.address_reuse_delay_ms > 0;
    state.ipam.evolve_address_released(event, state.at, cools);
}
