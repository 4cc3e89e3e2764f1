//! What a run is like: drawn from its seed before it begins.

use std::time::Duration;

use romana_replica::Tuning;
use romana_storage::platform::{Clock, below, random};

/// Replicas.
pub(crate) const NODES: u64 = 3;
/// Faults are injected between these two times, milliseconds of the run.
pub(crate) const FAULTS: std::ops::Range<u64> = 1_500..20_000;
/// Longest, after the last fault, until everybody is answered again, milliseconds.
pub(crate) const CALM: u64 = 10_000;

/// Of each kind of fault, the mean time to the next one, milliseconds; `None`: none in this run.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The power of one machine goes, in the middle of some operation on its disk.
    pub(crate) power: Option<u64>,
    /// The power of all machines goes.
    pub(crate) blackout: Option<u64>,
    /// A process dies; what it wrote stays in the page cache.
    pub(crate) kill: Option<u64>,
    /// A sync of a file fails.
    pub(crate) sync: Option<u64>,
    /// Nothing passes between two machines, both ways or one way.
    pub(crate) cut: Option<u64>,
    /// Nothing passes between one machine and the others.
    pub(crate) isolate: Option<u64>,
    /// What is sent between two machines arrives late.
    pub(crate) slow: Option<u64>,
    /// A clock jumps, drifts or lies.
    pub(crate) clock: Option<u64>,
    /// The one machine whose clock may be wrong; `None`: any may, and nothing is promised of log time.
    pub(crate) liar: Option<u64>,
    /// Leadership is handed on.
    pub(crate) transfer: Option<u64>,
    /// A snapshot is asked for.
    pub(crate) snapshot: Option<u64>,
    /// Longest that a machine is without power, or a fault of the network lasts, milliseconds.
    pub(crate) outage: u64,
    /// Longest that a message takes, milliseconds.
    pub(crate) latency: u64,
    /// Longest that a disk takes.
    pub(crate) disk: Duration,
    /// Clients of each node.
    pub(crate) clients: u64,
    /// Longest pause of a client, milliseconds.
    pub(crate) pause: u64,
    /// How the replicas are tuned: small files and few entries between snapshots.
    pub(crate) tuning: Tuning,
}

fn between(from: u64, to: u64) -> u64 {
    from + below(to - from)
}

/// In half of all runs.
fn sometimes(from: u64, to: u64) -> Option<u64> {
    let every = between(from, to);
    random::<bool>().then_some(every)
}

impl Plan {
    /// The plan of a run, from the dice that its seed threw.
    pub(crate) fn draw() -> Self {
        Self {
            power: sometimes(500, 4_000),
            blackout: sometimes(2_000, 8_000),
            kill: sometimes(500, 4_000),
            sync: sometimes(1_000, 6_000),
            cut: sometimes(500, 3_000),
            isolate: sometimes(1_000, 5_000),
            slow: sometimes(500, 4_000),
            clock: sometimes(1_000, 6_000),
            liar: (below(4) > 0).then(|| 1 + below(NODES)),
            transfer: sometimes(500, 4_000),
            snapshot: sometimes(200, 3_000),
            outage: between(50, 2_500),
            latency: between(2, 40),
            disk: Duration::from_micros(between(100, 20_000)),
            clients: between(1, 5),
            pause: between(5, 120),
            tuning: Tuning {
                snapshot_entries: between(8, 400),
                snapshot_bytes: between(4 << 10, 256 << 10),
                keep_entries: between(0, 64),
                keep_bytes: 1 << 20,
                log_tail_bytes: usize::try_from(between(1 << 10, 256 << 10)).unwrap_or(1 << 16),
                wal_segment_bytes: between(4 << 10, 128 << 10),
                history_segment_bytes: between(4 << 10, 128 << 10),
                feed_bytes: 64 << 10,
                checkpoint_records: u64::MAX,
                ..Tuning::default()
            },
        }
    }
}

/// How far a right clock is from the true time at most, milliseconds.
pub(crate) const RIGHT: i64 = 50;
/// How far a monotonic clock is from its pace at most, millionths.
const PACE: i64 = 400;
const DAY: i64 = 24 * 3_600_000;

fn either_way(most: i64) -> i64 {
    let wide = u64::try_from(2 * most + 1).unwrap_or(1);
    i64::try_from(below(wide)).unwrap_or(0) - most
}

/// Up to ten to the power of `power`, as often small as large, either way.
fn any_size(power: u32) -> i64 {
    let power = u32::try_from(1 + below(u64::from(power))).unwrap_or(1);
    either_way(10_i64.pow(power))
}

/// A clock as an NTP daemon keeps it.
pub(crate) fn right_clock() -> Clock {
    Clock { ahead: either_way(RIGHT), pace: either_way(PACE), ..Clock::default() }
}

/// A clock that has jumped by up to 400 days, gains or loses up to half of the time that passes, or shows
/// another time whenever it is read.
pub(crate) fn wrong_clock() -> Clock {
    let right = right_clock();
    match below(4) {
        0 => right,
        1 => Clock { ahead: any_size(11).clamp(-400 * DAY, 400 * DAY), ..right },
        2 => Clock { drift: either_way(500_000), ..right },
        _ => Clock { lies: any_size(7).unsigned_abs(), ..right },
    }
}

#[cfg(test)]
mod tests {
    use romana_storage::platform::begin;

    use super::*;

    #[test]
    fn clocks_are_as_right_and_as_wrong_as_is_said() {
        let mut far = 0;
        for seed in 0..500 {
            begin(seed, Duration::from_millis(1));
            let (right, wrong) = (right_clock(), wrong_clock());
            assert!(right.ahead.abs() <= RIGHT && right.pace.abs() <= PACE);
            assert_eq!((right.drift, right.lies), (0, 0));
            assert!(wrong.ahead.abs() <= 400 * DAY && wrong.drift.abs() <= 500_000);
            far += u32::from(wrong.ahead.abs() > 3_600_000);
        }
        assert!(far > 20, "{far} of 500 jump by more than an hour");
    }

    #[test]
    fn a_plan_is_drawn_from_its_seed() {
        let plan = |seed| {
            begin(seed, Duration::from_millis(1));
            format!("{:?}", Plan::draw())
        };
        assert_eq!(plan(7), plan(7));
        assert_ne!(plan(7), plan(8));
        let liars = (0..200).filter(|seed| !plan(*seed).contains("liar: None")).count();
        assert!((120..180).contains(&liars), "{liars} of 200");
    }
}
