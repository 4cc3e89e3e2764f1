//! Wrong wall clocks, controlled through the preloaded shim.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};

use super::Cluster;

/// The error of a place's wall clock. Its monotonic clocks are correct.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WrongClock {
    /// Offset, nanoseconds.
    pub ahead: i64,
    /// Drift from now on, millionths of the time.
    pub drift: i64,
    /// Amplitude of a random error of each reading, microseconds.
    pub lies: u32,
}

impl Cluster {
    /// Sets the error of a place's clock.
    ///
    /// # Errors
    /// The clock file cannot be written.
    pub fn set_clock(&self, at: usize, clock: WrongClock) -> Result<()> {
        let steady = clock_gettime(ClockId::Monotonic);
        let since = steady.tv_sec * 1_000_000_000 + steady.tv_nsec;
        let lies = i64::from(clock.lies) * 1_000;
        let numbers = [clock.ahead, clock.drift, since, lies].map(i64::to_ne_bytes).concat();
        // Written in place, as the shim has it mapped.
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
