//! Shortens a schedule that breaks a law.

use super::{Broken, Bug, Step, play};

/// Limit of attempts.
const TRIES: usize = 3_000;

/// Removes steps, in ever smaller parts, as long as the same law is broken.
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
