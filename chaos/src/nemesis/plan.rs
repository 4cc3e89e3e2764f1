//! The schedule of faults: determined by the seed alone, so that it can be printed and reproduced.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::{Fault, NemesisOptions, Sort};

/// Probability that a strike overlaps another.
const TOGETHER: f64 = 0.3;
/// Duration of a fault, relative to the interval.
const DWELL: std::ops::Range<f64> = 0.05..0.6;

/// All faults of a strike are over at this part of the interval.
const LAST: f64 = 0.9;

/// A planned fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strike {
    pub fault: Fault,
    pub from: Duration,
    /// … and when it ends.
    pub until: Duration,
    /// Random value that selects the victim.
    pub dice: u64,
}

/// Draws the plan, in order of time.
#[must_use]
pub fn plan(options: &NemesisOptions) -> Vec<Strike> {
    let mut rng = SmallRng::seed_from_u64(options.seed ^ 0x6e65_6d65_7369_7300);
    let mut strikes = Vec::new();
    let mut from = options.interval;
    while from < options.duration && !options.faults.is_empty() {
        let fault = options.faults[rng.random_range(0..options.faults.len())];
        let until = from + options.interval.mul_f64(rng.random_range(DWELL));
        let first = Strike { fault, from, until, dice: rng.random() };
        strikes.push(first);
        let others: Vec<Fault> =
            options.faults.iter().copied().filter(|other| go_together(fault, *other)).collect();
        // Always drawn, so that an additional kind of fault does not change later strikes.
        let (with, at, dice) =
            (rng.random_bool(TOGETHER), rng.random::<f64>(), rng.random::<u64>());
        if with && !others.is_empty() {
            let other = usize::try_from(dice % others.len() as u64).unwrap_or_default();
            let second = from + (until - from).mul_f64(at);
            // Both end before the next strike.
            let until = (from + options.interval.mul_f64(LAST)).min(second + (until - from));
            strikes.push(Strike { fault: others[other], from: second, until, dice });
        }
        from += options.interval;
    }
    strikes
}

/// Whether two faults may be in force at once.
fn go_together(one: Fault, other: Fault) -> bool {
    let [one, other] = [one, other].map(|fault| fault.kind().sort);
    one != other && ![one, other].contains(&Sort::Members)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(seed: u64, faults: &str) -> NemesisOptions {
        NemesisOptions {
            faults: Fault::list(faults).unwrap(),
            interval: Duration::from_secs(2),
            duration: Duration::from_secs(600),
            seed,
        }
    }

    #[test]
    fn a_seed_is_a_plan() {
        let drawn = plan(&options(1, "all"));
        assert_eq!(drawn, plan(&options(1, "all")));
        assert_ne!(drawn, plan(&options(2, "all")));
        assert!(plan(&options(1, "none")).is_empty());
        for fault in Fault::list("all").unwrap() {
            assert!(drawn.iter().any(|strike| strike.fault == fault), "{fault} never comes");
        }
    }

    #[test]
    fn faults_end_and_some_overlap() {
        let drawn = plan(&options(3, "all"));
        assert!(drawn.is_sorted_by_key(|strike| strike.from));
        assert!(drawn.iter().all(|strike| strike.from <= strike.until));
        let together: Vec<_> = drawn.windows(2).filter(|two| two[1].from < two[0].until).collect();
        assert!(together.len() > 20, "{}", together.len());
        for two in together {
            assert!(go_together(two[0].fault, two[1].fault), "{two:?}");
        }
    }
}
