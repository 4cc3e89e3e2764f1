//! Checks of the invariants that [`State`] lists. For tests, `romana ipam check` and the chaos judge: they read the
//! whole state.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use ipnet::IpNet;

use crate::endpoint;
use crate::ipam::Block;
use crate::prefix;
use crate::state::State;
use crate::topology::both_names;
use crate::version;

impl State {
    /// Checks all invariants.
    ///
    /// # Errors
    /// The violations, one sentence each.
    pub fn validate(&self) -> Result<(), Vec<String>> {
        let mut wrong = Vec::new();
        self.ipam.check_indexes(|sentence| wrong.push(sentence));
        self.check_addresses(&mut wrong);
        self.check_blocks(&mut wrong);
        self.check_pools(&mut wrong);
        self.check_hosts(&mut wrong);
        self.check_blackouts(&mut wrong);
        self.check_others(&mut wrong);
        self.check_sources(&mut wrong);
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    fn check_addresses(&self, wrong: &mut Vec<String>) {
        let ipam = &self.ipam;
        for live in ipam.addresses_after(None) {
            let ip = &live.ip;
            let Some(block) = ipam.block_of(*ip) else {
                wrong.push(format!("{ip} ({}) lies in no block", live.name));
                continue;
            };
            let offset = prefix::offset(block.cidr, *ip);
            if block.free.contains(offset) || ipam.cooling.contains_key(ip) {
                wrong.push(format!("{ip} is live, and free or cooling as well"));
            }
            if let Some(blackout) = ipam.blackout_of(*ip) {
                wrong.push(format!("{ip} is live and blacked out by {blackout}"));
            }
            if Block::skips(block.cidr, block.skip_ends, offset) {
                wrong.push(format!("{ip} is live and left out of its block"));
            }
        }
    }

    fn check_blocks(&self, wrong: &mut Vec<String>) {
        let mut last: Option<IpNet> = None;
        for block in self.ipam.blocks() {
            let (cidr, owner) = (block.cidr, block.owner());
            if last.is_some_and(|last| prefix::overlap(last, cidr)) {
                wrong.push(format!("block {cidr} overlaps the one before it"));
            }
            last = Some(cidr);
            let network = self.topology().and_then(|topology| topology.network(&owner.network));
            let mask_right = network.is_some_and(|n| n.block_mask == cidr.prefix_len());
            let leaf = network.and_then(|network| network.leaf(block.group));
            if !mask_right || !leaf.is_some_and(|leaf| leaf.cidr.contains(&cidr)) {
                wrong.push(format!("block {cidr} is no block of group {}", block.group));
            }
            if !network.is_some_and(|network| network.admits(&owner.tenant)) {
                wrong.push(format!("block {cidr} is of tenant {}, not admitted", owner.tenant));
            }
            let place = self.host(&owner.host).and_then(|host| host.place(&owner.network));
            if place != Some(block.group) {
                wrong.push(format!("block {cidr}: host {} is not in its group", owner.host));
            }
            self.check_books(block, wrong);
        }
    }

    /// Live, cooling, free and skipped addresses make up a block. For large blocks, only the numbers of live and
    /// cooling ones are checked.
    fn check_books(&self, block: &Block, wrong: &mut Vec<String>) {
        let (cidr, ipam) = (block.cidr, &self.ipam);
        let live = block.addresses.len();
        if live != block.live {
            wrong.push(format!("block {cidr} counts {} live, has {live}", block.live));
        }
        let last = prefix::last_offset(cidr);
        for offset in 0..=last.min(4095) {
            let ip = prefix::nth(cidr, offset);
            let taken = block.addresses.get(offset).is_some()
                || ipam.cooling.contains_key(&ip)
                || Block::skips(cidr, block.skip_ends, offset);
            if taken == block.free.contains(offset) {
                wrong.push(format!("{ip} of block {cidr}: taken {taken}, against its free set"));
            }
        }
    }

    /// Every block of a group is either assigned or in the group's pool.
    fn check_pools(&self, wrong: &mut Vec<String>) {
        for (group, pool) in &self.ipam.pools {
            let mut assigned = 0u128;
            let blocks = self.ipam.blocks_from(*group);
            for block in blocks.take_while(|block| group.contains(&block.cidr)) {
                assigned += 1;
                if pool.has(*group, block.cidr) {
                    wrong.push(format!("block {} is assigned and in the pool", block.cidr));
                }
            }
            let returned = pool.returned.len() as u128;
            let untouched = pool.untouched.iter().map(|(first, last)| last - first);
            // One less than the number of blocks, which may be 2^128.
            let ranges = pool.untouched.iter().count() as u128;
            let pooled = untouched.sum::<u128>();
            let bits = pool.block_mask.saturating_sub(group.prefix_len());
            let last = if bits >= 128 { u128::MAX } else { (1u128 << bits) - 1 };
            if pooled.wrapping_add(ranges + returned + assigned) != last.wrapping_add(1) {
                wrong.push(format!("group {group}: blocks assigned and pooled do not add up"));
            }
        }
    }

    fn check_hosts(&self, wrong: &mut Vec<String>) {
        let mut counts: BTreeMap<IpNet, u64> = BTreeMap::new();
        let mut addresses = 0;
        for host in self.hosts() {
            addresses += host.ips().count();
            if host.ips().any(|ip| self.host_addresses.get(&ip) != Some(&host.name)) {
                wrong.push(format!("host {} is not found by its addresses", host.name));
            }
            for place in &host.places {
                *counts.entry(place.group).or_default() += 1;
                let network = self.topology().and_then(|topology| topology.network(&place.network));
                let leaf = network.and_then(|network| network.leaf(place.group));
                if !leaf.is_some_and(|leaf| leaf.takes(&both_names(self.version, &host.labels))) {
                    wrong.push(format!("host {} may not be in group {}", host.name, place.group));
                }
            }
        }
        if addresses != self.host_addresses.len() {
            wrong.push(format!("{addresses} host addresses, {}", self.host_addresses.len()));
        }
        for (group, pool) in &self.ipam.pools {
            if pool.hosts != counts.get(group).copied().unwrap_or(0) {
                wrong.push(format!("group {group} counts {} hosts", pool.hosts));
            }
        }
    }

    fn check_blackouts(&self, wrong: &mut Vec<String>) {
        let mut last: Option<IpNet> = None;
        for cidr in self.ipam.blackouts() {
            if last.is_some_and(|last| prefix::overlap(last, cidr)) {
                wrong.push(format!("blackout {cidr} overlaps the one before it"));
            }
            last = Some(cidr);
            let network = self.topology().and_then(|topology| topology.network_around(cidr));
            if network.is_none_or(|network| cidr.contains(&network.cidr)) {
                wrong.push(format!("blackout {cidr} is not a part of one network"));
            }
        }
    }

    fn check_others(&self, wrong: &mut Vec<String>) {
        for endpoint in self.endpoints().filter(|e| self.host(&e.host).is_none()) {
            wrong.push(format!("endpoint {}: no host {}", endpoint.ip, endpoint.host));
        }
        let mut ips = BTreeMap::new();
        for vip in self.vips() {
            if let Some(other) = ips.insert(vip.ip, &vip.name) {
                wrong.push(format!("VIPs {} and {other} share {}", vip.name, vip.ip));
            }
            if !self.ipam.reserved.contains(&vip.ip) || self.ipam.by_ip(vip.ip).is_some() {
                wrong.push(format!("the address of VIP {} is not kept for it", vip.name));
            }
            if vip.holder().is_some_and(|holder| self.host(holder).is_none()) {
                wrong.push(format!("VIP {}: its holder does not exist", vip.name));
            }
            let placed = self.version >= version::VIP_PLACEMENT;
            if (placed && vip.holder.is_some()) || (!placed && vip.placement.is_some()) {
                wrong.push(format!("VIP {}: its holder is of another version", vip.name));
            }
        }
        for name in self.vips_vacant.keys() {
            if self.vip(name).is_none_or(|vip| vip.placement.is_some()) {
                wrong.push(format!(
                    "VIP {name} is noted as without host, and has one or is not there"
                ));
            }
        }
        let pooled: Vec<IpNet> = self.vip_pools().flat_map(|(_, ranges)| ranges).copied().collect();
        let others = |at: usize| pooled.iter().skip(at + 1);
        if let Some((_, range)) = pooled
            .iter()
            .enumerate()
            .find(|(at, range)| others(*at).any(|other| prefix::overlap(**range, *other)))
        {
            wrong.push(format!("range {range} of a VIP pool overlaps another one"));
        }
        if ips.len() != self.ipam.reserved.len() {
            wrong.push(format!("{} VIPs, {} reserved", ips.len(), self.ipam.reserved.len()));
        }
        let waiting = self.held().map(|held| &held.waiting);
        if waiting.is_some_and(|hosts| hosts.is_empty()) {
            wrong.push(String::from("allocation is held for no host"));
        }
        for host in waiting.into_iter().flatten().filter(|host| self.host(host).is_none()) {
            wrong.push(format!("allocation waits for {host}, which does not exist"));
        }
        if self.version >= version::ENDPOINTS_TIED {
            for endpoint in self.endpoints().filter(|e| endpoint::contradicted(self, e).is_some()) {
                wrong.push(format!("endpoint {} differs from its address", endpoint.ip));
            }
        }
        for host in self.agents.keys().filter(|host| self.host(host).is_none()) {
            wrong.push(format!("host {host} has an agent, and is not there"));
        }
        for (host, conflicts) in self.conflicts() {
            if self.host(host).is_none() || conflicts.is_empty() {
                wrong.push(format!("{} conflicts of host {host}", conflicts.len()));
            }
        }
        for member in self.members().filter(|member| self.member_is_removed(member.id)) {
            wrong.push(format!("member {} was removed", member.id));
        }
        for (key, host) in self.routers().filter(|(_, host)| self.host(host).is_none()) {
            wrong.push(format!("router of {}: no host {host}", key.prefix));
        }
    }
}
