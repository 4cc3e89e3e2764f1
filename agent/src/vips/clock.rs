//! The clock of leases: it also runs while the machine is suspended, nobody sets it, and all processes of a machine read
//! the same.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Time since the machine started (`CLOCK_BOOTTIME`).
#[must_use]
pub fn now() -> Duration {
    // It is never negative.
    Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default()
}
