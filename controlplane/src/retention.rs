//! How long the history is kept.
//!
//! ```text
//!   leader task:  too much is kept ─► newest checkpoint before it ─► all agree ─► SignCheckpoint
//!   each replica: signed, held here, in a snapshot ─► whole segments before it are purged
//! ```
//!
//! What is purged is gone on every replica, so it is vouched for first: the replicas agree on the state
//! at a checkpoint, and a record further on in the kept history says so for ever. What is kept
//! begins at or before that checkpoint, so its chain of digests leads through the signature.
//!
//! Laws:
//! 1. Nothing after the last signed checkpoint is purged, nor the open segment.
//! 2. A replica purges only what its own newest snapshot and its own durable checkpoint cover.
//! 3. Without a retention nothing is ever purged.
//!
//! Left out: the agreement itself (`tasks::retention`).

use std::sync::Arc;
use std::time::Duration;

use romana_statemachine::command::Retention;
use romana_statemachine::event::CheckpointSigned;
use romana_statemachine::{Digest, Millis, Revision};
use serde::{Deserialize, Serialize};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::history::{History, HistoryError, SegmentInfo};
use crate::raft::Replica;

/// How often a replica looks whether something is to be purged.
const EVERY: Duration = Duration::from_secs(1);
/// The open segment is closed when it has this part of what may be kept, so that it can go in time.
const PARTS: u64 = 8;

/// What a checkpoint is, in short: the same on all replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Its revision.
    pub revision: Revision,
    /// Digest of the history up to there.
    pub digest: Digest,
    /// Digest of the state there.
    pub state_digest: Digest,
}

impl Standing {
    /// Whether this is what was signed.
    #[must_use]
    pub fn is(&self, signed: &CheckpointSigned) -> bool {
        let CheckpointSigned { revision, digest, state_digest } = *signed;
        *self == Self { revision, digest, state_digest }
    }
}

/// Who keeps states of the past.
pub trait Checkpoints: Send + Sync + 'static {
    /// The checkpoints that are durable, oldest first.
    fn list(&self) -> Vec<Standing>;

    /// Makes the checkpoint at `revision` durable, by replay if it is not there, and keeps it while
    /// the history begins before it. Blocks on the disk.
    ///
    /// # Errors
    /// Why it cannot be had, for logs.
    fn hold(&self, revision: Revision) -> Result<Standing, String>;
}

/// Up to which revision a history may go; 0: nothing. `segments` are oldest first, the last is open.
#[must_use]
pub fn excess(segments: &[SegmentInfo], retention: &Retention, now: Millis) -> Revision {
    let closed = segments.len().saturating_sub(1);
    let mut bytes: u64 = segments.iter().map(|segment| segment.bytes).sum();
    let mut excess = 0;
    for segment in segments.iter().take(closed) {
        let is_old = retention
            .age_ms
            .is_some_and(|age| segment.ended.is_some_and(|ended| ended.plus(age) < now));
        let is_too_much = retention.bytes.is_some_and(|max| bytes > max);
        if !is_old && !is_too_much {
            break;
        }
        bytes = bytes.saturating_sub(segment.bytes);
        excess = segment.last;
    }
    excess
}

/// Whether the open segment should be closed, so that what is in it can go in time.
#[must_use]
pub fn is_full(open: &SegmentInfo, retention: &Retention, now: Millis) -> bool {
    let Some(began) = open.began else { return false };
    let is_old = retention.age_ms.is_some_and(|age| began.plus(age / PARTS) < now);
    is_old || retention.bytes.is_some_and(|max| open.bytes > max / PARTS)
}

/// Purges this replica's history by its own checkpoints, as the state says, until `stop`.
pub async fn keep(replica: Replica, stop: CancellationToken) {
    let keeper: Arc<dyn Checkpoints> = Arc::new(replica.audit().checkpoints().clone());
    replica.keep_checkpoints(Arc::clone(&keeper));
    run(replica, keeper, stop).await;
}

/// Purges this replica's history, as the state says, until `stop`.
pub async fn run(replica: Replica, checkpoints: Arc<dyn Checkpoints>, stop: CancellationToken) {
    let mut clock = interval(EVERY);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut trouble = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = clock.tick() => {}
        }
        let why = pass(&replica, &checkpoints).await.err();
        if let Some(why) = why.as_ref().filter(|_| why != trouble) {
            tracing::warn!(why, "the history is not purged");
        }
        trouble = why;
    }
}

/// Looks once, and purges what may go.
///
/// # Errors
/// Why it cannot, for logs; the next pass tries again.
pub async fn pass(replica: &Replica, checkpoints: &Arc<dyn Checkpoints>) -> Result<(), String> {
    let (retention, signed) =
        replica.with_state(|state| (state.retention().clone(), state.signed().cloned()));
    if retention == Retention::default() {
        return Ok(());
    }
    let (history, now) = (replica.history().clone(), replica.confirmed_time().unwrap_or_default());
    let look = move || look(&history, &retention, now);
    let oldest_end = blocking(look).await?.map_err(|error| error.to_string())?;
    let Some(signed) = signed.filter(|signed| oldest_end <= signed.revision) else {
        return Ok(());
    };
    let (keeper, revision) = (Arc::clone(checkpoints), signed.revision);
    let held = blocking(move || keeper.hold(revision)).await??;
    if !held.is(&signed) {
        return Err(format!(
            "the checkpoint held is that of revision {} with digest {} and state digest {}, and revision \
             {revision} with {} and {} was signed",
            held.revision, held.digest, held.state_digest, signed.digest, signed.state_digest
        ));
    }
    if replica.snapshot_revision() < revision {
        return replica.snapshot().await;
    }
    let history = replica.history().clone();
    let purge = move || history.purge_before(revision);
    let oldest = blocking(purge).await?.map_err(|error| error.to_string())?;
    tracing::info!(oldest, signed = revision, "history purged");
    Ok(())
}

/// Closes the open segment if it is full; the end of the oldest closed one, or the greatest revision.
fn look(history: &History, retention: &Retention, now: Millis) -> Result<Revision, HistoryError> {
    let segments = history.segments()?;
    if segments.last().is_some_and(|open| is_full(open, retention, now)) {
        history.close_segment()?;
    }
    let oldest = segments.first().filter(|_| segments.len() > 1);
    Ok(oldest.map_or(Revision::MAX, |oldest| oldest.last))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Segments of 10 records and 100 bytes, one every 1 000 ms.
    fn segments(count: u64) -> Vec<SegmentInfo> {
        let segment = |at: u64| SegmentInfo {
            first: at * 10 + 1,
            last: at * 10 + 10,
            bytes: 100,
            began: Some(Millis(at * 1_000)),
            ended: (at + 1 < count).then_some(Millis(at * 1_000 + 999)),
        };
        (0..count).map(segment).collect()
    }

    fn retention(age_ms: Option<u64>, bytes: Option<u64>) -> Retention {
        Retention { age_ms, bytes }
    }

    #[test]
    fn what_is_old_or_too_much_may_go_but_not_the_open_segment() {
        let now = Millis(10_000);
        let may_go = |age, bytes| excess(&segments(10), &retention(age, bytes), now);
        assert_eq!(may_go(None, None), 0);
        assert_eq!(may_go(Some(20_000), None), 0);
        assert_eq!(may_go(Some(9_001), None), 0);
        assert_eq!(may_go(Some(9_000), None), 10);
        assert_eq!(may_go(Some(5_500), None), 40);
        assert_eq!(may_go(Some(1), None), 90);
        assert_eq!(may_go(None, Some(1_000)), 0);
        assert_eq!(may_go(None, Some(999)), 10);
        assert_eq!(may_go(None, Some(450)), 60);
        assert_eq!(may_go(None, Some(1)), 90);
        assert_eq!(may_go(Some(5_500), Some(999)), 40);
        assert_eq!(excess(&segments(1), &retention(Some(1), Some(1)), now), 0);
        assert_eq!(excess(&[], &retention(Some(1), Some(1)), now), 0);
    }

    #[test]
    fn an_open_segment_is_closed_at_an_eighth() {
        let open = segments(1)[0];
        let full = |age, bytes, now| is_full(&open, &retention(age, bytes), Millis(now));
        assert!(!full(None, None, u64::MAX));
        assert!(!full(Some(8_000), None, 1_000));
        assert!(full(Some(8_000), None, 1_001));
        assert!(!full(None, Some(800), 0));
        assert!(full(None, Some(799), 0));
        let empty = SegmentInfo { began: None, ..open };
        assert!(!is_full(&empty, &retention(Some(1), Some(1)), Millis(u64::MAX)));
    }
}
