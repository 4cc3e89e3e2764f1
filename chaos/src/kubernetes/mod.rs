//! Objects of a Kubernetes API server that change at random during a run, past the replicas, and what the log should
//! have of them.
//!
//! ```text
//!   seed ──► Driver ──► API server ──► replicas ──► log
//!                          └──► Asked (read when all is quiet) ──► differences ◄── state folded from the history
//! ```
//! The changes do not know what the log makes of them, and [`Asked`] is read from the API server, so a request whose
//! outcome is unknown matters to nobody.

mod asked;
mod changes;
mod own;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use romana_statemachine::name::HostName;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::task::JoinHandle;

pub use asked::{Asked, Wanted, differences};
use changes::Hand;
pub use changes::{Count, NODE_PREFIX};
pub use own::commands as operators_commands;

use crate::cluster::Objects;

/// Longest pause between two changes.
const PAUSE_MAX: Duration = Duration::from_millis(40);

/// Whether a host comes from Kubernetes, by its name.
#[must_use]
pub fn is_node(name: &HostName) -> bool {
    name.as_str().starts_with(NODE_PREFIX)
}

/// Changes objects until it is dropped.
#[derive(Debug)]
pub struct Driver {
    /// Held while an object is changed.
    turn: Arc<Mutex<Hand>>,
    task: JoinHandle<()>,
}

/// While it exists, no object changes.
#[derive(Debug)]
pub struct Quiet(OwnedMutexGuard<Hand>);

impl Driver {
    /// Creates the objects that stay, and starts to change others.
    ///
    /// # Errors
    /// The API server does not answer, or refuses one.
    pub async fn start(objects: Objects, seed: u64) -> Result<Self> {
        let mut hand = Hand::new(objects, seed).await?;
        hand.create_what_stays().await?;
        let turn = Arc::new(Mutex::new(hand));
        let turns = Arc::clone(&turn);
        let task = tokio::spawn(async move {
            loop {
                let pause = {
                    let mut hand = turns.lock().await;
                    Box::pin(hand.change()).await;
                    hand.pause(PAUSE_MAX)
                };
                tokio::time::sleep(pause).await;
            }
        });
        Ok(Self { turn, task })
    }

    /// Ends the changes for good; call it while all is [`quiet`](Self::quiet).
    pub fn stop(&self) {
        self.task.abort();
    }

    /// Waits for the change that is under way, and lets no other begin.
    ///
    /// # Errors
    /// The task that changes objects has ended by itself.
    pub async fn quiet(&self) -> Result<Quiet> {
        let quiet = Quiet(Arc::clone(&self.turn).lock_owned().await);
        ensure!(!self.task.is_finished(), "the task that changes objects has ended");
        Ok(quiet)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Quiet {
    /// Removes what a namespace has left behind that was deleted by half, and reads what the log should have.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn asked(&mut self) -> Result<Asked> {
        self.0.tidy().await?;
        Asked::read(self.0.objects(), self.0.has_slices()).await
    }

    /// The number of requests so far.
    #[must_use]
    pub fn count(&self) -> Count {
        self.0.count()
    }
}
