//! Which agent speaks for a host, since version 4. Two agents under one host name would each release what the
//! other runs: the log names one of them, and the other is refused.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::event::Event;
use crate::host;
use crate::name::{HostName, InstanceId};
use crate::refusal::Refusal;
use crate::snapshot::Snapshot4;
use crate::state::State;

/// The version of behaviour that knows this module.
pub const VERSION: u16 = 4;

/// An agent that wants to speak for a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolAgent {
    /// The host, which must exist.
    pub host: HostName,
    /// What the agent's state directory calls itself.
    pub instance: InstanceId,
    /// The agent in whose place it comes, because nothing is heard of that one any more.
    #[serde(default)]
    pub replaces: Option<InstanceId>,
}

/// An agent speaks for a host now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentEnrolled {
    /// The host.
    pub host: HostName,
    /// The agent.
    pub instance: InstanceId,
    /// The one that did before.
    pub replaces: Option<InstanceId>,
}

/// An agent that was refused because another one speaks for its host. Not in the log: the leader remembers it for
/// a while, so that people see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedAgent {
    /// The host that it says it is.
    pub host: HostName,
    /// What it calls itself.
    pub instance: InstanceId,
    /// The name of the machine it runs on.
    pub machine: String,
}

/// Idempotent: who speaks for the host already may say so again.
pub(crate) fn decide(state: &State, enrol: &EnrolAgent) -> Result<Vec<Event>, Refusal> {
    let current = state.version;
    if current < VERSION {
        return Err(Refusal::VersionTooLow { needed: VERSION, current });
    }
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
    Ok(alloc::vec![Event::AgentEnrolled(AgentEnrolled { host, instance, replaces })])
}

impl State {
    /// The agent that speaks for a host; `None`: none has said so yet.
    #[must_use]
    pub fn agent_of(&self, host: &HostName) -> Option<&InstanceId> {
        self.agents.instances.get(host)
    }

    pub(crate) fn evolve_enrolled(&mut self, enrolled: &AgentEnrolled) {
        self.agents.instances.insert(enrolled.host.clone(), enrolled.instance.clone());
    }
}

impl Snapshot4 {
    pub(crate) fn of(state: &State) -> Self {
        let agents = state.agents.instances.iter();
        let agents = agents.map(|(host, instance)| (host.clone(), instance.clone()));
        Self { agents: agents.collect(), services: state.service_ranges().collect() }
    }
}
