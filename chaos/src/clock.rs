//! The clock of a run.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use romana_statemachine::Millis;

/// Nanoseconds since the start of the run, on the judge's clock.
pub type Nanos = u64;

/// The clock of a run.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant, Millis);

impl Clock {
    /// Starts at zero.
    #[must_use]
    pub fn start() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(Instant::now(), Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)))
    }

    /// Wall-clock time at zero.
    #[must_use]
    pub fn began(&self) -> Millis {
        self.1
    }

    /// The current time.
    #[must_use]
    pub fn now(&self) -> Nanos {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(Nanos::MAX)
    }
}
