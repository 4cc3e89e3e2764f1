//! The replicas' clocks, one of which is wrong, and the resulting log time.

use std::collections::BTreeMap;

use romana_replica::cluster_time::{Interval, LogClock, Micros, Reading, agree};
use romana_statemachine::Millis;

/// Number of replicas.
const REPLICAS: usize = 3;
/// The replica whose clock may be wrong.
const LIAR: usize = 2;
/// Initial time.
const BEGIN: Micros = 1_000_000;
/// Round-trip time of reading another replica's clock.
const ROUND: Micros = 2_000;
/// Interval of clock comparisons.
const EVERY: Micros = 500_000;
/// Errors of the correct clocks.
const OFF: [Micros; REPLICAS] = [-20_000, 15_000, 5_000];

/// The simulated clocks.
#[derive(Clone, Debug)]
pub(super) struct Clocks {
    /// True time since the start.
    time: Micros,
    compared: Micros,
    /// Offset of each wall clock, and the drift of the wrong one, millionths of the time since it was set.
    ahead: [Micros; REPLICAS],
    drift: (i64, Micros),
    logs: [LogClock; REPLICAS],
    leader: usize,
    last: Millis,
    /// Injected bug: the leader trusts its own clock.
    trusting: bool,
}

impl Clocks {
    pub(super) fn new(trusting: bool) -> Self {
        let logs = std::array::from_fn(|_| LogClock::new(0));
        let mut clocks = Self {
            time: 0,
            compared: 0,
            ahead: OFF,
            drift: (0, 0),
            logs,
            leader: 0,
            last: Millis(0),
            trusting,
        };
        clocks.compare();
        clocks
    }

    fn wall(&self, replica: usize, time: Micros) -> Micros {
        let (drift, since) = if replica == LIAR { self.drift } else { (0, 0) };
        BEGIN + time + self.ahead[replica] + (time - since) / 1_000 * drift / 1_000
    }

    fn compare(&mut self) {
        self.compared = self.time;
        for replica in 0..REPLICAS {
            let reading = |other: usize| {
                let sent = if other == replica { self.time } else { self.time - ROUND };
                let wall = self.wall(other, sent.midpoint(self.time));
                let reading = Reading { sent, received: self.time, wall };
                Some((other, reading.offset(self.time)?))
            };
            let offsets: BTreeMap<usize, Interval> = (0..REPLICAS).filter_map(reading).collect();
            let offsets: Vec<Interval> = offsets.into_values().collect();
            let log = &mut self.logs[replica];
            log.raise(self.last, self.time);
            log.correct(agree(&offsets, REPLICAS), self.time);
        }
    }

    /// Advances the time.
    pub(super) fn pass(&mut self, ms: u64) {
        let until = self.time + Micros::try_from(ms).unwrap_or(0) * 1_000;
        while self.time < until {
            self.time = until.min(self.compared + EVERY);
            if self.time == self.compared + EVERY {
                self.compare();
            }
        }
    }

    /// Sets offset and drift of the wrong clock.
    pub(super) fn set(&mut self, ahead_ms: i64, drift: i64) {
        self.ahead[LIAR] = ahead_ms * 1_000;
        self.drift = (drift, self.time);
    }

    /// Changes the leader.
    pub(super) fn lead(&mut self, replica: usize) {
        self.leader = replica % REPLICAS;
    }

    /// Restarts a replica: it knows its last entry, and the clocks.
    pub(super) fn restart(&mut self, replica: usize) {
        self.logs[replica] = LogClock::new(self.time);
        self.compare();
    }

    /// The stamp of an entry that the leader proposes now.
    pub(super) fn stamp(&mut self) -> Millis {
        let at = if self.trusting {
            let wall = self.wall(self.leader, self.time);
            Millis(u64::try_from(wall / 1_000).unwrap_or(0))
        } else {
            self.logs[self.leader].read(self.time)
        };
        self.last = self.last.max(at);
        at
    }

    /// How far a log time is ahead of the true time, milliseconds.
    pub(super) fn off(&self, at: Millis) -> i64 {
        let time = (BEGIN + self.time) / 1_000;
        i64::try_from(at.0).unwrap_or(i64::MAX).saturating_sub(time)
    }
}
