//! Past states, and the proof that the history leads to the current state.

use std::time::Instant;

use romana_api::audit::Proof;
use romana_statemachine::{Digest, FollowError, Revision, State};
use romana_storage::history::{History, HistoryError};

use super::Audit;
use super::checkpoint::{CheckpointError, CheckpointStore};
use crate::Cancel;
use crate::retention::{CheckpointId, Checkpoints};

const CHUNK_RECORDS: usize = 4096;
const CHUNK_BYTES: usize = 4 << 20;

/// Why a past state is unavailable.
#[derive(Debug, thiserror::Error)]
pub enum PastError {
    /// It is older than the kept history.
    #[error("revision {wanted} is no longer kept: the oldest state is that of revision {oldest}")]
    Gone {
        wanted: Revision,
        /// The oldest revision whose state is available.
        oldest: Revision,
    },
    /// The history cannot be read.
    #[error("the history cannot be read")]
    History(#[from] HistoryError),
    /// The history does not continue from a state.
    #[error("the history is broken")]
    Broken(#[from] FollowError),
    /// A checkpoint differs from what the history leads to.
    #[error("the checkpoint of revision {revision} is not what the history leads to")]
    OtherCheckpoint { revision: Revision },
    /// A checkpoint is damaged.
    #[error("a checkpoint is damaged")]
    Checkpoint(#[from] CheckpointError),
    /// The state in memory differs from what the history leads to.
    #[error("the state in memory is not what the history leads to at revision {revision}")]
    OtherState { revision: Revision },
    /// The caller has gone.
    #[error("nobody waits for it")]
    Cancelled,
}

/// The state from which the history is replayed to a revision: a checkpoint, or the empty state.
fn base(
    store: &CheckpointStore,
    history: &History,
    revision: Revision,
) -> Result<State, PastError> {
    if let Some(state) = store.before(revision) {
        return Ok(state);
    }
    let (start, _) = history.start();
    if start > 0 {
        let oldest = store.list().first().map_or_else(|| history.last().0, |first| first.revision);
        return Err(PastError::Gone { wanted: revision, oldest });
    }
    Ok(State::new())
}

/// Computes the state at a revision by replay. Blocks.
pub(super) fn replay(
    store: &CheckpointStore,
    history: &History,
    revision: Revision,
    cancel: &Cancel,
) -> Result<State, PastError> {
    let mut state = base(store, history, revision)?;
    follow(&mut state, history, revision, cancel, |_| Ok(()))?;
    Ok(state)
}

impl Checkpoints for CheckpointStore {
    fn list(&self) -> Vec<CheckpointId> {
        self.all()
    }

    fn hold(&self, revision: Revision) -> Result<CheckpointId, String> {
        let there = self.at(revision);
        let checkpoint = match there {
            Some(checkpoint) => checkpoint,
            None => {
                let state = replay(self, self.history(), revision, &Cancel::default());
                let state = state.map_err(|error| error.to_string())?;
                self.write(&state).map_err(|error| error.to_string())?
            }
        };
        self.keep(revision);
        Ok(checkpoint)
    }
}

/// Replays a history up to a revision; `look` sees the state after every record.
fn follow(
    state: &mut State,
    history: &History,
    revision: Revision,
    cancel: &Cancel,
    mut look: impl FnMut(&State) -> Result<(), PastError>,
) -> Result<(), PastError> {
    while state.revision() < revision {
        if cancel.is_cancelled() {
            return Err(PastError::Cancelled);
        }
        let next = state.revision().next();
        let records = history.read(next, CHUNK_RECORDS, CHUNK_BYTES)?;
        if records.is_empty() {
            return Err(FollowError::Gap { have: state.revision(), got: revision }.into());
        }
        for record in records.iter().take_while(|record| record.revision <= revision) {
            state.follow(record)?;
            look(state)?;
        }
    }
    Ok(())
}

/// The first record of an export, and the state before it: the empty state, or that of the first checkpoint at or
/// after `from`.
#[derive(Clone, Debug)]
pub struct Base {
    pub first: Revision,
    pub state: State,
}

impl Audit {
    /// Where an export may begin: at `from`, or as early as possible without it. Blocks.
    ///
    /// # Errors
    /// [`PastError`].
    pub fn base(&self, from: Option<Revision>, cancel: &Cancel) -> Result<Base, PastError> {
        let (start, _) = self.0.shared.history.start();
        let earliest = match start {
            Revision(0) => Revision(0),
            start => {
                let first = self.checkpoints().list().into_iter().map(|at| at.revision);
                let first = first.filter(|at| *at >= start).min();
                let last = self.0.shared.history.last().0;
                first.ok_or(PastError::Gone { wanted: start, oldest: last })?
            }
        };
        let before = from.map_or(earliest, |from| from.minus(1));
        Ok(Base { first: before.next(), state: self.state_at(before, cancel)? })
    }

    /// The checkpoint store.
    #[must_use]
    pub fn checkpoints(&self) -> &CheckpointStore {
        &self.0.store
    }

    /// The state at a revision that the history has reached. Blocks for the duration of a replay.
    ///
    /// # Errors
    /// [`PastError`].
    pub fn state_at(&self, revision: Revision, cancel: &Cancel) -> Result<State, PastError> {
        replay(self.checkpoints(), &self.0.shared.history, revision, cancel)
    }

    /// Reads and folds the whole history up to a state: every digest of the chain, every checkpoint on the way and
    /// the state itself must match. Returns the digests at `at`, which the state must have reached. Blocks for a long
    /// time.
    ///
    /// # Errors
    /// [`PastError`]: the first mismatch.
    pub fn prove(&self, live: &State, at: Revision, cancel: &Cancel) -> Result<Proof, PastError> {
        let started = Instant::now();
        let (store, history) = (self.checkpoints(), &self.0.shared.history);
        let (start, digest) = history.start();
        let revision = live.revision();
        let mut expected: Vec<Revision> = store.list().into_iter().map(|id| id.revision).collect();
        expected.retain(|at| *at <= revision && *at >= start);
        let mut state = State::new();
        if start > 0 {
            // Before the first checkpoint only the chain of digests can be checked.
            let first = expected.first().copied();
            let first = first.ok_or(PastError::Gone { wanted: start, oldest: revision })?;
            state = store.read(first)?;
            chain(history, (start, digest), (first, state.digest()), cancel)?;
        }
        let checkpoints = expected.len() as u64;
        let mut told = (at == state.revision()).then(|| (state.digest(), state.state_digest()));
        follow(&mut state, history, revision, cancel, |state| {
            if state.revision() == at {
                told = Some((state.digest(), state.state_digest()));
            }
            if expected.binary_search(&state.revision()).is_err() {
                return Ok(());
            }
            let other = store.read(state.revision())?;
            let same =
                other.digest() == state.digest() && other.state_digest() == state.state_digest();
            let revision = state.revision();
            if same { Ok(()) } else { Err(PastError::OtherCheckpoint { revision }) }
        })?;
        if (state.digest(), state.state_digest()) != (live.digest(), live.state_digest()) {
            return Err(PastError::OtherState { revision });
        }
        let gone = || PastError::Gone { wanted: at, oldest: history.oldest() };
        let (digest, state_digest) = told.ok_or_else(gone)?;
        let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let oldest = history.oldest();
        Ok(Proof { oldest, revision: at, digest, state_digest, checkpoints, took_ms })
    }
}

/// Checks the chain of digests from one record to another.
fn chain(
    history: &History,
    from: (Revision, Digest),
    to: (Revision, Digest),
    cancel: &Cancel,
) -> Result<(), PastError> {
    let (mut revision, mut digest) = from;
    while revision < to.0 {
        if cancel.is_cancelled() {
            return Err(PastError::Cancelled);
        }
        for record in history.read(revision.next(), CHUNK_RECORDS, CHUNK_BYTES)? {
            if revision == to.0 {
                break;
            }
            if !record.follows(&digest) {
                return Err(FollowError::Chain { revision: record.revision }.into());
            }
            (revision, digest) = (record.revision, record.digest);
        }
    }
    if digest == to.1 { Ok(()) } else { Err(PastError::OtherCheckpoint { revision }) }
}
