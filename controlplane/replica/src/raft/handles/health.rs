//! Health: whether a replica can serve, why it stopped, and the problems of its leader tasks.

use romana_daemon::error::chain;
use romana_daemon::problems::Problems;

use crate::raft::{FaultKind, Shared};

/// Readiness and fault of this replica.
#[derive(Clone, Copy)]
pub struct Health<'a>(pub(in crate::raft) &'a Shared);

impl<'a> Health<'a> {
    /// Whether this replica can serve: [`Self::not_ready`] is `None`.
    #[must_use]
    pub fn is_ready(self) -> bool {
        self.not_ready().is_none()
    }

    /// Why this replica cannot serve: it has a fault, has not caught up with its own log, or no majority has
    /// confirmed a leader within about the last second.
    #[must_use]
    pub fn not_ready(self) -> Option<String> {
        if let Some(fault) = self.fault() {
            return Some(format!("this replica has stopped: {fault}"));
        }
        if !self.0.view.recovered() {
            return Some("this replica is recovering: it applies its own log".into());
        }
        let seen = self.0.view.get();
        match (seen.leader, seen.confirmed) {
            (Some(_), true) => None,
            (None, _) => {
                Some("no leader is known: more than half of the replicas must be up".into())
            }
            (Some(id), false) if id == self.0.id() => {
                Some("this replica led last, and no majority follows it now".into())
            }
            (Some(id), false) => {
                Some(format!("replica {id} led last, and no majority confirms it now"))
            }
        }
    }

    /// Waits until [`Self::is_ready`] holds, or for a fault.
    ///
    /// # Errors
    /// The fault.
    pub async fn wait_ready(self) -> Result<(), String> {
        let mut news = self.0.view.watch();
        loop {
            if self.is_ready() {
                return Ok(());
            }
            tokio::select! {
                why = self.0.fault.wait() => return Err(why),
                _ = news.changed() => {}
            }
        }
    }

    /// Why this replica has stopped, if it has. It does not recover by itself.
    #[must_use]
    pub fn fault(self) -> Option<String> {
        self.0.fault.get().or_else(|| self.0.log.wal().failed().map(|error| chain(&*error)))
    }

    /// The kind of [`Self::fault`].
    #[must_use]
    pub fn fault_kind(self) -> Option<FaultKind> {
        self.0.fault.kind()
    }

    /// Waits until this replica has stopped, and returns the reason.
    pub async fn wait_fault(self) -> (FaultKind, String) {
        self.0.fault.wait_kind().await
    }

    /// Problems of the leader tasks on this replica.
    #[must_use]
    pub fn problems(self) -> &'a Problems {
        &self.0.host.problems
    }
}
