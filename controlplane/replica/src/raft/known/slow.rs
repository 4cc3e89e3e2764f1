//! A leader with a slow disk hands over leadership.
//!
//! With a slow disk a leader still commits through its followers, but operations that need its own disk (a
//! vote, the reply to a follower that catches up) wait. The rule: when each fsync of the log took longer
//! than [`SLOW`] during [`PATIENCE`], the leader asks the most advanced follower to take over; then not
//! again for [`PAUSE`], so that replicas that are all slow do not pass leadership around.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::raft::Replica;

/// A longer fsync is slow.
const SLOW: Duration = Duration::from_millis(250);
/// How long all fsyncs must have been slow.
const PATIENCE: Duration = Duration::from_secs(3);
/// Minimum time between two hand-overs.
const PAUSE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(500);
const ASK_MAX: Duration = Duration::from_secs(2);

/// When fsyncs became slow, and when the last one ended. Clones share it.
#[derive(Clone, Debug, Default)]
pub(in crate::raft) struct Slowness(Arc<Mutex<Option<(Instant, Instant)>>>);

impl Slowness {
    fn slow(&self) -> MutexGuard<'_, Option<(Instant, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records an fsync that ended at `now` and its duration.
    pub(in crate::raft) fn note(&self, took: Duration, now: Instant) {
        let mut slow = self.slow();
        *slow = match *slow {
            _ if took <= SLOW => None,
            Some((since, _)) => Some((since, now)),
            None => Some((now - took, now)),
        };
    }

    /// Whether all recent fsyncs were slow.
    fn lasts(&self, now: Instant) -> bool {
        self.slow().is_some_and(|(since, last)| {
            now.duration_since(since) >= PATIENCE && now.duration_since(last) < PATIENCE
        })
    }
}

/// Watches a replica as long as it exists.
pub(in crate::raft) async fn watch(replica: impl Fn() -> Option<Replica>, slowness: Slowness) {
    let mut clock = interval(LOOK_EVERY);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut again: Option<Instant> = None;
    loop {
        let now = clock.tick().await;
        if again.is_some_and(|again| now < again) || !slowness.lasts(now) {
            continue;
        }
        let Some(replica) = replica() else { return };
        if replica.members().status().leader != Some(replica.id()) {
            continue;
        }
        again = Some(now + PAUSE);
        tracing::warn!("the disk is slow: transferring leadership");
        if let Err(why) = replica.leadership().hand_over(Instant::now() + ASK_MAX).await {
            tracing::warn!(%why, "cannot transfer leadership");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_fast_sync_begins_anew() {
        let (slowness, start) = (Slowness::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let half = Duration::from_millis(500);
        for ms in [1000, 2000, 3000] {
            slowness.note(half, at(ms));
        }
        assert!(!slowness.lasts(at(3100)));
        slowness.note(half, at(3600));
        assert!(slowness.lasts(at(3600)));
        assert!(!slowness.lasts(at(9000)), "nothing was written for long");
        slowness.note(Duration::from_millis(1), at(3700));
        assert!(!slowness.lasts(at(3700)));
    }
}
