//! Snapshots: the newest one, and taking a new one.

use romana_statemachine::Revision;

use crate::raft::Shared;

/// Snapshots of the state. The log is purged up to the newest one.
#[derive(Clone, Copy)]
pub struct Snapshots<'a>(pub(in crate::raft) &'a Shared);

impl Snapshots<'_> {
    /// Revision of this replica's newest snapshot; 0 when there is none.
    #[must_use]
    pub fn revision(self) -> Revision {
        self.0.host.machine.snapshot_revision()
    }

    /// Triggers a snapshot, after which the log is purged.
    ///
    /// # Errors
    /// Why Raft cannot take one.
    pub async fn take(self) -> Result<(), String> {
        self.0.host.raft.trigger().snapshot().await.map_err(|error| error.to_string())
    }
}
