//! The parameters of a run, drawn from its seed before it begins.

use std::time::Duration;

use romana_replica::Tuning;
use romana_storage::platform::{Clock, below, random};

/// Number of replicas.
pub(crate) const NODES: u64 = 3;
/// Time range in which faults are injected, milliseconds.
pub(crate) const FAULTS: std::ops::Range<u64> = 1_500..20_000;
/// Timeout after the last fault until all requests succeed again, milliseconds.
pub(crate) const CALM: u64 = 10_000;

/// For each kind of fault, the mean interval, milliseconds; `None`: not in this run.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Power cut of one machine, within a disk operation.
    pub(crate) power: Option<u64>,
    /// Power cut of all machines.
    pub(crate) blackout: Option<u64>,
    /// A process is killed; its writes remain in the page cache.
    pub(crate) kill: Option<u64>,
    /// A sync of a file fails.
    pub(crate) sync: Option<u64>,
    /// The link between two machines is cut, in one or both directions.
    pub(crate) cut: Option<u64>,
    /// One machine is isolated from the others.
    pub(crate) isolate: Option<u64>,
    /// Messages between two machines are delayed.
    pub(crate) slow: Option<u64>,
    /// A clock jumps, drifts, or has a random error.
    pub(crate) clock: Option<u64>,
    /// The only machine whose clock may be wrong; `None`: any may, and log time is not checked.
    pub(crate) liar: Option<u64>,
    /// Leadership transfer.
    pub(crate) transfer: Option<u64>,
    pub(crate) snapshot: Option<u64>,
    /// Maximum duration of a power failure or network fault, milliseconds.
    pub(crate) outage: u64,
    /// Maximum message latency, milliseconds.
    pub(crate) latency: u64,
    /// Maximum latency of a disk.
    pub(crate) disk: Duration,
    /// Clients of each node.
    pub(crate) clients: u64,
    /// Maximum pause of a client, milliseconds.
    pub(crate) pause: u64,
    /// Tuning of the replicas: small files and few entries between snapshots.
    pub(crate) tuning: Tuning,
}

fn between(from: u64, to: u64) -> u64 {
    from + below(to - from)
}

/// With probability 1/2.
fn sometimes(from: u64, to: u64) -> Option<u64> {
    let every = between(from, to);
    random::<bool>().then_some(every)
}

impl Plan {
    /// Draws the plan of a run from its random generator.
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

/// Maximum error of a correct clock, milliseconds.
pub(crate) const RIGHT: i64 = 50;
/// Maximum rate error of a monotonic clock, millionths.
const PACE: i64 = 400;
const DAY: i64 = 24 * 3_600_000;

fn either_way(most: i64) -> i64 {
    let wide = u64::try_from(2 * most + 1).unwrap_or(1);
    i64::try_from(below(wide)).unwrap_or(0) - most
}

/// Log-uniform up to ten to the power of `power`, with either sign.
fn any_size(power: u32) -> i64 {
    let power = u32::try_from(1 + below(u64::from(power))).unwrap_or(1);
    either_way(10_i64.pow(power))
}

/// A clock as synchronized by an NTP daemon.
pub(crate) fn right_clock() -> Clock {
    Clock { ahead: either_way(RIGHT), pace: either_way(PACE), ..Clock::default() }
}

/// A clock that has jumped by up to 400 days, drifts by up to half of the elapsed time, or has
/// a random error at each reading.
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
