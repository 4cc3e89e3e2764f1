//! Decides commands: one line per command, after the checks common to all commands.

use alloc::vec::Vec;

use super::{Now, State};
use crate::address;
use crate::command::Command;
use crate::endpoint;
use crate::enrolment;
use crate::event::{Event, ResumedBy};
use crate::hold;
use crate::host;
use crate::ipam;
use crate::members;
use crate::policy;
use crate::refusal::Refusal;
use crate::report;
use crate::reserve;
use crate::retention;
use crate::settings;
use crate::source;
use crate::tenant;
use crate::topology;
use crate::version;
use crate::vip;

impl State {
    /// Determines the events of a command, without changing the state.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn decide(&self, command: &Command, now: Now) -> Result<Vec<Event>, Refusal> {
        version::check(self, command)?;
        check_term(command, now)?;
        match command {
            Command::SetTopology(spec) => topology::decide_set(self, spec, now),
            Command::AddBlackout(blackout) => ipam::decide_blackout(self, blackout),
            Command::RemoveBlackout(blackout) => ipam::decide_unblackout(self, blackout),
            Command::ChangeSettings(change) => settings::decide(self, change),
            Command::RaiseVersion(raise) => version::decide_raise(self, raise.version),
            Command::AddHost(spec) => host::decide_add(self, spec),
            Command::UpdateHost(change) => host::decide_update(self, change),
            Command::SetHostState(change) => host::decide_state(self, change),
            Command::RemoveHost(remove) => host::decide_remove(self, remove, now),
            Command::ReportHost(report) => report::decide_names(self, report, now),
            Command::AllocateAddress(ask) => ipam::decide_allocate(self, ask, now),
            Command::ReleaseAddress(ask) => ipam::decide_release(self, ask, now),
            Command::CreateTenant(spec) => tenant::decide_create(self, spec),
            Command::DeleteTenant(tenant) => tenant::decide_delete(self, tenant),
            Command::CreateSegment(spec) => tenant::decide_create_segment(self, spec),
            Command::DeleteSegment(segment) => tenant::decide_delete_segment(self, segment),
            Command::SetPolicy(policy) => policy::decide_set(self, policy),
            Command::RemovePolicy(policy) => policy::decide_remove(self, policy),
            Command::SetEndpoint(endpoint) => endpoint::decide_set(self, endpoint),
            Command::RemoveEndpoint(endpoint) => endpoint::decide_remove(self, endpoint),
            Command::RequestVip(spec) => vip::decide_request(self, spec),
            Command::AssignVip(assign) => vip::decide_assign(self, assign, now),
            Command::UnassignVip(unassign) => vip::decide_unassign(self, unassign),
            Command::RemoveVip(vip) => vip::decide_remove(self, vip),
            Command::AssignRouter(assign) => vip::decide_assign_router(self, assign),
            Command::UnassignRouter(unassign) => vip::decide_unassign_router(self, unassign),
            Command::EndCooldowns(_) => Ok(ipam::end_cooldowns(self, now.at)),
            Command::SetRetention(wanted) => retention::decide(self, wanted),
            Command::SignCheckpoint(sign) => retention::decide_sign(self, sign),
            Command::AddMember(add) => members::decide_add(self, add),
            Command::ClaimMember(claim) => members::decide_claim(self, claim),
            Command::RemoveMember(member) => members::decide_remove(self, member),
            Command::ResumeAllocation(_) => Ok(hold::resume(self, ResumedBy::Operator)),
            Command::ReportAttachments(report) => report::decide_attachments(self, report, now),
            Command::ClaimReserve(claim) => reserve::decide_claim(self, claim),
            Command::ChangeAgentSettings(change) => settings::decide_agents(self, change),
            Command::EndHold(_) => Ok(hold::resume(self, ResumedBy::Timeout)),
            Command::EnrolAgent(enrol) => enrolment::decide(self, enrol),
            Command::ReserveServices(reserve) => address::decide_reserve(self, reserve),
            Command::ImportObject(import) => source::decide_import(self, import),
            Command::WithdrawObject(withdraw) => source::decide_withdraw(self, withdraw, now),
            Command::FollowKubernetes(follow) => source::decide_follow(self, follow),
            Command::PlaceVip(place) => vip::decide_place(self, place),
            Command::SetVipPools(set) => vip::decide_pools(self, set),
            Command::RequestVipFromPool(request) => vip::decide_from_pool(self, request),
        }
    }
}

/// Refuses a command that a leader task decided in an earlier term.
fn check_term(command: &Command, now: Now) -> Result<(), Refusal> {
    match command.term() {
        Some(term) if term != now.term => Err(Refusal::StaleTerm { term, current: now.term }),
        _ => Ok(()),
    }
}
