//! Time: log time, and the wall clocks of the members.

use romana_statemachine::Millis;

use crate::raft::{ClocksStatus, Shared};

/// Log time, and the members' clocks.
#[derive(Clone, Copy)]
pub struct Clocks<'a>(pub(in crate::raft) &'a Shared);

impl Clocks<'_> {
    /// Log time as this replica knows it: the timestamp of the next entry if it led.
    #[must_use]
    pub fn log_time(self) -> Millis {
        self.0.host.clocks.log_time()
    }

    /// A time that has certainly passed: log time, bounded by what a majority of the members' clocks confirm.
    /// `None`: they disagree, or too few are reachable. Irreversible actions wait for this time.
    #[must_use]
    pub fn confirmed_time(self) -> Option<Millis> {
        self.0.host.clocks.confirmed_time()
    }

    /// The members' clocks as this replica sees them.
    #[must_use]
    pub fn status(self) -> ClocksStatus {
        self.0.host.clocks.status()
    }
}
