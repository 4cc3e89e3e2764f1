//! The simulated world: fixed seeds, and injected bugs that the laws must detect.

use romana_chaos::world::{Bug, run, shrink};

const STEPS: usize = 250;

#[test]
fn every_law_holds_in_many_schedules() {
    for seed in 0..100 {
        if let Err((steps, broken)) = run(seed, STEPS, None) {
            let (steps, broken) = shrink(steps, broken, None);
            panic!(
                "{broken}\n{steps:#?}\nagain with: chaos world --seed {seed} --schedules 1 --steps {STEPS}"
            );
        }
    }
}

#[test]
fn a_seed_is_a_schedule() {
    assert_eq!(run(7, STEPS, None).ok(), run(7, STEPS, None).ok());
    assert_ne!(run(7, STEPS, None).ok(), run(8, STEPS, None).ok());
}

/// Each injected bug is found within three hundred schedules, by its law; the
/// shortened schedule has a few steps.
#[test]
fn planted_bugs_are_found() {
    for (bug, law) in [
        (Bug::LostRecord, "converged"),
        (Bug::LostWrite, "converged"),
        (Bug::EagerStart, "fail-static"),
        (Bug::ForeignTaken, "foreign"),
        (Bug::LostEntry, "same-state"),
        (Bug::Zombie, "in-use"),
        (Bug::OwnClock, "log-time"),
        (Bug::AnySource, "imports"),
    ] {
        let found = (0..300).find_map(|seed| run(seed, STEPS, Some(bug)).err());
        let (steps, broken) = found.unwrap_or_else(|| panic!("{bug:?} is not noticed"));
        let (steps, broken) = shrink(steps, broken, Some(bug));
        assert_eq!(broken.law, law, "{bug:?}: {broken}");
        assert!(steps.len() <= 60, "{bug:?}: {} steps", steps.len());
    }
}
