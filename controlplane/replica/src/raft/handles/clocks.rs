//! Time: that of the log, and what the members' clocks show.

use romana_statemachine::Millis;

use crate::raft::{ClocksStatus, Shared};

/// The time, as far as the members' clocks agree on it.
#[derive(Clone, Copy)]
pub struct Clocks<'a>(pub(in crate::raft) &'a Shared);

impl Clocks<'_> {
    /// Log time as this replica knows it: what the next entry would be stamped with if it led.
    #[must_use]
    pub fn log_time(self) -> Millis {
        self.0.host.clocks.log_time()
    }

    /// A time that has come for certain: log time, as far as a majority of the members' clocks confirm it.
    /// `None`: they do not agree, or too few are heard. What cannot be undone waits for this one.
    #[must_use]
    pub fn confirmed_time(self) -> Option<Millis> {
        self.0.host.clocks.confirmed_time()
    }

    /// What the members' clocks show, as this replica sees them.
    #[must_use]
    pub fn status(self) -> ClocksStatus {
        self.0.host.clocks.status()
    }
}
