//! Leases of VIPs, as the leader keeps them: in memory, one book per term ([`romana_statemachine::lease`]).
//!
//! A renewal is answered after a quorum has confirmed, since it arrived, that this replica leads. All renewals that
//! wait at the same time share one round with each other and with the linearizable reads ([`crate::raft::reads`]).

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use romana_statemachine::lease::{LeaderLeases, LeaseLeft, VipAnswer, VipRenewal};
use romana_statemachine::{State, Term};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::raft::peer::service::PeerService;
use crate::raft::reads::{ROUND_MAX, Reads};
use crate::raft::store::machine::Machine;

/// The leases that this replica keeps while it leads.
pub(in crate::raft) struct Leases {
    /// Times of leases count from here.
    began: Instant,
    book: Mutex<Option<(Term, LeaderLeases)>>,
    /// Confirms leadership; set once, when the replica starts.
    reads: OnceLock<Reads>,
    /// Notified when a host gave up an address, so that it can go elsewhere at once.
    given_up: Notify,
}

impl Default for Leases {
    fn default() -> Self {
        let (book, reads, given_up) = (Mutex::default(), OnceLock::new(), Notify::new());
        Self { began: Instant::now(), book, reads, given_up }
    }
}

impl Leases {
    /// Sets what confirms leadership.
    pub(in crate::raft) fn confirm_by(&self, reads: Reads) {
        _ = self.reads.set(reads);
    }

    /// Uses the leases of a term; the first use in a term begins them. What `machine` has applied must include
    /// everything that earlier leaders acknowledged.
    pub(in crate::raft) fn of_term<R>(
        &self,
        term: Term,
        machine: &Machine,
        act: impl FnOnce(&mut LeaderLeases, &State, Duration) -> R,
    ) -> Option<R> {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        // Both are read with the lock held. What is recorded first is earlier; and a host whose VIP was moved is not
        // granted it by a state from before the move, once the leases have forgotten that the VIP was leaving.
        let now = self.began.elapsed();
        let state = machine.with_state(State::clone);
        match &*book {
            Some((of, _)) if *of > term => return None,
            Some((of, _)) if *of == term => {}
            _ => {
                let longest = Duration::from_millis(state.vip_grant_max_ms());
                *book = Some((term, LeaderLeases::begin(now, longest)));
            }
        }
        book.as_mut().map(|(_, leases)| act(leases, &state, now))
    }

    /// Waits until a host gives up an address.
    pub(in crate::raft) async fn given_up(&self) {
        self.given_up.notified().await;
    }
}

impl PeerService {
    /// Answers a host's renewal, as the leader.
    pub(in crate::raft) async fn renew_vips(
        &self,
        renewal: &VipRenewal,
    ) -> Result<VipAnswer, String> {
        let (leases, arrived) = (&self.leases, self.leases.began.elapsed());
        let not_leading = || String::from("this replica does not lead");
        let term = self.view.get().leads.ok_or_else(not_leading)?;
        let reads = leases.reads.get().ok_or("this replica is starting")?;
        let deadline = Instant::now() + ROUND_MAX;
        let confirmed = timeout_at(deadline, reads.index()).await;
        let index = confirmed.map_err(|_| String::from("no quorum answers"))??;
        let applied = timeout_at(deadline, self.machine.wait_applied(index)).await;
        applied.map_err(|_| String::from("this replica is behind"))?;
        // Another replica may have been asked for the index, if it leads by now.
        if self.view.get().leads != Some(term) {
            return Err(not_leading());
        }
        let answered = leases.of_term(term, &self.machine, |book, state, _| {
            // One that is not enrolled can only give up.
            let enrolled = state.agent_of(&renewal.host) == Some(&renewal.instance);
            let gave_up = (enrolled || book.has_given(renewal)) && book.hear(renewal, arrived);
            (gave_up, book.grant(state, renewal, arrived))
        });
        let (gave_up, answer) = answered.ok_or_else(not_leading)?;
        if gave_up {
            leases.given_up.notify_one();
        }
        Ok(answer)
    }

    /// The grants that may not be over, as the leader.
    pub(in crate::raft) fn vip_leases(&self) -> Option<Vec<LeaseLeft>> {
        let term = self.view.get().leads?;
        let book = self.leases.book.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.leases.began.elapsed();
        // Leases of this term begin with a renewal or with the leader's task, not with a question: this replica may not
        // have applied everything yet.
        let leases = book.as_ref().filter(|(of, _)| *of == term);
        Some(leases.map(|(_, leases)| leases.left(now)).unwrap_or_default())
    }
}
