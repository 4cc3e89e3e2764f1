//! Golden values of the agreement, and the laws of agreement and log time.

use proptest::prelude::*;

use super::*;

const HOUR: Micros = 3_600 * SECOND;

/// A clock that is ahead by `ahead`, known within `width`.
fn clock(ahead: Micros, width: Micros) -> Interval {
    Interval { low: ahead - width, high: ahead + width }
}

fn exact(ahead: &[Micros]) -> Vec<Interval> {
    ahead.iter().map(|ahead| clock(*ahead, 0)).collect()
}

fn shown(clocks: &[Interval], voters: usize) -> String {
    match agree(clocks, voters) {
        None => "no agreement".into(),
        Some(Agreement { offset: Interval { low, high }, tolerance }) => {
            let (low, high, tolerance) = (low / MILLI, high / MILLI, tolerance / MILLI);
            format!("{low}..{high} ms within {tolerance} ms")
        }
    }
}

#[test]
fn a_majority_agrees_and_liars_do_not_count() {
    let agreed = |ahead: &[Micros]| shown(&exact(ahead), ahead.len());
    assert_eq!(agreed(&[0]), "-10..10 ms within 10 ms");
    assert_eq!(agreed(&[0, 0, 0]), "-10..10 ms within 10 ms");
    assert_eq!(agreed(&[0, 2 * MILLI, HOUR]), "-8..10 ms within 10 ms");
    assert_eq!(agreed(&[0, 2 * MILLI, -400 * 24 * HOUR]), "-8..10 ms within 10 ms");
    assert_eq!(agreed(&[0, HOUR, MILLI, -HOUR, 2 * MILLI]), "-8..10 ms within 10 ms");
    assert_eq!(agreed(&[0, HOUR, MILLI, HOUR, 2 * MILLI]), "-8..10 ms within 10 ms");
    // The closest two agree; the third is not far enough off to be wrong, and has no influence.
    assert_eq!(agreed(&[0, 100 * MILLI, 700 * MILLI]), "20..80 ms within 80 ms");
    // Equally far apart: any time between the first and the last is possible.
    assert_eq!(agreed(&[0, SECOND, 2 * SECOND]), "360..1640 ms within 640 ms");
}

#[test]
fn without_a_majority_there_is_no_agreement() {
    assert_eq!(shown(&[], 0), "no agreement");
    assert_eq!(shown(&[], 1), "no agreement");
    assert_eq!(shown(&exact(&[0, HOUR]), 2), "no agreement");
    assert_eq!(shown(&exact(&[0]), 2), "no agreement");
    assert_eq!(shown(&exact(&[0, HOUR]), 3), "no agreement");
    assert_eq!(shown(&exact(&[0, HOUR, -HOUR]), 3), "no agreement");
    assert_eq!(shown(&exact(&[0, 0]), 4), "no agreement");
    assert_eq!(shown(&exact(&[0, 0, HOUR, HOUR]), 4), "no agreement");
    assert_eq!(shown(&exact(&[0, 0]), 3), "-10..10 ms within 10 ms");
    assert_eq!(shown(&exact(&[0, 21 * SECOND, 42 * SECOND]), 3), "no agreement");
    assert_eq!(shown(&exact(&[0, 19 * SECOND, HOUR]), 3), "9000..10000 ms within 10000 ms");
    let limits = [Interval { low: i64::MIN, high: i64::MIN }, clock(i64::MAX, 0), clock(0, 0)];
    assert_eq!(shown(&limits, 3), "no agreement");
}

#[test]
fn what_is_known_badly_narrows_nothing() {
    // A slow link: the wide reading is compatible with both others, which agree with each other.
    let clocks = [clock(0, 0), clock(MILLI, 0), clock(0, 400 * MILLI)];
    assert_eq!(shown(&clocks, 3), "-10..11 ms within 10 ms");
    // It is compatible with either of two that disagree: any time between them is possible.
    let clocks = [clock(-100 * MILLI, 0), clock(100 * MILLI, 0), clock(0, 400 * MILLI)];
    assert_eq!(shown(&clocks, 3), "-110..110 ms within 10 ms");
}

#[test]
fn a_reading_that_took_long_or_is_old_says_nothing() {
    let reading = Reading { sent: 10_000, received: 14_000, wall: 1_000_000 };
    assert_eq!(reading.offset(14_000), Some(Interval { low: 986_000, high: 990_000 }));
    assert_eq!(reading.offset(1_014_000), Some(Interval { low: 985_000, high: 991_000 }));
    assert_eq!(reading.offset(14_000 + KEPT + 1), None);
    assert_eq!(reading.offset(13_000), None, "of the future");
    assert_eq!(Reading { sent: 0, received: ROUND_MAX + 1, wall: 0 }.offset(ROUND_MAX + 1), None);
    for wall in [i64::MIN, i64::MAX] {
        assert!(Reading::own(5, wall).offset(5).is_some());
    }
}

#[test]
fn far_clocks_are_named() {
    let mut readings = Readings::default();
    for (id, ahead) in [(1, 0), (2, 30 * MILLI), (3, HOUR), (7, -2 * SECOND)] {
        readings.set(id, Reading::own(0, 24 * HOUR + ahead));
    }
    let offsets = readings.offsets(0);
    let all: Vec<Interval> = offsets.values().copied().collect();
    let agreed = agree(&all, 3).unwrap();
    let far = far(&offsets, &agreed);
    assert_eq!(far.keys().collect::<Vec<_>>(), [&3, &7]);
    assert!((far[&3] - HOUR).abs() < 100 * MILLI, "{far:?}");
    assert!((far[&7] + 2 * SECOND).abs() < 100 * MILLI, "{far:?}");
    readings.retain(|id| id < 3);
    assert_eq!(readings.offsets(0).len(), 2);
    assert!(readings.offsets(KEPT + 1).is_empty());
}

fn agreement(ahead: Micros) -> Option<Agreement> {
    Some(Agreement { offset: clock(ahead, 10 * MILLI), tolerance: 10 * MILLI })
}

/// A log clock that starts in agreement with all clocks, and advances.
#[test]
fn the_leader_s_wall_clock_moves_nothing() {
    let mut log = LogClock::new(0);
    assert_eq!(log.correct(agreement(HOUR), 0), 0, "nothing was known before");
    let begun = log.read(0);
    assert_eq!(begun, Millis(3_600_000 - 10));
    // No majority: continue by the monotonic clock.
    log.correct(None, SECOND);
    assert_eq!(log.read(2 * SECOND), begun.plus(2_000));
    // Suddenly a majority says that it is an hour later: log time gains a sixteenth.
    log.correct(agreement(2 * HOUR), 2 * SECOND);
    assert_eq!(log.read(18 * SECOND), begun.plus(2_000 + 17_000));
    // The majority returns: log time loses what it gained, and never goes back.
    log.correct(agreement(HOUR), 18 * SECOND);
    let ahead = 1_000 - 20;
    assert_eq!(log.read(18 * SECOND + 100 * MILLI), begun.plus(19_000 + 50));
    assert_eq!(log.read(28 * SECOND), begun.plus(29_000 - ahead));
    assert_eq!(log.read(20 * SECOND), begun.plus(29_000 - ahead), "an old reading");
}

#[test]
fn a_log_that_is_far_ahead_goes_on_at_half_the_pace() {
    // An entry 400 days in the future, as an older release could have written it.
    let year = Millis(1_767_225_600_000);
    let poison = year.plus(400 * 24 * 3_600_000);
    let mut log = LogClock::new(0);
    log.raise(poison, 0);
    let offset = Micros::try_from(year.0).unwrap() * MILLI;
    assert_eq!(log.correct(agreement(offset), 0), 0);
    assert_eq!(log.read(10 * SECOND), poison.plus(5_000));
    assert_eq!(log.read(3_610 * SECOND), poison.plus(1_805_000));
}

#[test]
fn a_replica_that_was_down_steps_forward_once() {
    let stopped = Millis(1_767_225_600_000);
    let mut log = LogClock::new(7 * SECOND);
    log.raise(stopped, 7 * SECOND);
    assert_eq!(log.read(8 * SECOND), stopped.plus(1_000), "on from the last stamp");
    assert!(!log.is_settled());
    let week = 7 * 24 * HOUR;
    let offset = Micros::try_from(stopped.0).unwrap() * MILLI + week;
    assert_eq!(log.correct(agreement(offset), 8 * SECOND), week + 7 * SECOND - 10 * MILLI);
    assert!(log.is_settled());
    assert_eq!(log.correct(agreement(offset + week), 8 * SECOND), 0, "once");
}

/// Followers receive an entry shortly after it was stamped: that delay is not added to its time.
#[test]
fn an_entry_is_as_late_as_it_says() {
    let mut log = LogClock::new(0);
    log.raise(Millis(10_000), 0);
    log.raise(Millis(10_499), 500 * MILLI);
    assert_eq!(log.read(500 * MILLI), Millis(10_500));
    log.raise(Millis(11_300), SECOND);
    assert_eq!(log.read(SECOND), Millis(11_300));
    assert_eq!(log.read(2 * SECOND), Millis(12_300));
}

#[test]
fn alone_a_new_log_begins_with_the_earliest_clock() {
    let clocks = [clock(3 * HOUR, 0), clock(2 * HOUR, 0)];
    let mut log = LogClock::new(0);
    log.begin_alone(&clocks, 0);
    assert_eq!(log.read(0), Millis(7_200_000));
    // The first agreement still counts as the first.
    assert_eq!(log.correct(agreement(3 * HOUR), 0), HOUR - 10 * MILLI);
    // A log with a timestamp continues from it.
    let mut log = LogClock::new(0);
    log.raise(Millis(5_000), 0);
    log.begin_alone(&clocks, 0);
    assert_eq!(log.read(0), Millis(5_000));
    // Nothing is known at all.
    let mut log = LogClock::new(0);
    log.begin_alone(&[], 9 * MILLI);
    assert_eq!(log.read(10 * MILLI), Millis(10));
}

/// Maximum error of a correct clock, maximum width of a reading, and clocks: the first of them, a
/// majority, are correct.
fn cluster() -> impl Strategy<Value = (Micros, Micros, Vec<Interval>)> {
    let delta = prop_oneof![Just(0), 0..5 * MILLI, 0..2 * SECOND, 0..5 * SECOND];
    let width = prop_oneof![Just(0), 0..MILLI, 0..SECOND];
    (1_usize..=4, delta, width).prop_flat_map(|(right, delta, width)| {
        let error = -delta..=delta;
        let rights = (error, 0..=width, 0..=width).prop_map(|(error, before, after)| Interval {
            low: error - before,
            high: error + after,
        });
        let near = -10 * SECOND..10 * SECOND;
        let lie = prop_oneof![any::<i64>(), -HOUR..HOUR, near].prop_map(|at| at / 8);
        let lies = (lie, 0..=width).prop_map(|(at, width)| clock(at, width));
        let rights = prop::collection::vec(rights, right);
        let lies = prop::collection::vec(lies, 0..right);
        (Just(delta), Just(width), rights, lies).prop_map(|(delta, width, mut rights, lies)| {
            rights.extend(lies);
            (delta, width, rights)
        })
    })
}

proptest! {
    /// Law 1: one wrong clock among three, two among five, three among seven; some of them silent.
    #[test]
    fn the_true_time_is_near_the_agreement((delta, width, clocks) in cluster()) {
        let agreed = agree(&clocks, clocks.len()).expect("a majority is right");
        prop_assert!(agreed.tolerance <= TOLERANCE_MIN.max(2 * delta), "{agreed:?}");
        let bound = delta + width + agreed.tolerance;
        let Interval { low, high } = agreed.offset;
        prop_assert!(low <= high && -bound <= low && high <= bound, "{agreed:?} {bound}");
        for clock in &clocks {
            let off = agreed.distance(*clock);
            let wrong = Interval { low: 0, high: 0 }.distance(*clock);
            prop_assert!((off - wrong).abs() <= bound, "{clock:?} {off}");
        }
    }

    /// Law 1 without knowing which clocks are correct: every point of an agreement is near a majority's clocks.
    #[test]
    fn an_agreement_is_always_of_a_majority(
        clocks in prop::collection::vec((-30 * SECOND..30 * SECOND, 0..SECOND), 0..8),
        voters in 1_usize..9,
    ) {
        let clocks: Vec<Interval> = clocks.into_iter().map(|(at, wide)| clock(at, wide)).collect();
        if let Some(Agreement { offset, tolerance }) = agree(&clocks, voters) {
            for end in [offset.low, offset.high] {
                let near = clocks.iter().filter(|it| clock(end, tolerance).distance(**it) == 0);
                prop_assert!(near.count() > voters / 2);
            }
        } else {
            for one in &clocks {
                for end in [one.low, one.high] {
                    let near =
                        clocks.iter().filter(|it| clock(end, TOLERANCE_MAX).distance(**it) == 0);
                    prop_assert!(near.count() <= voters / 2, "{end}");
                }
            }
        }
    }

    /// Laws 2 and 3.
    #[test]
    fn log_time_goes_on_steadily(
        first in any::<u32>(),
        steps in prop::collection::vec(
            (0..5 * SECOND, prop::option::of(prop_oneof![any::<i64>(), -HOUR..HOUR])), 1..60),
    ) {
        let mut log = LogClock::new(0);
        log.raise(Millis(u64::from(first) + 1), 0);
        let (mut now, mut settled) = (0, false);
        for (elapsed, agreed) in steps {
            let (before, at) = (now, log.at);
            now += elapsed;
            log.read(now);
            let by = log.at - at;
            prop_assert!(by >= elapsed - elapsed / LOSS && by <= elapsed + elapsed / GAIN, "{by}");
            let at = log.at;
            let stepped = log.correct(agreed.map(|at| at / 8).and_then(agreement), now);
            prop_assert!(log.at - at == stepped && stepped >= 0);
            prop_assert!(!settled || stepped == 0, "at {before}");
            settled |= agreed.is_some();
        }
    }
}

/// A wall clock that jumps and drifts, and a monotonic clock that drifts slightly.
#[derive(Clone, Copy, Debug)]
struct Machine {
    /// Offset of the wall clock.
    ahead: Micros,
    /// Drift of the wall clock per second.
    drift: Micros,
    /// Drift of the monotonic clock per second.
    mono_drift: Micros,
    mono_start: Micros,
}

impl Machine {
    fn mono(&self, time: Micros) -> Micros {
        self.mono_start + time + time / SECOND * self.mono_drift
    }

    fn wall(&self, time: Micros) -> Micros {
        BEGIN + time + self.ahead + time / SECOND * self.drift
    }
}

/// Start time of a run.
const BEGIN: Micros = 1_767_225_600 * SECOND;
/// Maximum error of a correct clock.
const RIGHT: Micros = 50 * MILLI;

/// A step of a run: after this many milliseconds the wrong clock changes like this, and this replica leads.
type Turn = (u16, usize, Micros, Micros, usize);

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let far = prop_oneof![-HOUR..HOUR, -400 * 24 * HOUR..400 * 24 * HOUR, -3 * SECOND..3 * SECOND];
    let turn = (100_u16..3_000, 0_usize..2, far, -300 * MILLI..300 * MILLI, 0_usize..5);
    prop::collection::vec(turn, 1..60)
}

proptest! {
    /// Of three or five replicas, a minority's clocks jump and drift, and leadership moves: log time stays within a
    /// bound of the true time, and never goes back.
    #[test]
    fn log_time_stays_near_the_true_time(
        liars in 1_usize..=2,
        starts in prop::collection::vec((-RIGHT..RIGHT, -900_i64..900, 0..HOUR), 5),
        latency in 0..200 * MILLI,
        turns in turns(),
    ) {
        let replicas = 2 * liars + 1;
        let mut machines: Vec<Machine> = starts[..replicas].iter().map(|(ahead, mono, start)| {
            Machine { ahead: *ahead, drift: 0, mono_drift: *mono, mono_start: *start }
        }).collect();
        let mut logs: Vec<LogClock> = machines.iter().map(|it| LogClock::new(it.mono(0))).collect();
        let (mut time, mut last) = (0, Millis(0));
        for (wait, liar, ahead, drift, leader) in turns {
            let end = time + Micros::from(wait) * MILLI;
            while time < end {
                time += 500 * MILLI;
                for (log, own) in logs.iter_mut().zip(&machines) {
                    let asked = own.mono(time - latency);
                    let clocks: Vec<Interval> = machines.iter().filter_map(|it| {
                        let wall = it.wall(time - latency / 2);
                        Reading { sent: asked, received: own.mono(time), wall }.offset(own.mono(time))
                    }).collect();
                    log.raise(last, own.mono(time));
                    log.correct(agree(&clocks, replicas), own.mono(time));
                }
                // An entry now, and one before the next comparison of the clocks.
                for later in [0, 400 * MILLI] {
                    let (leader, time) = (leader % replicas, time + later);
                    let at = logs[leader].read(machines[leader].mono(time));
                    prop_assert!(at >= last, "{at} after {last}");
                    last = at;
                    let wrong = Micros::try_from(at.0).unwrap() * MILLI - BEGIN - time;
                    let bound = RIGHT + latency + 2 * RIGHT + 5 * MILLI;
                    prop_assert!(wrong.abs() <= bound, "log time is {wrong} µs off after {time} µs");
                }
            }
            let liar = &mut machines[liar % liars];
            // The jump is visible only from now on.
            (liar.ahead, liar.drift) = (ahead - time / SECOND * drift, drift);
        }
    }
}
