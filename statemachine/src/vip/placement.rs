//! Which host has a VIP, according to the log. Since version 4.
//!
//! A placement is not a lease: the host may answer for the VIP only while the leader grants it ([`crate::lease`]). The
//! leader proposes a placement only when no other host can have a grant for the address any more.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::{Vip, find};
use crate::command::{HostState, PlaceVip};
use crate::entry::{Millis, Revision};
use crate::event::{Event, VipPlaced, VipReason};
use crate::host;
use crate::name::{HostName, InstanceId, VipName};
use crate::refusal::Refusal;
use crate::state::State;
use crate::version::VIP_PLACEMENT;

/// The host that has a VIP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VipPlacement {
    pub host: HostName,
    /// The revision since which the host has it.
    pub since: Revision,
    /// Log time of that revision.
    pub at: Millis,
    /// Why it came to this host.
    pub reason: VipReason,
    /// How long the host may answer for it after each renewal, milliseconds.
    pub grant_ms: u64,
}

impl Vip {
    /// The event that moves it.
    pub(super) fn placed(&self, to: Option<HostName>, reason: VipReason, grant_ms: u64) -> Event {
        let from = self.placement.as_ref().map(|placement| placement.host.clone());
        let (name, ip) = (self.name.clone(), self.ip);
        Event::VipPlaced(VipPlaced { name, ip, from, to, reason, grant_ms })
    }

    /// Applies a move to it, which was recorded at this revision and time.
    pub fn placed_by(&mut self, placed: &VipPlaced, since: Revision, at: Millis) {
        let before = self.placement.take();
        let (reason, grant_ms) = (placed.reason, placed.grant_ms);
        self.placement = placed.to.as_ref().map(|to| match before {
            // The holder stays: it has the VIP since then and for that reason.
            Some(before) if before.host == *to => VipPlacement { grant_ms, ..before },
            _ => VipPlacement { host: to.clone(), since, at, reason, grant_ms },
        });
    }
}

/// Refuses the commands that [`PlaceVip`] replaces.
pub(super) fn check_replaced(state: &State, command: &str) -> Result<(), Refusal> {
    if state.version < VIP_PLACEMENT {
        return Ok(());
    }
    let (command, replacement) = (command.into(), "PlaceVip".into());
    Err(Refusal::CommandReplaced { command, replacement, version: VIP_PLACEMENT })
}

pub(crate) fn decide_place(state: &State, place: &PlaceVip) -> Result<Vec<Event>, Refusal> {
    let vip = find(state, &place.name)?;
    let (holder, since) = (vip.placement.as_ref(), state.vip_since(vip));
    let other = holder.map(|placement| &placement.host) != place.from.as_ref();
    if other || place.since.is_some_and(|seen| seen != since) {
        let holder = holder.map(|placement| placement.host.clone());
        return Err(Refusal::VipHolderDiffers { vip: vip.name.clone(), holder, since });
    }
    let grant_ms = state.settings.vip_lease_ms;
    let unchanged = match (holder, &place.to) {
        (None, None) => true,
        (Some(placement), Some(to)) => placement.host == *to && placement.grant_ms == grant_ms,
        _ => false,
    };
    if unchanged {
        return Ok(Vec::new());
    }
    if let Some(to) = place.to.as_ref().filter(|to| place.from.as_ref() != Some(*to)) {
        check_fit(state, vip, to, place.agent.as_ref())?;
    }
    Ok(vec![vip.placed(place.to.clone(), place.reason, grant_ms)])
}

/// Refuses a host that may not get the VIP, or whose agent is another one.
fn check_fit(
    state: &State,
    vip: &Vip,
    name: &HostName,
    agent: Option<&InstanceId>,
) -> Result<(), Refusal> {
    let Some(host) = state.host(name) else { return Err(host::not_found(state, name)) };
    let why = match host.state {
        _ if !vip.is_candidate(name) => "it is not one of its candidates",
        _ if state.agent_of(name) != agent => "another agent speaks for it",
        HostState::Up => return Ok(()),
        HostState::Draining => "it is draining",
        HostState::Down => "it is down",
    };
    let (vip, host) = (vip.name.clone(), name.clone());
    Err(Refusal::HostNotCandidate { vip, host, why: why.into() })
}

pub(crate) fn evolve_placed(state: &mut State, placed: &VipPlaced) {
    let Some(mut vip) = state.vip(&placed.name).cloned() else { return };
    vip.placed_by(placed, state.revision, state.at);
    match vip.placement {
        Some(_) => _ = state.vips_vacant.remove(&placed.name),
        None => vacate(state, &placed.name),
    }
    state.vip_grant_max_ms = state.vip_grant_max_ms.max(placed.grant_ms);
    state.vips.insert(placed.name.clone(), Arc::new(vip));
}

/// No host has the VIP, from this revision on.
pub(super) fn vacate(state: &mut State, name: &VipName) {
    state.vips_vacant.insert(name.clone(), state.revision);
}

/// When the version is raised: takes the VIPs that have a lease in log time from their holders.
pub(crate) fn leased(state: &State) -> Vec<Event> {
    let leased = state.vips().filter(|vip| vip.holder.is_some());
    leased.filter_map(|vip| vip.unassigned(VipReason::First)).collect()
}

/// The version was raised: fences in log time end. No release answered for VIPs under them.
pub(crate) fn forget_leases(state: &mut State) {
    state.vip_fences.clear();
}

/// A restored cluster places its VIPs again: the hosts of the old one may have other grants.
pub(crate) fn forget_placements(state: &mut State) {
    let placed: Vec<Vip> = state.vips().filter(|vip| vip.placement.is_some()).cloned().collect();
    for vip in placed {
        vacate(state, &vip.name);
        state.vips.insert(vip.name.clone(), Arc::new(Vip { placement: None, ..vip }));
    }
}

impl State {
    /// The revision since which a VIP has been with its host, or with none. 0: with none since before version 4.
    #[must_use]
    pub fn vip_since(&self, vip: &Vip) -> Revision {
        let placed = vip.placement.as_ref().map(|placement| placement.since);
        placed.or_else(|| self.vips_vacant.get(&vip.name).copied()).unwrap_or_default()
    }

    /// The longest grant that any host may have been given for a VIP, milliseconds; 0: none was given.
    #[must_use]
    pub fn vip_grant_max_ms(&self) -> u64 {
        self.vip_grant_max_ms
    }
}
