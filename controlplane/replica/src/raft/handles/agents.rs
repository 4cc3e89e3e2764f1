//! Agents: their heartbeats, and those that were turned away.

use romana_statemachine::agent::{Heartbeat, HeartbeatAge, RefusedAgent};
use romana_statemachine::{State, version};
use tokio::time::Instant;

use crate::raft::peer::message::{PeerRequest, PeerResponse};
use crate::raft::{ReadError, Shared};

/// What the agents of the hosts have said.
#[derive(Clone, Copy)]
pub struct Agents<'a>(pub(in crate::raft) &'a Shared);

impl Agents<'_> {
    /// Takes an agent's heartbeat, and passes it on to the leader soon.
    pub fn heartbeat(self, heartbeat: Heartbeat) {
        self.0.host.pulse.wait(heartbeat);
    }

    /// Notes an agent for whose host another one speaks, and tells the leader soon.
    pub fn refuse(self, agent: RefusedAgent) {
        self.0.host.pulse.wait_refused(agent);
    }

    /// What this replica has heard as the leader.
    #[must_use]
    pub fn heard(self) -> Vec<HeartbeatAge> {
        self.0.host.pulse.heard()
    }

    /// What the leader has heard; nothing while the cluster does not know heartbeats.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`]: the leader does not say.
    pub async fn heard_by_leader(self, deadline: Instant) -> Result<Vec<HeartbeatAge>, ReadError> {
        if self.0.with_state(State::version) < version::HEARTBEATS {
            return Ok(Vec::new());
        }
        match self.ask_leader(PeerRequest::Heard, deadline).await? {
            PeerResponse::Heard(Some(heard)) => Ok(heard),
            _ => Err(unavailable("the leader has just changed")),
        }
    }

    /// Agents that were refused lately, as the leader knows; none while the cluster does not know of that.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`]: the leader does not say.
    pub async fn refused(self, deadline: Instant) -> Result<Vec<RefusedAgent>, ReadError> {
        if self.0.with_state(State::version) < version::ENROLMENT {
            return Ok(Vec::new());
        }
        match self.ask_leader(PeerRequest::RefusedAgents, deadline).await? {
            PeerResponse::RefusedAgents(Some(agents)) => Ok(agents),
            _ => Err(unavailable("the leader has just changed")),
        }
    }

    /// The answer of the leader, which may be this replica.
    async fn ask_leader(
        self,
        ask: PeerRequest,
        deadline: Instant,
    ) -> Result<PeerResponse, ReadError> {
        let seen = self.0.view.get();
        let leader = seen.leader.ok_or_else(|| unavailable("no leader is known"))?;
        if leader == self.0.id() {
            return Ok(self.0.host.answer(ask).await);
        }
        let peer = seen.members.get(&leader).ok_or_else(|| unavailable("no leader is known"))?;
        let answer = self.0.links.to(leader, peer).call(ask, deadline).await;
        answer.map_err(|error| unavailable(&error.to_string()))
    }
}

fn unavailable(why: &str) -> ReadError {
    ReadError::Unavailable { why: why.into() }
}
