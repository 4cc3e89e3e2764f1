//! Snapshots: how far the newest goes, and taking one.

use romana_statemachine::Revision;

use crate::raft::Shared;

/// Snapshots of the state, behind which the log is purged.
#[derive(Clone, Copy)]
pub struct Snapshots<'a>(pub(in crate::raft) &'a Shared);

impl Snapshots<'_> {
    /// Revision of this replica's newest snapshot; 0 when there is none.
    #[must_use]
    pub fn revision(self) -> Revision {
        self.0.host.machine.snapshot_revision()
    }

    /// Writes a snapshot soon, and purges the log behind it.
    ///
    /// # Errors
    /// Why Raft cannot.
    pub async fn take(self) -> Result<(), String> {
        self.0.host.raft.trigger().snapshot().await.map_err(|error| error.to_string())
    }
}
