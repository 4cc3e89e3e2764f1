//! Has a checkpoint signed when the history exceeds the retention, so that every replica may purge the
//! records before it.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::BoxFuture;
use romana_replica::ProposeError;
use romana_replica::retention::{CheckpointId, excess};
use romana_statemachine::command::{Retention as Wanted, SignCheckpoint};
use romana_statemachine::{Command, Revision};
use tokio::time::Instant;

use super::{LeaderContext, Pass};

/// Interval between passes.
const PERIOD: Duration = Duration::from_secs(2);
/// Timeout for the replicas' checkpoints. A replica may have to replay to create one; the next pass then finds it.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// The task that has checkpoints signed.
#[derive(Debug)]
pub struct Retention;

/// Result of comparing the replicas' checkpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// A majority has this checkpoint, and no replica has a different one.
    Sign(CheckpointId),
    /// Too few replicas have it.
    Wait,
    /// A replica has a different state.
    Differ,
}

/// Judges the answers of the voters.
fn judge(said: &BTreeMap<u64, Result<CheckpointId, String>>) -> Verdict {
    let mut words = said.values().filter_map(|said| said.as_ref().ok());
    let Some(first) = words.next() else { return Verdict::Wait };
    if words.any(|other| other != first) {
        return Verdict::Differ;
    }
    let agree = said.values().filter(|said| said.is_ok()).count();
    if agree * 2 > said.len() { Verdict::Sign(*first) } else { Verdict::Wait }
}

/// The checkpoint to sign: the newest one before the end of the excess history; if there
/// is none, a new one at that point.
fn candidate(list: &[CheckpointId], excess: Revision, signed: Revision) -> Option<Revision> {
    let revisions = list.iter().map(|standing| standing.revision);
    let newest = revisions.filter(|revision| *revision <= excess && *revision > signed).max();
    newest.or_else(|| (excess > signed).then_some(excess))
}

impl Retention {
    /// The checkpoint to sign now, if any.
    async fn wanted(&self, context: &LeaderContext) -> Option<Revision> {
        let (wanted, signed) = context.replica.with_state(|state| {
            let signed = state.signed().map(|signed| signed.revision);
            (state.retention().clone(), signed.unwrap_or_default())
        });
        if wanted == Wanted::default() {
            return None;
        }
        let (history, checkpoints) =
            (context.replica.history().clone(), context.replica.evidence().checkpoints()?);
        // Purging is irreversible, so age is measured by the time that a majority of the clocks confirm.
        let now = context.replica.clocks().confirmed_time().unwrap_or_default();
        let look = move || {
            let excess = excess(&history.segments()?, &wanted, now);
            let candidate = candidate(&checkpoints.list(), excess, signed);
            Ok::<_, romana_storage::history::HistoryError>(candidate)
        };
        match tokio::task::spawn_blocking(look).await.ok()? {
            Ok(candidate) => candidate,
            Err(error) => {
                tracing::warn!(%error, "cannot read the size of the history");
                None
            }
        }
    }
}

impl Pass for Retention {
    type Error = ProposeError;

    const NAME: &'static str = "retention";
    const PERIOD: Duration = PERIOD;

    fn pass<'a>(&'a self, context: &'a LeaderContext) -> BoxFuture<'a, Result<(), ProposeError>> {
        Box::pin(async move {
            let Some(revision) = self.wanted(context).await else { return Ok(()) };
            let said = context
                .replica
                .evidence()
                .checkpoints_at(revision, Instant::now() + ASK_TIMEOUT)
                .await;
            let CheckpointId { revision, digest, state_digest } = match judge(&said) {
                Verdict::Sign(standing) if standing.revision == revision => standing,
                Verdict::Sign(_) | Verdict::Wait => {
                    tracing::debug!(revision = revision.get(), ?said, "checkpoint not signed yet");
                    return Ok(());
                }
                Verdict::Differ => {
                    let said = said.iter().map(|(id, said)| match said {
                        Ok(at) => format!("replica {id} has {}", at.state_digest),
                        Err(why) => format!("replica {id}: {why}"),
                    });
                    let said = said.collect::<Vec<_>>().join("; ");
                    let what = format!(
                        "the replicas have different states at revision {revision}, so no checkpoint is signed \
                         and no history purged: {said}"
                    );
                    context.report("StatesDiffer", Some(what));
                    return Ok(());
                }
            };
            let sign = SignCheckpoint { term: context.term, revision, digest, state_digest };
            context.report("StatesDiffer", None);
            let outcomes = context.propose([Command::SignCheckpoint(sign)]).await?;
            match outcomes.into_iter().next().map(|outcome| outcome.result) {
                Some(Err(refusal)) => tracing::warn!(%refusal, "cannot sign the checkpoint"),
                _ => tracing::info!(revision = revision.get(), "checkpoint signed"),
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use romana_statemachine::Digest;

    use super::*;

    fn standing(revision: Revision, state: &[u8]) -> CheckpointId {
        CheckpointId { revision, digest: Digest::of(b"d"), state_digest: Digest::of(state) }
    }

    #[test]
    fn a_majority_signs_if_nobody_differs() {
        let said = |words: &[Option<&str>]| {
            let word = |word: &Option<&str>| {
                word.map(|word| standing(Revision(7), word.as_bytes()))
                    .ok_or_else(|| "none".to_owned())
            };
            judge(&(1..).zip(words.iter().map(word)).collect())
        };
        let sign = Verdict::Sign(standing(Revision(7), b"a"));
        assert_eq!(said(&[Some("a"), Some("a"), Some("a")]), sign);
        assert_eq!(said(&[Some("a"), None, Some("a")]), sign);
        assert_eq!(said(&[None, Some("a"), None]), Verdict::Wait);
        assert_eq!(said(&[Some("a"), Some("a"), Some("b")]), Verdict::Differ);
        assert_eq!(said(&[Some("a")]), sign);
        assert_eq!(said(&[Some("a"), None]), Verdict::Wait);
        assert_eq!(said(&[]), Verdict::Wait);
    }

    #[test]
    fn the_newest_checkpoint_before_what_should_go_is_signed() {
        let list: Vec<CheckpointId> =
            [10, 20, 30].map(|revision| standing(Revision(revision), b"a")).into();
        let candidate =
            |list: &[CheckpointId], go, signed| candidate(list, Revision(go), Revision(signed));
        assert_eq!(candidate(&list, 29, 0), Some(Revision(20)));
        assert_eq!(candidate(&list, 30, 20), Some(Revision(30)));
        assert_eq!(candidate(&list, 29, 20), Some(Revision(29)), "made where it is needed");
        assert_eq!(candidate(&list, 9, 0), Some(Revision(9)));
        assert_eq!(candidate(&[], 100, 0), Some(Revision(100)));
        assert_eq!(candidate(&list, 20, 20), None);
        assert_eq!(candidate(&list, 0, 0), None);
    }
}
