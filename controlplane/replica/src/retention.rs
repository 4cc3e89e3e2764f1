//! Retention: how long the history is kept.
//!
//! ```text
//!   leader task:  too much is kept ─► newest checkpoint before the excess ends ─► all agree ─► SignCheckpoint
//!   each replica: signed, held here, in a snapshot ─► purges whole segments before it, one step at a time
//! ```
//!
//! Purged records are gone on every replica, so the cluster signs first: the replicas agree on the state at a
//! checkpoint, and a later record in the kept history documents that permanently. The kept history begins at or
//! before that checkpoint, so its chain of digests includes the signed one.
//!
//! Laws:
//! 1. Nothing after the last signed checkpoint is purged, nor the open segment.
//! 2. A replica purges only what its own newest snapshot and its own durable checkpoint cover.
//! 3. Without a retention setting nothing is ever purged.
//! 4. Nothing is purged by age unless a majority of the replicas' clocks confirms the age, to the leader and to the
//!    replica that purges.
//! 5. The history is purged step by step ([`step`], [`pause`]), never all at once: a wrong clock or setting has done
//!    little damage when it is noticed.
//!
//! This module has the rules; [`crate::purge`] executes them. Out of scope: the agreement itself, a leader task.

use std::collections::BTreeMap;
use std::time::Duration;

use romana_statemachine::command::Retention;
use romana_statemachine::event::CheckpointSigned;
use romana_statemachine::{Digest, Millis, Revision};
use romana_storage::history::SegmentInfo;
use serde::{Deserialize, Serialize};

/// The open segment is closed at this fraction (1/n) of the allowed size or age, so that it can be purged in time.
const PARTS: u64 = 8;
/// A step purges at most this fraction (1/n) of what may be kept, or one segment if that is larger.
const STEPS: u64 = 64;
/// It also purges at most this fraction (1/n) of all segments, or one segment.
const PARTS_AT_ONCE: usize = 8;
/// Pause between two steps by age: this fraction (1/n) of the age, …
const PAUSES: u64 = 1_000;
/// … but at most this long.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Digests that identify a checkpoint: the same on all replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointId {
    pub revision: Revision,
    /// Digest of the history up to the checkpoint.
    pub digest: Digest,
    pub state_digest: Digest,
}

impl CheckpointId {
    /// Whether this checkpoint is the signed one.
    #[must_use]
    pub fn is(&self, signed: &CheckpointSigned) -> bool {
        let CheckpointSigned { revision, digest, state_digest } = *signed;
        *self == Self { revision, digest, state_digest }
    }
}

/// A store of checkpoints.
pub trait Checkpoints: Send + Sync + 'static {
    /// The durable checkpoints, oldest first.
    fn list(&self) -> Vec<CheckpointId>;

    /// Makes the checkpoint at `revision` durable, by replay if it is missing, and keeps it while
    /// the history begins before it. Blocks on the disk.
    ///
    /// # Errors
    /// Why it is unavailable, for logs.
    fn hold(&self, revision: Revision) -> Result<CheckpointId, String>;
}

/// Revision up to which the history may be purged; 0: nothing. `segments` are oldest first, the last is open.
#[must_use]
pub fn excess(segments: &[SegmentInfo], retention: &Retention, now: Millis) -> Revision {
    let closed = segments.len().saturating_sub(1);
    let mut bytes: u64 = segments.iter().map(|segment| segment.bytes).sum();
    let mut excess = Revision(0);
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

/// Where a purge step ends: after the oldest segment and the following ones, as long as they are a small fraction of
/// what may be kept. Before the oldest segment if only the open one is left.
#[must_use]
pub fn step(segments: &[SegmentInfo], retention: &Retention) -> Revision {
    let closed = &segments[..segments.len().saturating_sub(1)];
    let mut closed = closed.iter().take(closed.len().div_ceil(PARTS_AT_ONCE));
    let Some(first) = closed.next() else {
        return segments
            .first()
            .map_or(Revision(0), |open| Revision(open.first.get().saturating_sub(1)));
    };
    let (mut bytes, mut end) = (first.bytes, first.last);
    for next in closed {
        bytes = bytes.saturating_add(next.bytes);
        let is_short = retention.age_ms.is_some_and(|age| {
            let began = first.began.unwrap_or_default();
            next.ended.is_some_and(|ended| ended <= began.plus(age / STEPS))
        });
        let is_small = retention.bytes.is_some_and(|max| bytes <= max / STEPS);
        if !is_short && !is_small {
            break;
        }
        end = next.last;
    }
    end
}

/// Pause between two steps.
#[must_use]
pub fn pause(retention: &Retention) -> Duration {
    let by_age = retention.age_ms.map_or(Duration::ZERO, |age| Duration::from_millis(age / PAUSES));
    by_age.min(PAUSE_MAX)
}

/// Where a replica's history begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beginning {
    /// The oldest kept revision.
    pub oldest: Revision,
    /// Timestamp of that record.
    pub at: Millis,
    /// Upper bound of where the history begins after the next step of purging and one more segment: segment
    /// boundaries differ between replicas.
    pub next: Revision,
}

impl Beginning {
    /// The beginning of a history with these segments.
    #[must_use]
    pub fn of(segments: &[SegmentInfo], retention: &Retention) -> Self {
        let first = segments.first();
        let end = step(segments, retention);
        let closed = &segments[..segments.len().saturating_sub(1)];
        let further = closed.iter().find(|segment| segment.first > end);
        Self {
            oldest: first.map_or(Revision(1), |first| first.first),
            at: first.and_then(|first| first.began).unwrap_or_default(),
            next: further.map_or(end, |further| further.last).next(),
        }
    }
}

/// Inconsistencies between where the replicas' histories begin, as sentences. `signed`: revision of the last signed
/// checkpoint, or 0.
#[must_use]
pub fn differences(beginnings: &BTreeMap<u64, Beginning>, signed: Revision) -> Vec<String> {
    let lost = beginnings.iter().filter(|(_, it)| it.oldest > signed.next()).map(|(id, it)| {
        let oldest = it.oldest;
        format!(
            "the history of replica {id} begins at revision {oldest}, and nothing after revision {signed} was \
             to be purged: seed it anew from the others with `romana cluster replace {id}`"
        )
    });
    let mut found: Vec<String> = lost.collect();
    let Some((last_id, last)) = beginnings.iter().max_by_key(|(_, it)| it.oldest) else {
        return found;
    };
    let longer = beginnings.iter().filter(|(_, it)| it.next < last.oldest);
    found.extend(longer.map(|(id, it)| {
        let (oldest, latest) = (it.oldest, last.oldest);
        format!(
            "the history of replica {last_id} begins at revision {latest}, that of replica {id} at {oldest}: \
             that is more than one step of purging explains; the log of replica {id} says why it does not purge, \
             or replica {last_id} has lost something"
        )
    }));
    found
}

/// Whether the open segment should be closed, so that its records can be purged in time.
#[must_use]
pub fn is_full(open: &SegmentInfo, retention: &Retention, now: Millis) -> bool {
    let Some(began) = open.began else { return false };
    let is_old = retention.age_ms.is_some_and(|age| began.plus(age / PARTS) < now);
    is_old || retention.bytes.is_some_and(|max| open.bytes > max / PARTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Segments of 10 records and 100 bytes, one every 1 000 ms.
    fn segments(count: u64) -> Vec<SegmentInfo> {
        let segment = |at: u64| SegmentInfo {
            first: Revision(at * 10 + 1),
            last: Revision(at * 10 + 10),
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
    fn a_step_is_a_segment_or_a_small_part() {
        let all = segments(100);
        let end = |age, bytes| step(&all, &retention(age, bytes));
        assert_eq!(end(None, None), 10);
        assert_eq!(end(Some(64_000), None), 10);
        assert_eq!(end(Some(2 * 64_000 + 64), None), 20);
        assert_eq!(end(Some(u64::MAX), None), 130, "an eighth of 99");
        assert_eq!(end(None, Some(64 * 199)), 10);
        assert_eq!(end(None, Some(64 * 200)), 20);
        assert_eq!(end(Some(64), Some(64 * 300)), 30, "whichever is more");
        assert_eq!(step(&all[99..], &retention(Some(1), Some(1))), 990);
        assert_eq!(step(&[], &retention(Some(1), Some(1))), 0);
        let days = |days: u64| pause(&retention(Some(days * 86_400_000), Some(1)));
        assert_eq!(days(0), Duration::ZERO);
        assert_eq!(days(90), PAUSE_MAX);
        assert_eq!(pause(&retention(Some(2_000), None)), Duration::from_millis(2));
    }

    #[test]
    fn beginnings_that_one_step_does_not_explain_are_told() {
        let kept = |from: usize, count: u64| {
            Beginning::of(&segments(count)[from..], &retention(Some(2_000), None))
        };
        // Two closed segments after the beginning: one for the step, one for differing boundaries.
        let all = kept(0, 10);
        assert_eq!((all.oldest, all.at, all.next), (Revision(1), Millis(0), Revision(21)));
        let told = |beginnings: &[Beginning], signed| {
            let all = (1..).zip(beginnings.iter().copied()).collect();
            differences(&all, signed)
        };
        assert_eq!(told(&[all, all, all], Revision(0)), Vec::<String>::new());
        assert_eq!(told(&[all, kept(1, 10), kept(2, 10)], Revision(20)), Vec::<String>::new());
        let much = told(&[kept(1, 10), all, kept(3, 10)], Revision(30));
        assert_eq!(much.len(), 1, "{much:?}");
        assert!(
            much[0].contains("replica 3 begins at revision 31, that of replica 2 at 1:"),
            "{much:?}"
        );
        // One replica purged all it had, and the others' segments are still open.
        let open = kept(0, 1);
        assert_eq!(open.next, 1);
        assert_eq!(told(&[kept(4, 5), open, open], Revision(40)).len(), 2);
        // More was purged than was signed.
        let lost = told(&[kept(1, 10), kept(1, 10), kept(2, 10)], Revision(10));
        assert_eq!(lost.len(), 1, "{lost:?}");
        assert!(lost[0].contains("replica 3 begins at revision 21, and nothing after revision 10"));
        assert_eq!(told(&[kept(1, 10)], Revision(0)).len(), 1);
        assert_eq!(told(&[], Revision(0)), Vec::<String>::new());
        let empty = Beginning::of(&[], &retention(None, None));
        assert_eq!((empty.oldest, empty.next), (Revision(1), Revision(1)));
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
