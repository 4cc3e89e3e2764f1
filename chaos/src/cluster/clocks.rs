//! Clocks that are wrong: told to the shim, which every replica has preloaded.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};

use super::Cluster;

/// What is wrong with the time of day at a place. Its other clocks are true.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WrongClock {
    /// How far it is ahead, nanoseconds.
    pub ahead: i64,
    /// How much it gains from now on, millionths of the time.
    pub drift: i64,
    /// How far it lies, microseconds: it shows another time whenever it is read.
    pub lies: u32,
}

impl Cluster {
    /// Sets a place's clock wrong, or right.
    ///
    /// # Errors
    /// Its file cannot be written.
    pub fn set_clock(&self, at: usize, clock: WrongClock) -> Result<()> {
        let steady = clock_gettime(ClockId::Monotonic);
        let since = steady.tv_sec * 1_000_000_000 + steady.tv_nsec;
        let lies = i64::from(clock.lies) * 1_000;
        let numbers = [clock.ahead, clock.drift, since, lies].map(i64::to_ne_bytes).concat();
        // Written in place: the shim has it mapped.
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true);
        let file = options.open(self.clock_file(at)).context("set a clock")?;
        file.write_all_at(&numbers, 0)?;
        Ok(())
    }

    pub(super) fn clock_file(&self, at: usize) -> PathBuf {
        self.dir.path().join(format!("clock-{}", at + 1))
    }
}
