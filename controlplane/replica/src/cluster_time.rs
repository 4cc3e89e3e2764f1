//! # Cluster time
//!
//! The time that entries of the log are stamped with. No single clock decides it: the leader goes on from the
//! last stamp by its monotonic clock, and corrects itself slowly towards what a majority of the members' wall
//! clocks agree on (Marzullo's algorithm).
//!
//! ```text
//!   readings of wall clocks ──► agree ──► Agreement or none ──► LogClock::correct
//!   monotonic clock ───────────────────────────────────────────► LogClock::read ──► stamp
//! ```
//! Everything here is a pure function of numbers. The exchange of readings is `raft::clocks`.
//!
//! ## Laws
//! 1. While a majority of the clocks is right within δ, and readings are known within w, an agreement is
//!    within δ + w + tolerance of the true time, whatever the others show.
//! 2. Log time never goes back, and never stands still while the monotonic clock goes on.
//! 3. Against the monotonic clock, log time gains [`GAIN`] of it at most and loses [`LOSS`] of it at most.
//!    The one exception is the first agreement after a start: how long the replica was down is known from
//!    the clocks alone, so log time steps forward to it once.
//!
//! All times are microseconds. A replica sees each clock as an offset to its own monotonic clock.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use romana_statemachine::Millis;

/// Microseconds: a time, a span, or an offset to a monotonic clock.
pub type Micros = i64;

const MILLI: Micros = 1_000;
const SECOND: Micros = 1_000_000;
/// Clocks that differ by no more than the tolerance agree: the smallest one with a majority counts.
const TOLERANCE_MIN: Micros = 10 * MILLI;
/// Clocks further apart than twice this never agree.
const TOLERANCE_MAX: Micros = 10 * SECOND;
/// A clock this far from what a majority agrees on is reported.
pub const FAR: Micros = SECOND;
/// A question that took longer says too little about a clock.
const ROUND_MAX: Micros = SECOND;
/// An older reading is forgotten.
const KEPT: Micros = 3 * SECOND;
/// Two monotonic clocks drift apart by less than a part in so many.
const DRIFT: Micros = 1_000;
/// Log time that is behind gains at most a part in so many.
pub const GAIN: Micros = 16;
/// Log time that is ahead loses at most a part in so many.
pub const LOSS: Micros = 2;
/// Numbers from other machines are cut to this, so that sums of them stay in range.
const MICROS_MAX: Micros = Micros::MAX / 8;

/// What an offset may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// The least.
    pub low: Micros,
    /// The greatest.
    pub high: Micros,
}

impl Interval {
    fn widened(self, by: Micros) -> Self {
        Self { low: self.low.saturating_sub(by), high: self.high.saturating_add(by) }
    }

    /// How far another interval is after this one, or before it (negative); 0 where they touch.
    #[must_use]
    pub fn distance(self, other: Self) -> Micros {
        let after = other.low.saturating_sub(self.high).max(0);
        let before = self.low.saturating_sub(other.high).max(0);
        after - before
    }
}

/// One reading of another machine's wall clock, with times of the own monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// When it was asked for.
    pub sent: Micros,
    /// When it came.
    pub received: Micros,
    /// What the wall clock showed in between.
    pub wall: Micros,
}

impl Reading {
    /// A reading of this machine's own clock.
    #[must_use]
    pub fn own(now: Micros, wall: Micros) -> Self {
        Self { sent: now, received: now, wall }
    }

    /// What the clock's offset may be now; `None` when the reading is too old or took too long.
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

/// What a majority of clocks agrees on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// Offset of the true time to the own monotonic clock.
    pub offset: Interval,
    /// How far clocks that agree may be from it.
    pub tolerance: Micros,
}

impl Agreement {
    /// How far a clock is ahead of the agreement, or behind it (negative).
    #[must_use]
    pub fn distance(&self, clock: Interval) -> Micros {
        self.offset.distance(clock)
    }
}

/// What a majority of `voters` clocks agrees on, if one does: Marzullo's algorithm with the smallest tolerance
/// for which there is a majority. Where several ranges have one, all between the first and the last of
/// them is possible.
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

/// From the first to the last point that at least `least` intervals have in common.
fn common(intervals: impl Iterator<Item = Interval>, least: usize) -> Option<Interval> {
    // At one point beginnings come before ends: intervals that touch have that point in common.
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

/// Log time on one replica: goes on by its monotonic clock, whether it leads or not, so that a new leader
/// goes on where the old one stopped.
#[derive(Clone, Debug)]
pub struct LogClock {
    /// Log time when the monotonic clock showed `now`.
    at: Micros,
    now: Micros,
    /// Whether anything is known about the time.
    is_set: bool,
    /// Whether an agreement has been seen since the start.
    settled: bool,
    agreed: Option<Interval>,
}

impl LogClock {
    /// At the start of a replica: nothing is known yet.
    #[must_use]
    pub fn new(now: Micros) -> Self {
        Self { at: 0, now, is_set: false, settled: false, agreed: None }
    }

    /// Whether an agreement has been seen since the start.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.settled
    }

    /// The log has an entry of this time, by now.
    pub fn raise(&mut self, at: Millis, now: Micros) {
        self.advance(now);
        let at = Micros::try_from(at.0).unwrap_or(MICROS_MAX).saturating_mul(MILLI);
        self.at = self.at.max(at.min(MICROS_MAX));
        self.is_set |= self.at > 0;
    }

    /// Takes what the majority agrees on now, if it does. Returns by how much log time stepped forward from
    /// what was known before.
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

    /// Begins without an agreement: with the earliest clock that is known, unless the log says what time it
    /// is. Log time that is too early can be corrected, one that is too late stays.
    pub fn begin_alone(&mut self, clocks: &[Interval], now: Micros) {
        self.advance(now);
        if !std::mem::replace(&mut self.is_set, true) {
            let earliest = clocks.iter().map(|clock| clock.low).min().unwrap_or(0);
            self.at = (earliest + self.now).max(0);
        }
    }

    /// Log time now.
    pub fn read(&mut self, now: Micros) -> Millis {
        self.advance(now);
        Millis(u64::try_from(self.at / MILLI).unwrap_or(0))
    }

    /// How far log time is ahead of what was agreed on, or behind it (negative); `None` without an agreement.
    #[must_use]
    pub fn ahead(&self) -> Option<Micros> {
        let own = self.at - self.now;
        self.agreed.map(|agreed| agreed.distance(Interval { low: own, high: own }))
    }

    /// The offset of log time to the monotonic clock.
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

/// Readings of all clocks of a cluster, as one replica has them.
#[derive(Clone, Debug, Default)]
pub struct Readings(BTreeMap<u64, Reading>);

/// A clock that is far from what a majority agrees on: its owner and by how much it is ahead.
pub type Far = BTreeMap<u64, Micros>;

impl Readings {
    /// A member's clock was read.
    pub fn set(&mut self, id: u64, reading: Reading) {
        self.0.insert(id, reading);
    }

    /// Forgets all but these members.
    pub fn retain(&mut self, member: impl Fn(u64) -> bool) {
        self.0.retain(|id, _| member(*id));
    }

    /// The offsets that are known now.
    #[must_use]
    pub fn offsets(&self, now: Micros) -> BTreeMap<u64, Interval> {
        let known = self.0.iter().map(|(id, reading)| (*id, reading.offset(now)));
        known.filter_map(|(id, offset)| Some((id, offset?))).collect()
    }
}

/// The clocks that are far from an agreement.
#[must_use]
pub fn far(offsets: &BTreeMap<u64, Interval>, agreed: &Agreement) -> Far {
    let near: RangeInclusive<Micros> = -FAR..=FAR;
    let distances = offsets.iter().map(|(id, clock)| (*id, agreed.distance(*clock)));
    distances.filter(|(_, distance)| !near.contains(distance)).collect()
}

#[cfg(test)]
mod tests;
