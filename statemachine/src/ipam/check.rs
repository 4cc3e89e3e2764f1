//! Cross-checks of the private indexes of this module: see [`crate::State::validate`].

use alloc::format;
use alloc::string::String;

use super::Ipam;

impl Ipam {
    pub(crate) fn check_indexes(&self, mut wrong: impl FnMut(String)) {
        let addresses = self.blocks().map(|block| block.addresses.len()).sum::<u64>();
        if self.names.len() as u64 != addresses {
            wrong(format!("{} names, {addresses} addresses", self.names.len()));
        }
        for live in self.addresses_after(None) {
            if self.by_name(&live.name).as_ref() != Some(&live) {
                wrong(format!("{} is not found by its name {}", live.ip, live.name));
            }
        }
        let queued = self.cooling_queue.iter().all(|(at, ip)| self.cooling.get(ip) == Some(at));
        if !queued || self.cooling_queue.len() != self.cooling.len() {
            wrong(format!("{} cooling, {} queued", self.cooling.len(), self.cooling_queue.len()));
        }
        for block in self.blocks() {
            let open = self.open.contains(&block.owner, block.cidr);
            if open == block.free.is_empty() {
                wrong(format!("block {} open: {open}, against its free set", block.cidr));
            }
            let listed = block.empty_since.is_some_and(|at| self.empty.contains(&(at, block.cidr)));
            if listed != (block.live == 0) {
                wrong(format!(
                    "block {} with {} live listed empty: {listed}",
                    block.cidr, block.live
                ));
            }
            if !self.host_blocks.contains(&(block.owner().host.clone(), block.cidr)) {
                wrong(format!("block {} is not listed for its host", block.cidr));
            }
        }
        let counts = (self.blocks.len(), self.host_blocks.len());
        if counts.0 != counts.1 {
            wrong(format!("{} blocks, {} listed for hosts", counts.0, counts.1));
        }
        let empty = self.blocks().filter(|block| block.live == 0).count();
        let open = self.blocks().filter(|block| !block.free.is_empty()).count();
        if (empty, open) != (self.empty.len(), self.open.len()) {
            wrong(format!("empty or open blocks miscounted: {empty} {open}"));
        }
    }
}
