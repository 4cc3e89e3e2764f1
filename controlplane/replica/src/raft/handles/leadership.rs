//! Leadership: whether this replica leads, and leadership transfer.

use romana_statemachine::Term;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::raft::peer::message::{PeerRequest, PeerResponse};
use crate::raft::{Role, Shared, TransferError};

/// Leadership of this replica, and its transfer.
#[derive(Clone, Copy)]
pub struct Leadership<'a>(pub(in crate::raft) &'a Shared);

impl Leadership<'_> {
    /// The term in which this replica leads; `None` while it does not lead.
    #[must_use]
    pub fn watch(self) -> watch::Receiver<Option<Term>> {
        let (send, receive) = watch::channel(self.0.view.get().leads);
        let (mut news, stop) = (self.0.view.watch(), self.0.stop.clone());
        self.0.tasks.spawn(async move {
            loop {
                let leads = news.borrow_and_update().leads;
                send.send_if_modified(|now| std::mem::replace(now, leads) != leads);
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = send.closed() => return,
                    changed = news.changed() => if changed.is_err() { break },
                }
            }
            send.send_replace(None);
        });
        receive
    }

    /// Transfers leadership to another voter, from any replica. Returns once the transfer was requested; watch
    /// [`super::Members::status`] for the result.
    ///
    /// # Errors
    /// [`TransferError`].
    pub async fn transfer(self, to: u64, deadline: Instant) -> Result<(), TransferError> {
        let seen = self.0.view.get();
        if !seen.voters.contains(&to) {
            return Err(TransferError::NotVoter { to });
        }
        let unavailable = |why: String| TransferError::Unavailable { why };
        let leader = seen.leader.ok_or_else(|| unavailable("no leader is known".into()))?;
        if leader == self.0.id() {
            return self.0.host.hand_over(to).await.map_err(unavailable);
        }
        let peer = seen.members.get(&leader);
        let peer = peer.ok_or_else(|| unavailable("the leader's address is not known".into()))?;
        let answer = self.0.links.to(leader, peer).call(PeerRequest::HandOver(to), deadline).await;
        match answer.map_err(|error| unavailable(error.to_string()))? {
            PeerResponse::HandedOver(result) => result.map_err(unavailable),
            other => Err(unavailable(other.misfit())),
        }
    }

    /// If this replica leads, transfers leadership to the most advanced healthy voter, and waits until that voter
    /// leads.
    ///
    /// # Errors
    /// [`TransferError::Unavailable`] when there is no such voter, or it did not take over by `deadline`.
    pub async fn hand_over(self, deadline: Instant) -> Result<(), TransferError> {
        let status = self.0.members().status();
        if status.leader != Some(self.0.id()) {
            return Ok(());
        }
        let unavailable = |why: &str| TransferError::Unavailable { why: why.into() };
        let heirs = status.members.iter().filter(|member| {
            member.id != self.0.id() && member.healthy && member.role == Role::Follower
        });
        let heir = heirs.min_by_key(|member| member.lag);
        let heir = heir.ok_or_else(|| unavailable("no other voter is healthy"))?.id;
        self.transfer(heir, deadline).await?;
        let mut news = self.0.view.watch();
        let gone = timeout_at(deadline, news.wait_for(|seen| seen.leads.is_none())).await;
        gone.map(|_| ()).map_err(|_| unavailable("nobody took over in time"))
    }
}
