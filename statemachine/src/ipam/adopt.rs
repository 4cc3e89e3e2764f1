//! Decides on addresses reported in use by a host: see [`crate::report`].

use alloc::vec::Vec;

use super::change::block_mut;
use super::live::Address;
use super::names::Place;
use super::{Ipam, allocate};
use crate::command::{AllocateAddress, Attached, ReportAttachments};
use crate::entry::Revision;
use crate::event::{AddressAdopted, AddressAllocated, AddressClaimed, Event};
use crate::prefix;
use crate::refusal::Refusal;
use crate::state::{Now, State};

/// Allocates an address in use to its user, if possible; no events if it is already allocated to it.
pub(crate) fn decide_adopt(
    state: &State,
    report: &ReportAttachments,
    attached: &Attached,
    now: Now,
) -> Result<Vec<Event>, Refusal> {
    let Attached { name, ip, tenant, segment } = attached.clone();
    let host = report.host.clone();
    let ask = AllocateAddress { name, host, tenant, segment, network: None, ip: Some(ip) };
    let mut events = allocate::decide_exactly(state, &ask, now, report.at)?;
    // An endpoint that already belongs to this user is kept; one of a previous user is removed.
    let is_own = state.endpoint(ip).is_some_and(|endpoint| {
        (&endpoint.tenant, &endpoint.segment, &endpoint.host)
            == (&ask.tenant, &ask.segment, &ask.host)
    });
    events.retain(|event| !is_own || !matches!(event, Event::EndpointRemoved(_)));
    for event in &mut events {
        if let Event::AddressAllocated(allocated) = event {
            let AddressAllocated { name, ip, block, host, tenant, segment } = allocated.clone();
            let reported = report.revision;
            let adopted = AddressAdopted { name, ip, block, host, tenant, segment, reported };
            *event = Event::AddressAdopted(adopted);
        }
    }
    Ok(events)
}

impl Ipam {
    /// Like an allocation, but the address may be cooling down.
    pub(crate) fn evolve_adopted(&mut self, adopted: &AddressAdopted, revision: Revision) {
        if let Some(at) = self.cooling.remove(&adopted.ip) {
            self.cooling_queue.remove(&(at, adopted.ip));
            self.set_free(adopted.ip);
        }
        let AddressAdopted { name, ip, block, host, tenant, segment, .. } = adopted.clone();
        let allocated = AddressAllocated { name, ip, block, host, tenant, segment };
        self.evolve_allocated(&allocated, revision);
    }

    /// Renames the address.
    pub(crate) fn evolve_claimed(&mut self, claimed: &AddressClaimed, revision: Revision) {
        let Some(block) = block_mut(&mut self.blocks, claimed.block) else { return };
        let place = Place { ip: claimed.ip, block_len: claimed.block.prefix_len() };
        self.names.remove(&claimed.reserve, claimed.ip);
        self.names.insert(&claimed.name, place);
        let offset = prefix::offset(claimed.block, claimed.ip);
        block.addresses.insert(offset, Address { name: claimed.name.clone(), revision });
    }
}
