//! Which agent is enrolled for a host, since version 4. Two agents under one host name would each release the
//! addresses that the other uses, so the log records one of them, and the other is refused.

use alloc::vec::Vec;

use crate::command::EnrolAgent;
use crate::event::{AgentEnrolled, Event, VipReason};
use crate::host;
use crate::name::{HostName, InstanceId};
use crate::refusal::Refusal;
use crate::state::State;
use crate::vip;

/// Idempotent: the enrolled agent may enrol again.
pub(crate) fn decide(state: &State, enrol: &EnrolAgent) -> Result<Vec<Event>, Refusal> {
    let EnrolAgent { host, instance, replaces } = enrol.clone();
    instance.check()?;
    if state.host(&host).is_none() {
        return Err(host::not_found(state, &enrol.host));
    }
    let present = state.agent_of(&host);
    match present {
        Some(present) if *present == instance => return Ok(Vec::new()),
        Some(present) if replaces.as_ref() != Some(present) => {
            return Err(Refusal::HostHasAgent { host, instance: present.clone() });
        }
        _ => {}
    }
    let replaces = present.cloned();
    // The old agent may be on another machine, and hold the host's VIPs under a grant.
    let held = vip::release(state, &enrol.host, VipReason::AgentReplaced);
    let enrolled = Event::AgentEnrolled(AgentEnrolled { host, instance, replaces });
    Ok(held.chain([enrolled]).collect())
}

impl State {
    /// The agent enrolled for a host; `None`: none yet.
    #[must_use]
    pub fn agent_of(&self, host: &HostName) -> Option<&InstanceId> {
        self.agents.get(host)
    }

    pub(crate) fn evolve_enrolled(&mut self, enrolled: &AgentEnrolled) {
        self.agents.insert(enrolled.host.clone(), enrolled.instance.clone());
    }
}
