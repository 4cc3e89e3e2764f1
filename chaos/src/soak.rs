//! Repeated runs with different faults, sizes and seeds, all drawn from one seed.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use romana_statemachine::plural;

use crate::nemesis::Fault;
use crate::report::html;
use crate::run::{Report, RunOptions, run};

/// Options of a soak test.
#[derive(Clone, Debug)]
pub struct SoakOptions {
    /// The seed of all rounds.
    pub seed: u64,
    /// The last round starts before this is over.
    pub duration: Duration,
    /// How long faults are injected in a round, seconds.
    pub round: u64,
    /// Faults to draw from.
    pub faults: Vec<Fault>,
    /// Whether to continue after a broken law.
    pub keep_going: bool,
    /// Directory for reports of rounds that broke a law.
    pub reports: Option<PathBuf>,
    pub romanad: PathBuf,
    /// Parent of the clusters' directories.
    pub parent: Option<PathBuf>,
}

/// Totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    pub rounds: u64,
    /// Rounds that broke a law.
    pub broken: u64,
    pub calls: u64,
    pub faults: u64,
}

/// Options of round `number`, drawn from the seed.
#[must_use]
pub fn round(options: &SoakOptions, number: u64) -> RunOptions {
    let mut rng = SmallRng::seed_from_u64(options.seed.wrapping_add(number));
    // A subset: with all kinds at once, each occurs rarely.
    let count = rng.random_range(1..=options.faults.len().max(1));
    let mut faults: Vec<Fault> = options.faults.sample(&mut rng, count).copied().collect();
    if number % 4 == 3 {
        faults.clone_from(&options.faults);
    }
    RunOptions {
        seed: rng.random(),
        seconds: options.round,
        clients: [4, 16, 16, 32, 64].choose(&mut rng).copied().unwrap_or(16),
        replicas: [3, 3, 3, 5].choose(&mut rng).copied().unwrap_or(3),
        interval: Duration::from_millis(rng.random_range(700..4000)),
        faults,
        kubernetes: false,
        lying_disk: false,
        romanad: options.romanad.clone(),
        previous: None,
        parent: options.parent.clone(),
        keep: false,
    }
}

/// Runs rounds, and prints the result of each.
///
/// # Errors
/// A round could not be carried out.
pub async fn soak(options: &SoakOptions) -> Result<Total> {
    let start = Instant::now();
    let mut total = Total::default();
    while start.elapsed() < options.duration {
        let drawn = round(options, total.rounds);
        let report = run(&drawn).await.with_context(|| drawn.reproduce())?;
        total.rounds += 1;
        total.calls += report.calls;
        total.faults += report.story.faults.len() as u64;
        println!("{}", line(&total, start.elapsed(), &drawn, &report));
        if report.violations.is_empty() {
            continue;
        }
        total.broken += 1;
        for violation in &report.violations {
            println!("BROKEN {violation}");
        }
        println!("again with\n{}", drawn.reproduce());
        if let Some(dir) = &options.reports {
            std::fs::create_dir_all(dir)?;
            let file = dir.join(format!("round-{}.html", total.rounds));
            std::fs::write(&file, html(&report.story))?;
            println!("report: {}", file.display());
        }
        if !options.keep_going {
            break;
        }
    }
    Ok(total)
}

fn line(total: &Total, elapsed: Duration, drawn: &RunOptions, report: &Report) -> String {
    let faults: Vec<String> = drawn.faults.iter().map(ToString::to_string).collect();
    let shown = if faults.len() > 5 { format!("{} kinds", faults.len()) } else { faults.join(",") };
    format!(
        "{:>5} s  round {:>3}  seed {:<20}  {}, {}, {:>4} ms: {}, {} of {shown}: {}",
        elapsed.as_secs(),
        total.rounds,
        drawn.seed,
        plural(drawn.replicas, "replica"),
        plural(drawn.clients, "client"),
        drawn.interval.as_millis(),
        plural(report.calls, "call"),
        plural(report.story.faults.len(), "fault"),
        if report.violations.is_empty() { "held" } else { "BROKEN" }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_drawn_from_the_seed() {
        let options = SoakOptions {
            seed: 5,
            duration: Duration::ZERO,
            round: 30,
            faults: Fault::list("all").unwrap(),
            keep_going: false,
            reports: None,
            romanad: PathBuf::from("romanad"),
            parent: None,
        };
        let commands: Vec<String> = (0..8).map(|n| round(&options, n).reproduce()).collect();
        let again: Vec<String> = (0..8).map(|n| round(&options, n).reproduce()).collect();
        assert_eq!(commands, again);
        assert!((1..8).all(|n| commands[n] != commands[n - 1]));
        assert_eq!(round(&options, 3).faults.len(), options.faults.len());
    }
}
