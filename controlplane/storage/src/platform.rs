//! # What the replica asks of the machine below it
//!
//! Files, connections between replicas, threads, the wall clock and dice: everything by which two runs of
//! the same program can differ. Usually that is `std` and tokio, by other names and nothing more. Built with
//! `--cfg romana_sim` it is a machine made of memory, in which three replicas share a thread, a clock and a
//! seed (`chaos/raft`); the rest of the program does not know which of the two it has.
//!
//! Left out: the HTTP API and its sockets, and the audit's index, which no replica's state depends on.

#[cfg(not(romana_sim))]
mod real;
#[cfg(romana_sim)]
mod simulated;

#[cfg(not(romana_sim))]
pub use real::*;
#[cfg(romana_sim)]
pub use simulated::*;

/// What a [`Worker`] does with its jobs, one after the other.
pub trait Work: Send + Sized + 'static {
    /// What can be asked of it.
    type Job: Send + 'static;

    /// Does a job, and of those that wait already (`more`) as many as it likes.
    fn take(&mut self, first: Self::Job, more: &mut dyn FnMut() -> Option<Self::Job>);

    /// Called when the queue is closed and empty.
    fn end(self) {}
}
