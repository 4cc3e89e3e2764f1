//! Applies events: one line per event. It cannot fail, and it follows the event even where today's `decide` would
//! choose differently.

use alloc::sync::Arc;

use super::State;
use crate::command::HostState;
use crate::event::Event;
use crate::hold;
use crate::host;
use crate::ipam;
use crate::report;
use crate::tenant;
use crate::topology;
use crate::version;
use crate::vip;

impl State {
    /// Applies an event to the state. The caller updates revision, time and digest.
    pub(crate) fn evolve(&mut self, event: &Event) {
        self.end_source(event);
        match event {
            Event::TopologySet(set) => topology::evolve_set(self, set),
            Event::BlackoutAdded(added) => self.ipam.add_blackout(added.cidr),
            Event::BlackoutRemoved(removed) => self.ipam.remove_blackout(removed.cidr),
            Event::VersionRaised(raised) => version::evolve_raised(self, raised.version),
            Event::SettingsChanged(settings) => self.settings = settings.clone(),
            Event::HostAdded(added) => host::evolve_added(self, added),
            Event::HostUpdated(updated) => host::evolve_updated(self, updated),
            Event::HostDown(host) => host::evolve_state(self, &host.name, HostState::Down),
            Event::HostUp(host) => host::evolve_state(self, &host.name, HostState::Up),
            Event::HostDraining(host) => host::evolve_state(self, &host.name, HostState::Draining),
            Event::HostRemoved(removed) => host::evolve_removed(self, &removed.name),
            Event::BlockAssigned(assigned) => ipam::evolve_assigned(self, assigned),
            Event::BlockReleased(released) => self.ipam.evolve_released(released, self.revision),
            Event::AddressAllocated(allocated) => {
                self.ipam.evolve_allocated(allocated, self.revision);
            }
            Event::AddressReleased(released) => ipam::evolve_released(self, released),
            Event::CooldownsEnded(ended) => self.ipam.evolve_cooled(ended.released_until),
            Event::TenantCreated(created) => tenant::evolve_created(self, created),
            Event::TenantDeleted(deleted) => _ = self.tenants.remove(&deleted.id),
            Event::SegmentCreated(created) => tenant::evolve_segment(self, created),
            Event::SegmentDeleted(deleted) => tenant::evolve_segment_deleted(self, deleted),
            Event::PolicySet(policy) => {
                _ = self.policies.insert(policy.name.clone(), Arc::new(policy.clone()));
            }
            Event::PolicyRemoved(removed) => _ = self.policies.remove(&removed.name),
            Event::EndpointSet(endpoint) => {
                _ = self.endpoints.insert(endpoint.ip, Arc::new(endpoint.clone()));
            }
            Event::EndpointRemoved(removed) => _ = self.endpoints.remove(&removed.ip),
            Event::VipRequested(spec) => vip::evolve_requested(self, spec),
            Event::VipAssigned(assigned) => vip::evolve_assigned(self, assigned),
            Event::VipUnassigned(unassigned) => vip::evolve_unassigned(self, &unassigned.name),
            Event::VipRemoved(removed) => vip::evolve_removed(self, &removed.name),
            Event::RouterAssigned(assigned) => vip::evolve_router(self, assigned),
            Event::RouterUnassigned(gone) => vip::evolve_router_gone(self, gone),
            Event::RetentionSet(retention) => self.retention = retention.clone(),
            Event::CheckpointSigned(signed) => self.signed = Some(signed.clone()),
            Event::MemberAdded(added) => self.members.evolve_added(added),
            Event::MemberClaimed(claimed) => self.members.evolve_claimed(claimed),
            Event::MemberRemoved(removed) => self.members.evolve_removed(removed.id),
            Event::Restored(_) => hold::evolve_restored(self),
            Event::HostReported(reported) => hold::evolve_reported(self, &reported.host),
            Event::AllocationResumed(_) => self.held = None,
            Event::AddressAdopted(adopted) => self.ipam.evolve_adopted(adopted, self.revision),
            Event::AddressClaimed(claimed) => self.ipam.evolve_claimed(claimed, self.revision),
            Event::ConflictsReported(reported) => report::evolve_conflicts(self, reported),
            Event::AgentSettingsChanged(settings) => self.agent_settings = settings.clone(),
            Event::AgentEnrolled(enrolled) => self.evolve_enrolled(enrolled),
            Event::ServicesReserved(reserved) => {
                self.ipam.services = reserved.ranges.iter().copied().collect();
            }
            Event::SourceSet(set) => self.evolve_source(set),
            Event::VipPlaced(placed) => vip::evolve_placed(self, placed),
            Event::VipPoolsSet(set) => vip::evolve_pools(self, set),
        }
    }
}
