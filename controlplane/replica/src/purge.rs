//! Purges a replica's history step by step: what [`crate::retention`] allows and the cluster has signed.

use std::sync::Arc;
use std::time::Duration;

use romana_statemachine::command::Retention;
use romana_statemachine::event::CheckpointSigned;
use romana_statemachine::{Millis, Revision};
use romana_storage::history::{History, HistoryError};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::raft::Replica;
use crate::retention::{Checkpoints, excess, is_full, pause, step};

/// How often a replica checks whether something can be purged.
const EVERY: Duration = Duration::from_secs(1);

/// Purges this replica's history, with its own checkpoint store, as the state requires, until `stop`.
pub async fn keep(replica: Replica, stop: CancellationToken) {
    let keeper: Arc<dyn Checkpoints> = Arc::new(replica.audit().checkpoints().clone());
    replica.evidence().keep(Arc::clone(&keeper));
    run(replica, keeper, stop).await;
}

/// Purges this replica's history as the state requires, until `stop`.
pub async fn run(replica: Replica, checkpoints: Arc<dyn Checkpoints>, stop: CancellationToken) {
    let mut clock = interval(EVERY);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut trouble, mut stepped) = (None, Instant::now());
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = clock.tick() => {}
        }
        let why = pass(&replica, &checkpoints, &mut stepped).await.err();
        if let Some(why) = why.as_ref().filter(|_| why != trouble) {
            tracing::warn!(why, "cannot purge the history");
        }
        trouble = why;
    }
}

/// Checks once, and purges one step if allowed. `stepped`: time of the last step, or of the first check.
///
/// # Errors
/// Why it cannot purge, for logs; the next pass retries.
pub async fn pass(
    replica: &Replica,
    checkpoints: &Arc<dyn Checkpoints>,
    stepped: &mut Instant,
) -> Result<(), String> {
    let (retention, signed) =
        replica.with_state(|state| (state.retention().clone(), state.signed().cloned()));
    if retention == Retention::default() {
        return Ok(());
    }
    let (history, now) =
        (replica.history().clone(), replica.clocks().confirmed_time().unwrap_or_default());
    let pause = pause(&retention);
    let look = move || look(&history, &retention, now);
    let (oldest_end, may_go) = blocking(look).await?.map_err(|error| error.to_string())?;
    // What the leader found too old must also be too old for this replica, by the clocks it knows.
    let goes = |signed: &CheckpointSigned| oldest_end <= signed.revision.min(may_go);
    let Some(signed) = signed.filter(goes).filter(|_| stepped.elapsed() >= pause) else {
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
    if replica.snapshots().revision() < revision {
        return replica.snapshots().take().await;
    }
    let history = replica.history().clone();
    let purge = move || history.purge_before(revision.min(may_go));
    let oldest = blocking(purge).await?.map_err(|error| error.to_string())?;
    *stepped = Instant::now();
    tracing::info!(oldest = oldest.get(), signed = revision.get(), "history purged");
    Ok(())
}

/// Closes the open segment if it is full. Returns the end of the oldest closed segment (or the greatest revision),
/// and how far the next step may purge.
fn look(
    history: &History,
    retention: &Retention,
    now: Millis,
) -> Result<(Revision, Revision), HistoryError> {
    let segments = history.segments()?;
    if segments.last().is_some_and(|open| is_full(open, retention, now)) {
        history.close_segment()?;
    }
    let oldest = segments.first().filter(|_| segments.len() > 1);
    let oldest_end = oldest.map_or(Revision::MAX, |oldest| oldest.last);
    Ok((oldest_end, excess(&segments, retention, now).min(step(&segments, retention))))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())
}
