//! Agents: their heartbeats, the agents that were refused, and what they ask about their pods.

use std::sync::Arc;

use romana_statemachine::agent::{Heartbeat, HeartbeatAge, PodRef, RefusedAgent};
use romana_statemachine::name::SegmentId;
use romana_statemachine::{State, version};
use tokio::time::Instant;

use crate::pods::Pods;
use crate::raft::peer::message::{PeerRequest, PeerResponse};
use crate::raft::{ReadError, Shared};

/// Heartbeats of the host agents, and refused agents.
#[derive(Clone, Copy)]
pub struct Agents<'a>(pub(in crate::raft) &'a Shared);

impl Agents<'_> {
    /// Accepts an agent's heartbeat; it is forwarded to the leader in the next batch.
    pub fn heartbeat(self, heartbeat: Heartbeat) {
        self.0.host.pulse.wait(heartbeat);
    }

    /// Records an agent that was refused because its host already has another one; the leader is told in the next
    /// batch.
    pub fn refuse(self, agent: RefusedAgent) {
        self.0.host.pulse.wait_refused(agent);
    }

    /// The heartbeats that this replica received as the leader.
    #[must_use]
    pub fn heard(self) -> Vec<HeartbeatAge> {
        self.0.host.pulse.heard()
    }

    /// The heartbeats that the leader has; empty while the cluster version has no heartbeats.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`]: the leader did not answer.
    pub async fn heard_by_leader(self, deadline: Instant) -> Result<Vec<HeartbeatAge>, ReadError> {
        if self.0.with_state(State::version) < version::HEARTBEATS {
            return Ok(Vec::new());
        }
        match self.ask_leader(PeerRequest::Heard, deadline).await? {
            PeerResponse::Heard(Some(heard)) => Ok(heard),
            _ => Err(unavailable("the leader has just changed")),
        }
    }

    /// Agents that were refused recently, as known to the leader; empty while the cluster version does not report
    /// them.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`]: the leader did not answer.
    pub async fn refused(self, deadline: Instant) -> Result<Vec<RefusedAgent>, ReadError> {
        if self.0.with_state(State::version) < version::ENROLMENT {
            return Ok(Vec::new());
        }
        match self.ask_leader(PeerRequest::RefusedAgents, deadline).await? {
            PeerResponse::RefusedAgents(Some(agents)) => Ok(agents),
            _ => Err(unavailable("the leader has just changed")),
        }
    }

    /// Registers what knows the pods, once per replica.
    pub fn know_pods(self, pods: Arc<dyn Pods>) {
        _ = self.0.host.pods.set(pods);
    }

    /// The segment of a pod, as known to the leader; `None`: the pod is not known, or the cluster version does not ask.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`]: the leader did not answer.
    pub async fn pod_segment(
        self,
        pod: PodRef,
        deadline: Instant,
    ) -> Result<Option<SegmentId>, ReadError> {
        if self.0.with_state(State::version) < version::SOURCES {
            return Ok(None);
        }
        match self.ask_leader(PeerRequest::PodSegment(pod), deadline).await? {
            PeerResponse::PodSegment(Some(segment)) => Ok(segment),
            _ => Err(unavailable("the leader has just changed")),
        }
    }

    /// The leader's answer; this replica may be the leader.
    pub(super) async fn ask_leader(
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

pub(super) fn unavailable(why: &str) -> ReadError {
    ReadError::Unavailable { why: why.into() }
}
