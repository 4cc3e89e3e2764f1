//! Plausibility checks for numbers from other replicas: each is compared with what this replica knows before it is
//! used.
//!
//! One message with a term of 2⁶⁴−1 would end a cluster permanently: every replica would adopt and persist that
//! term, and no higher term would be left to elect a leader in. So a number far beyond what a cluster can have
//! reached since this replica last had contact is refused, in every message, request or response; and so is a
//! number to which one cannot be added. A connection that carries such a message is closed, or the request is not
//! answered; this is logged, and counted by `romanad_peer_messages_refused_total`.
//!
//! Out of scope: whether a plausible message is true. The holder of a replica certificate is trusted.

use std::io;

use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest, VoteResponse};
use romana_statemachine::Revision;

use crate::raft::peer::message::{Appended, PeerStatus};
use crate::raft::store::log::Known;
use crate::raft::store::types::{LogId, Membership, SnapshotMeta, TypeConfig, Vote};

/// How far ahead a term may be: with an election every 150 ms, twenty years of elections.
const TERM_AHEAD_MAX: u64 = 1 << 32;
/// How far ahead an entry or a revision may be: at a million per second, nine years of entries.
const INDEX_AHEAD_MAX: u64 = 1 << 48;
/// Upper bound of every term, index and revision: one can be added to it, and to the sum.
pub(in crate::raft) const NUMBER_MAX: u64 = 1 << 62;

/// A message that no correct replica of this cluster sends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::raft) enum Implausible {
    /// A number is far ahead of what is known.
    #[error("{what} {value} is far beyond {known}, the highest that this replica knows")]
    Ahead {
        /// Kind of the number.
        what: &'static str,
        value: u64,
        known: u64,
    },
    /// Entries that are not consecutive.
    #[error("{what}")]
    Inconsistent {
        /// The inconsistency.
        what: String,
    },
}

type Checked = Result<(), Implausible>;

impl From<Implausible> for io::Error {
    fn from(error: Implausible) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// Whether an error was caused by an [`Implausible`] message.
pub(in crate::raft) fn is_implausible(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Implausible>())
}

fn ahead(what: &'static str, value: u64, known: u64, most: u64) -> Checked {
    if value <= known.saturating_add(most).min(NUMBER_MAX) {
        return Ok(());
    }
    Err(Implausible::Ahead { what, value, known })
}

fn inconsistent(what: impl Into<String>) -> Checked {
    Err(Implausible::Inconsistent { what: what.into() })
}

impl Known {
    fn term(&self, term: u64) -> Checked {
        let most = if self.joins { NUMBER_MAX } else { TERM_AHEAD_MAX };
        ahead("term", term, self.term, most)
    }

    /// Checks the index of an entry.
    pub(in crate::raft) fn index(&self, index: u64) -> Checked {
        ahead("entry", index, self.index, INDEX_AHEAD_MAX)
    }

    /// Checks a revision: a log of n entries can have thousands of times as many revisions.
    pub(in crate::raft) fn revision(&self, revision: Revision) -> Checked {
        ahead("revision", revision.get(), self.index, INDEX_AHEAD_MAX)
    }

    fn vote(&self, vote: &Vote) -> Checked {
        self.term(vote.leader_id.term)
    }

    fn log_id(&self, id: Option<&LogId>) -> Checked {
        let Some(id) = id else { return Ok(()) };
        self.term(id.leader_id.term)?;
        self.index(id.index)
    }

    /// Checks a vote request: the sender must be the candidate.
    pub(in crate::raft) fn vote_request(
        &self,
        from: u64,
        request: &VoteRequest<TypeConfig>,
    ) -> Checked {
        self.vote(&request.vote)?;
        self.log_id(request.last_log_id.as_ref())?;
        own_vote(from, &request.vote, false)
    }

    /// Checks a vote response.
    pub(in crate::raft) fn vote_response(&self, response: &VoteResponse<TypeConfig>) -> Checked {
        self.vote(&response.vote)?;
        self.log_id(response.last_log_id.as_ref())
    }

    /// Checks an append request: consecutive entries with non-decreasing terms, from their leader.
    pub(in crate::raft) fn append(
        &self,
        from: u64,
        request: &AppendEntriesRequest<TypeConfig>,
    ) -> Checked {
        self.vote(&request.vote)?;
        own_vote(from, &request.vote, true)?;
        self.log_id(request.prev_log_id.as_ref())?;
        self.log_id(request.leader_commit.as_ref())?;
        let mut next = request.prev_log_id.map_or(0, |id| id.index + 1);
        let mut term = request.prev_log_id.map_or(0, |id| id.leader_id.term);
        for entry in &request.entries {
            let id = &entry.log_id;
            self.log_id(Some(id))?;
            if id.index != next || id.leader_id.term < term {
                return inconsistent(format!(
                    "entry {id} does not follow entry {next} or its term"
                ));
            }
            (next, term) = (id.index + 1, id.leader_id.term);
        }
        if term > request.vote.leader_id.term {
            let leads = request.vote.leader_id.term;
            return inconsistent(format!(
                "the leader of term {leads} sends an entry of term {term}"
            ));
        }
        Ok(())
    }

    /// Checks an append response: a follower acknowledges only what it was sent, up to entry `sent`.
    pub(in crate::raft) fn appended(&self, sent: u64, appended: &Appended) -> Checked {
        match appended {
            Appended::HigherVote(vote) => self.vote(vote),
            Appended::Upto(None) => Ok(()),
            Appended::Upto(Some(id)) | Appended::Conflict(id) => {
                self.term(id.leader_id.term)?;
                if id.index > sent {
                    return inconsistent(format!(
                        "entry {id} was not sent: the last one is {sent}"
                    ));
                }
                Ok(())
            }
        }
    }

    /// Checks the head of a snapshot.
    pub(in crate::raft) fn snapshot(
        &self,
        from: u64,
        vote: &Vote,
        meta: &SnapshotMeta,
        revision: Revision,
    ) -> Checked {
        self.vote(vote)?;
        own_vote(from, vote, true)?;
        self.log_id(meta.last_log_id.as_ref())?;
        self.membership(&meta.last_membership)?;
        self.revision(revision)
    }

    /// Checks the follower's response at the end of a snapshot.
    pub(in crate::raft) fn installed(&self, vote: &Vote) -> Checked {
        self.vote(vote)
    }

    fn membership(&self, membership: &Membership) -> Checked {
        self.log_id(membership.log_id().as_ref())
    }

    /// Checks a leadership transfer.
    pub(in crate::raft) fn transfer(&self, request: &TransferLeaderRequest<TypeConfig>) -> Checked {
        self.vote(request.from_leader())?;
        self.log_id(request.last_log_id())
    }

    /// Checks the position of a replica.
    pub(in crate::raft) fn position(&self, term: u64, next: u64) -> Checked {
        self.term(term)?;
        self.index(next)
    }

    /// Checks the status of a peer.
    pub(in crate::raft) fn status(&self, status: &PeerStatus) -> Checked {
        self.term(status.term.get())?;
        self.index(status.applied)?;
        self.revision(status.revision)
    }
}

/// A candidate requests votes only for itself, and a leader sends entries and snapshots only in its own term.
fn own_vote(from: u64, vote: &Vote, committed: bool) -> Checked {
    if vote.leader_id.voted_for == from && vote.committed == committed {
        return Ok(());
    }
    inconsistent(format!("replica {from} sends the vote {vote}, which is not its own"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(term: u64, index: u64) -> Known {
        Known { term, index, joins: false }
    }

    #[test]
    fn what_a_cluster_can_reach_is_believed() {
        for (known, term, believed) in [
            (known(0, 0), TERM_AHEAD_MAX, true),
            (known(0, 0), TERM_AHEAD_MAX + 1, false),
            (known(7, 0), TERM_AHEAD_MAX + 7, true),
            (known(7, 0), 0, true),
            (known(7, 0), u64::MAX, false),
            (known(NUMBER_MAX, 0), NUMBER_MAX, true),
            (known(NUMBER_MAX, 0), NUMBER_MAX + 1, false),
            (known(u64::MAX, 0), u64::MAX, false),
            (Known { joins: true, ..known(0, 0) }, NUMBER_MAX, true),
            (Known { joins: true, ..known(0, 0) }, u64::MAX, false),
        ] {
            assert_eq!(known.term(term).is_ok(), believed, "{known:?}, {term}");
        }
        // A replica that is new or was offline for years accepts any index that can occur.
        assert!(known(0, 0).index(INDEX_AHEAD_MAX).is_ok());
        assert!(known(0, 0).index(INDEX_AHEAD_MAX + 1).is_err());
        assert!(known(0, u64::MAX).index(u64::MAX).is_err());
        assert!(known(0, 5).revision(Revision(u64::MAX)).is_err());
    }

    #[test]
    fn a_refusal_says_what_and_how_far() {
        let why = known(4, 0).term(u64::MAX).unwrap_err().to_string();
        assert_eq!(
            why,
            "term 18446744073709551615 is far beyond 4, the highest that this replica knows"
        );
        assert!(is_implausible(&known(4, 0).term(u64::MAX).unwrap_err().into()));
        assert!(!is_implausible(&io::ErrorKind::InvalidData.into()));
    }

    #[test]
    fn nothing_is_acknowledged_that_was_not_sent() {
        let id = |index| LogId::new_term_index(1, index);
        let known = known(1, 100);
        assert!(known.appended(9, &Appended::Upto(Some(id(9)))).is_ok());
        assert!(known.appended(9, &Appended::Upto(Some(id(10)))).is_err());
        assert!(known.appended(9, &Appended::Conflict(id(10))).is_err());
        assert!(known.appended(9, &Appended::Upto(None)).is_ok());
    }
}
