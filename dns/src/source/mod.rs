//! Where the data of the zones come from.

#[cfg(feature = "kubernetes")]
pub mod kubernetes;
#[cfg(feature = "kubernetes")]
mod session;
#[cfg(feature = "kubernetes")]
pub mod translate;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How far the API server is followed: written by the source, read by the probe.
#[derive(Debug, Default)]
pub struct Status(Mutex<Progress>);

/// The same at a moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Whether watches are open now.
    pub follows: bool,
    /// When the API server last said something; `None`: not since the start.
    contact: Option<Instant>,
    /// Complete lists so far.
    pub lists: u64,
    /// Sessions that failed.
    pub failures: u64,
}

impl Progress {
    /// Time since the API server last said something.
    #[must_use]
    pub fn silence(&self) -> Option<Duration> {
        self.contact.map(|contact| contact.elapsed())
    }
}

impl Status {
    /// The state now.
    #[must_use]
    pub fn now(&self) -> Progress {
        *self.lock()
    }

    /// The API server has said something.
    pub fn contact(&self) {
        self.lock().contact = Some(Instant::now());
    }

    /// Everything has been listed.
    pub fn listed(&self) {
        let mut progress = self.lock();
        progress.follows = true;
        progress.lists += 1;
    }

    /// A session has ended.
    pub fn failed(&self) {
        let mut progress = self.lock();
        progress.follows = false;
        progress.failures += 1;
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
