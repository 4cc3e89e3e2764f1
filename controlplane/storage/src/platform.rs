//! # The platform
//!
//! Files, connections between replicas, threads, the wall clock and random numbers: everything that can make two runs
//! of the same program differ. Normally these are re-exports of `std` and tokio. Built with the feature `simulation`, they
//! are an in-memory simulation in which three replicas share a thread, a clock and a seed (`chaos/raft`). The rest of
//! the program does not know which of the two it uses.
//!
//! Out of scope: the HTTP API and its sockets, and the audit index, on which no replica's state depends.

#[cfg(not(feature = "simulation"))]
mod real;
#[cfg(feature = "simulation")]
mod simulated;

#[cfg(not(feature = "simulation"))]
pub use real::*;
#[cfg(feature = "simulation")]
pub use simulated::*;

/// The work of a [`Worker`]: processes its jobs sequentially.
pub trait Work: Send + Sized + 'static {
    type Job: Send + 'static;

    /// Processes a job, and any number of queued ones (`more`).
    fn take(&mut self, first: Self::Job, more: &mut dyn FnMut() -> Option<Self::Job>);

    /// Called when the queue is closed and empty.
    fn end(self) {}
}
