//! Detects a run in which simulated time stands still, because a task retries forever without a pause.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Interval of checks in real time. A normal run simulates thousands of milliseconds in it.
const LOOK: Duration = Duration::from_secs(30);

/// The simulated time, milliseconds.
static NOW: AtomicU64 = AtomicU64::new(0);

/// Publishes the simulated time.
pub(crate) fn tick(now: u64) {
    NOW.store(now, Ordering::Relaxed);
}

/// Ends the process when time stands still. (A busy loop cannot be cancelled.)
pub(crate) fn start(seed: u64) {
    std::thread::spawn(move || {
        let mut last = None;
        loop {
            std::thread::sleep(LOOK);
            let now = NOW.load(Ordering::Relaxed);
            if last == Some(now) {
                println!("BROKEN ends: seed {seed} stands still at {now} ms");
                std::process::exit(1);
            }
            last = Some(now);
        }
    });
}
