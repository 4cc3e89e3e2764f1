//! Virtual IPs: renewals of the hosts' leases, and the leader's decisions about them.

use romana_statemachine::command::PlaceVip;
use romana_statemachine::lease::{LeaseLeft, VipAnswer, VipRenewal};
use romana_statemachine::{State, Term, version};
use tokio::time::Instant;

use super::agents::unavailable;
use crate::raft::peer::message::{PeerRequest, PeerResponse};
use crate::raft::{ReadError, Shared};

/// Leases of virtual IPs.
#[derive(Clone, Copy)]
pub struct Vips<'a>(pub(in crate::raft) &'a Shared);

impl Vips<'_> {
    /// Renews a host's leases with the leader, which may be this replica.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`]: there is no leader that a quorum confirms, or it did not answer by `deadline`.
    pub async fn renew(
        self,
        renewal: VipRenewal,
        deadline: Instant,
    ) -> Result<VipAnswer, ReadError> {
        match self.0.agents().ask_leader(PeerRequest::RenewVips(renewal), deadline).await? {
            PeerResponse::VipsRenewed(answer) => answer.map_err(|why| unavailable(&why)),
            other => Err(unavailable(&other.misfit())),
        }
    }

    /// The grants that may not be over, as the leader knows them.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`]: the leader did not answer.
    pub async fn leases(self, deadline: Instant) -> Result<Vec<LeaseLeft>, ReadError> {
        if self.0.with_state(State::version) < version::VIP_PLACEMENT {
            return Ok(Vec::new());
        }
        match self.0.agents().ask_leader(PeerRequest::VipLeases, deadline).await? {
            PeerResponse::VipLeases(Some(leases)) => Ok(leases),
            PeerResponse::VipLeases(None) => Err(unavailable("the leader has just changed")),
            other => Err(unavailable(&other.misfit())),
        }
    }

    /// As the leader of this term: the moves to propose now. Call it only after leadership in the term was confirmed
    /// once ([`super::Reads::linearize`]). Each outcome must be reported ([`Self::decided`]).
    #[must_use]
    pub fn step(self, term: Term) -> Vec<PlaceVip> {
        let host = &self.0.host;
        let step = host
            .leases
            .of_term(term, &host.machine, |book, state, now| book.step(state, term, now));
        step.unwrap_or_default()
    }

    /// As the leader of this term: the outcome of a move is known.
    pub fn decided(self, term: Term, place: &PlaceVip) {
        let host = &self.0.host;
        _ = host.leases.of_term(term, &host.machine, |book, state, _| {
            state.vip(&place.name).into_iter().for_each(|vip| book.decided(vip.ip));
        });
    }

    /// Waits until a host gives up an address that it was granted.
    pub async fn given_up(self) {
        self.0.host.leases.given_up().await;
    }
}
