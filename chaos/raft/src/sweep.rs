//! Runs many seeds, one process each, so that runs are independent.

use std::ops::Range;
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::lie::Lie;

/// Number of output lines shown per seed.
const SHOWN: usize = 4;

pub(crate) fn sweep(seeds: Range<u64>, jobs: usize, lie: Lie, first: bool) -> Result<ExitCode> {
    let program = std::env::current_exe().context("where this program is")?;
    let lie = lie.name();
    let (next, broken) = (AtomicU64::new(seeds.start), AtomicU64::new(0));
    let (enough, failure) = (AtomicBool::new(false), Mutex::new(None));
    let started = Instant::now();
    let work = || {
        while !enough.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let arguments = ["run", "--seed", &seed.to_string(), "--lie", &lie];
            let output = match Command::new(&program).args(arguments).output() {
                Ok(output) => output,
                Err(error) => {
                    enough.store(true, Ordering::Relaxed);
                    *failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner) =
                        Some(error);
                    return;
                }
            };
            if output.status.success() {
                continue;
            }
            broken.fetch_add(1, Ordering::Relaxed);
            enough.fetch_or(first, Ordering::Relaxed);
            let said = String::from_utf8_lossy(&output.stdout);
            let cause = String::from_utf8_lossy(&output.stderr);
            let mut report = format!("seed {seed} ({}):\n", output.status);
            for line in said.lines().take(SHOWN).chain(cause.lines().take(SHOWN)) {
                report += &format!("    {line}\n");
            }
            println!("{report}    again: {} {}", program.display(), arguments.join(" "));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(work);
        }
    });
    if let Some(error) = failure.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        return Err(error).context("start a run");
    }
    let (ran, broken) =
        (next.load(Ordering::Relaxed).min(seeds.end) - seeds.start, broken.into_inner());
    let took = started.elapsed().as_secs_f64();
    println!("{ran} seeds, {broken} broke a law; {took:.1} s");
    Ok(if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
