//! # Cluster time
//!
//! Log time: the timestamps of log entries. No single clock decides it: the leader continues from the last timestamp
//! by its monotonic clock, and corrects itself slowly towards what a majority of the members' wall clocks agree on
//! (Marzullo's algorithm).
//!
//! ```text
//!   readings of wall clocks ──► agree ──► Agreement or none ──► LogClock::correct
//!   monotonic clock ───────────────────────────────────────────► LogClock::read ──► stamp
//! ```
//! Everything here is a pure function of numbers. Clock readings are exchanged in `raft::known::clocks`.
//!
//! ## Laws
//! 1. While a majority of the clocks is correct within δ, and readings are known within w, an agreement is
//!    within δ + w + tolerance of the true time, whatever the other clocks show.
//! 2. Log time never goes back, and never stands still while the monotonic clock advances.
//! 3. Relative to the monotonic clock, log time gains at most 1/[`GAIN`] and loses at most 1/[`LOSS`].
//!    The only exception is the first agreement after a start: only the clocks tell how long the replica was down, so
//!    log time steps forward once.
//!
//! All times are microseconds. A replica sees each clock as an offset from its own monotonic clock.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use romana_statemachine::Millis;

/// Microseconds: a time, a duration, or an offset from a monotonic clock.
pub type Micros = i64;

const MILLI: Micros = 1_000;
const SECOND: Micros = 1_000_000;
/// Clocks that differ by at most the tolerance agree. The smallest tolerance with a majority is used, from this …
const TOLERANCE_MIN: Micros = 10 * MILLI;
/// … to this.
const TOLERANCE_MAX: Micros = 10 * SECOND;
/// A clock that deviates this much from the agreement is reported.
pub const FAR: Micros = SECOND;
/// A reading with a longer round trip is too imprecise.
const ROUND_MAX: Micros = SECOND;
/// Older readings are ignored.
const KEPT: Micros = 3 * SECOND;
/// Two monotonic clocks drift apart by less than 1 part in this many.
const DRIFT: Micros = 1_000;
/// Log time that is behind gains at most 1 part in this many.
pub const GAIN: Micros = 16;
/// Log time that is ahead loses at most 1 part in this many.
pub const LOSS: Micros = 2;
/// Values from other machines are clamped to this, so that sums do not overflow.
const MICROS_MAX: Micros = Micros::MAX / 8;

/// Possible range of an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    pub low: Micros,
    pub high: Micros,
}

impl Interval {
    fn widened(self, by: Micros) -> Self {
        Self { low: self.low.saturating_sub(by), high: self.high.saturating_add(by) }
    }

    /// How far another interval lies after this one, or before it (negative); 0 if they touch or overlap.
    #[must_use]
    pub fn distance(self, other: Self) -> Micros {
        let after = other.low.saturating_sub(self.high).max(0);
        let before = self.low.saturating_sub(other.high).max(0);
        after - before
    }
}

/// One reading of another machine's wall clock, with times of the local monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// When the request was sent.
    pub sent: Micros,
    /// When the answer arrived.
    pub received: Micros,
    /// What the wall clock showed between the two.
    pub wall: Micros,
}

impl Reading {
    /// A reading of this machine's own clock.
    #[must_use]
    pub fn own(now: Micros, wall: Micros) -> Self {
        Self { sent: now, received: now, wall }
    }

    /// The possible range of the clock's offset now; `None` when the reading is too old or took too long.
    #[must_use]
    pub fn offset(&self, now: Micros) -> Option<Interval> {
        let (round, age) = (self.received - self.sent, now - self.received);
        if !(0..=ROUND_MAX).contains(&round) || !(0..=KEPT).contains(&age) {
            return None;
        }
        let wall = self.wall.clamp(0, MICROS_MAX);
        let offset = Interval { low: wall - self.received, high: wall - self.sent };
        Some(offset.widened(age / DRIFT))
    }
}

/// What a majority of the clocks agrees on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// Offset of the true time from the local monotonic clock.
    pub offset: Interval,
    /// How far clocks that agree may deviate from it.
    pub tolerance: Micros,
}

impl Agreement {
    /// How far a clock is ahead of the agreement, or behind it (negative).
    #[must_use]
    pub fn distance(&self, clock: Interval) -> Micros {
        self.offset.distance(clock)
    }
}

/// The agreement of a majority of `voters` clocks, if there is one: Marzullo's algorithm with the smallest tolerance
/// that yields a majority. If several ranges have a majority, the result spans from the first to the last.
#[must_use]
pub fn agree(clocks: &[Interval], voters: usize) -> Option<Agreement> {
    let majority = voters / 2 + 1;
    let doubled = |tolerance: &Micros| tolerance.checked_mul(2);
    let tolerances = std::iter::successors(Some(TOLERANCE_MIN), doubled);
    tolerances.map(|tolerance| tolerance.min(TOLERANCE_MAX)).take(11).find_map(|tolerance| {
        let offset = common(clocks.iter().map(|clock| clock.widened(tolerance)), majority)?;
        Some(Agreement { offset, tolerance })
    })
}

/// The range from the first to the last point that at least `least` intervals contain.
fn common(intervals: impl Iterator<Item = Interval>, least: usize) -> Option<Interval> {
    // At equal points starts sort before ends: intervals that touch have that point in common.
    let mut edges: Vec<(Micros, bool)> =
        intervals.flat_map(|it| [(it.low, false), (it.high, true)]).collect();
    edges.sort_unstable();
    let (mut open, mut found) = (0_usize, None::<Interval>);
    for (at, ends) in edges {
        if !ends {
            open += 1;
        }
        if open >= least {
            let low = found.map_or(at, |found| found.low);
            found = Some(Interval { low, high: at });
        }
        if ends {
            open -= 1;
        }
    }
    found
}

/// Log time on one replica. It advances by the replica's monotonic clock, whether the replica leads or not, so that a
/// new leader continues where the old one stopped.
#[derive(Clone, Debug)]
pub struct LogClock {
    /// Log time at monotonic time `now`.
    at: Micros,
    now: Micros,
    /// Whether log time is known at all.
    is_set: bool,
    /// Whether there was an agreement since the start.
    settled: bool,
    agreed: Option<Interval>,
}

impl LogClock {
    /// Initial state at the start of a replica: log time is unknown.
    #[must_use]
    pub fn new(now: Micros) -> Self {
        Self { at: 0, now, is_set: false, settled: false, agreed: None }
    }

    /// Whether there was an agreement since the start.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.settled
    }

    /// Raises log time to the timestamp of a log entry.
    pub fn raise(&mut self, at: Millis, now: Micros) {
        self.advance(now);
        let at = Micros::try_from(at.0).unwrap_or(MICROS_MAX).saturating_mul(MILLI);
        self.at = self.at.max(at.min(MICROS_MAX));
        self.is_set |= self.at > 0;
    }

    /// Corrects log time towards the current agreement, if there is one. Returns how far log time stepped forward
    /// from its previous value.
    pub fn correct(&mut self, agreed: Option<Agreement>, now: Micros) -> Micros {
        self.advance(now);
        self.agreed = agreed.map(|agreed| agreed.offset);
        let Some(offset) = self.agreed else { return 0 };
        if std::mem::replace(&mut self.settled, true) {
            return 0;
        }
        let behind = (offset.low + self.now - self.at).max(0);
        self.at += behind;
        if std::mem::replace(&mut self.is_set, true) { behind } else { 0 }
    }

    /// Starts without an agreement, from the earliest known clock, unless the log already provides a time. Log time
    /// that is too early can be corrected; log time that is too late cannot.
    pub fn begin_alone(&mut self, clocks: &[Interval], now: Micros) {
        self.advance(now);
        if !std::mem::replace(&mut self.is_set, true) {
            let earliest = clocks.iter().map(|clock| clock.low).min().unwrap_or(0);
            self.at = (earliest + self.now).max(0);
        }
    }

    /// Current log time.
    pub fn read(&mut self, now: Micros) -> Millis {
        self.advance(now);
        Millis(u64::try_from(self.at / MILLI).unwrap_or(0))
    }

    /// How far log time is ahead of the agreement, or behind it (negative); `None` without an agreement.
    #[must_use]
    pub fn ahead(&self) -> Option<Micros> {
        let own = self.at - self.now;
        self.agreed.map(|agreed| agreed.distance(Interval { low: own, high: own }))
    }

    /// Offset of log time from the monotonic clock.
    #[must_use]
    pub fn offset(&self) -> Micros {
        self.at - self.now
    }

    fn advance(&mut self, now: Micros) {
        let elapsed = (now - self.now).clamp(0, MICROS_MAX);
        self.now = self.now.max(now);
        if !self.is_set {
            return;
        }
        self.at = self.at.saturating_add(elapsed).min(MICROS_MAX);
        match self.ahead().unwrap_or(0) {
            0 => {}
            behind @ ..0 => self.at += (-behind).min(elapsed / GAIN),
            ahead => self.at -= ahead.min(elapsed / LOSS),
        }
    }
}

/// The latest reading of each clock of a cluster, as seen by one replica.
#[derive(Clone, Debug, Default)]
pub struct Readings(BTreeMap<u64, Reading>);

/// Clocks that deviate from the agreement: the member, and how far its clock is ahead.
pub type Far = BTreeMap<u64, Micros>;

impl Readings {
    /// Stores a reading of a member's clock.
    pub fn set(&mut self, id: u64, reading: Reading) {
        self.0.insert(id, reading);
    }

    /// Drops the readings of all other members.
    pub fn retain(&mut self, member: impl Fn(u64) -> bool) {
        self.0.retain(|id, _| member(*id));
    }

    /// The offsets known now.
    #[must_use]
    pub fn offsets(&self, now: Micros) -> BTreeMap<u64, Interval> {
        let known = self.0.iter().map(|(id, reading)| (*id, reading.offset(now)));
        known.filter_map(|(id, offset)| Some((id, offset?))).collect()
    }
}

/// The clocks that deviate from the agreement.
#[must_use]
pub fn far(offsets: &BTreeMap<u64, Interval>, agreed: &Agreement) -> Far {
    let near: RangeInclusive<Micros> = -FAR..=FAR;
    let distances = offsets.iter().map(|(id, clock)| (*id, agreed.distance(*clock)));
    distances.filter(|(_, distance)| !near.contains(distance)).collect()
}

#[cfg(test)]
mod tests;
