//! Notices a run in which time stands still: somebody tries again for ever, without a pause.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Real time between two looks. In a good run thousands of simulated milliseconds pass in it.
const LOOK: Duration = Duration::from_secs(30);

/// The simulated time, milliseconds.
static NOW: AtomicU64 = AtomicU64::new(0);

/// It is so late.
pub(crate) fn tick(now: u64) {
    NOW.store(now, Ordering::Relaxed);
}

/// Ends the process when time stands still. (What loops cannot be asked to stop.)
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
