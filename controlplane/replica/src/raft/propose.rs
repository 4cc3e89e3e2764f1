//! Proposing: through the local proposer while this replica leads, else through the leader.

use romana_statemachine::limits::ENTRY_COMMANDS_MAX;
use romana_statemachine::{Outcome, Proposal};
use tokio::time::Instant;

use crate::raft::known::view::pause;
use crate::raft::peer::link::CallError;
use crate::raft::peer::message::{Batch, NotCommitted, PeerRequest, PeerResponse};
use crate::raft::{ProposeError, Replica, Shared, proposer};

impl Replica {
    /// Commits proposals: all of them in one log entry, or none. Each is decided separately; the outcomes are in the
    /// order of the proposals. On return they are applied on the leader, and on this replica only if it leads.
    ///
    /// As long as nothing was sent, waits for a missing or changing leader until `deadline`.
    ///
    /// # Errors
    /// [`ProposeError`]; only with [`ProposeError::Unknown`] can the proposals have been committed.
    pub async fn propose(
        &self,
        proposals: Vec<Proposal>,
        deadline: Instant,
    ) -> Result<Vec<Outcome>, ProposeError> {
        self.0.propose(proposals, deadline).await
    }
}

impl Shared {
    /// [`Replica::propose`].
    pub(super) async fn propose(
        &self,
        proposals: Vec<Proposal>,
        deadline: Instant,
    ) -> Result<Vec<Outcome>, ProposeError> {
        let commands = proposals.len();
        if commands == 0 {
            return Ok(Vec::new());
        }
        let (commands_max, bytes_max) = (ENTRY_COMMANDS_MAX, proposer::BATCH_BYTES_MAX);
        let too_large = ProposeError::TooLarge { commands, commands_max, bytes_max };
        let batch = Batch::new(&proposals).ok_or(too_large)?;
        let mut news = self.view.watch();
        loop {
            let why = match self.propose_once(&batch, deadline).await {
                Ok(outcomes) => return Ok(outcomes),
                Err(NotCommitted::Busy) => return Err(ProposeError::Busy),
                Err(NotCommitted::Unknown(why)) => return Err(ProposeError::Unknown { why }),
                Err(NotCommitted::NotLeader) => "no leader is known".into(),
                Err(NotCommitted::Unavailable(why)) => why,
            };
            if let Some(why) = self.health().fault() {
                return Err(ProposeError::Unavailable { why });
            }
            if !pause(&mut news, deadline).await {
                return Err(ProposeError::Unavailable { why });
            }
        }
    }

    async fn propose_once(
        &self,
        batch: &Batch,
        deadline: Instant,
    ) -> Result<Vec<Outcome>, NotCommitted> {
        let Some(leader) = self.view.leader() else { return Err(NotCommitted::NotLeader) };
        if leader == self.id() {
            return self.host.proposer.propose(batch.clone(), deadline).await;
        }
        let Some(peer) = self.view.peer(leader) else { return Err(NotCommitted::NotLeader) };
        // The leader gives up a little earlier, so that its answer still arrives in time.
        let within = deadline.saturating_duration_since(Instant::now()) * 9 / 10;
        let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        let ask = PeerRequest::Propose { batch: batch.clone(), within_ms };
        match self.links.to(leader, &peer).call(ask, deadline).await {
            Ok(PeerResponse::Proposed(result)) => result,
            Ok(PeerResponse::Failed(why)) => Err(NotCommitted::Unknown(why)),
            Ok(other) => Err(NotCommitted::Unknown(other.misfit())),
            Err(CallError::NotSent(why)) => Err(NotCommitted::Unavailable(why)),
            Err(CallError::Lost(why)) => Err(NotCommitted::Unknown(why)),
        }
    }
}
