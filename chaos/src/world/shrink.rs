//! A schedule that breaks a law, made shorter while it still does.

use super::{Broken, Bug, Step, play};

/// Tries, at most.
const TRIES: usize = 3_000;

/// Leaves steps out, in parts that get smaller, as long as the same law is broken.
#[must_use]
pub fn shrink(mut steps: Vec<Step>, mut broken: Broken, bug: Option<Bug>) -> (Vec<Step>, Broken) {
    let (mut part, mut tries) = (steps.len().div_ceil(2), 0);
    while part > 0 && tries < TRIES {
        let (mut from, mut shorter) = (0, false);
        while from < steps.len() && tries < TRIES {
            let upto = (from + part).min(steps.len());
            let without: Vec<Step> = steps[..from].iter().chain(&steps[upto..]).cloned().collect();
            tries += 1;
            match play(&without, bug) {
                Err(again) if again.law == broken.law => {
                    steps = without;
                    steps.truncate(again.step + 1);
                    (broken, shorter) = (again, true);
                }
                _ => from += part,
            }
        }
        if !shorter {
            part /= 2;
        }
    }
    (steps, broken)
}
