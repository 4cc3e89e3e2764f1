//! Reads: what the local state includes, and whether that is enough for a reader.

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::raft::known::view::pause;
use crate::raft::{ReadError, Shared, TopicRevisions};

/// What this replica has applied, and whether that is enough for a reader.
#[derive(Clone, Copy)]
pub struct Reads<'a>(pub(in crate::raft) &'a Shared);

impl Reads<'_> {
    /// Makes a read linearizable: after `Ok`, the local state includes every write that was
    /// acknowledged, by any replica, before the call.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`] when that is not confirmed by `deadline`.
    pub async fn linearize(self, deadline: Instant) -> Result<(), ReadError> {
        let mut news = self.0.view.watch();
        loop {
            let asked = timeout_at(deadline, self.0.reads.index()).await;
            let why = match asked.unwrap_or_else(|_| Err("no answer in time".into())) {
                Ok(index) => {
                    let applied = timeout_at(deadline, self.0.host.machine.wait_applied(index));
                    let behind = || ReadError::Unavailable { why: "this replica is behind".into() };
                    return applied.await.map_err(|_| behind());
                }
                Err(why) => why,
            };
            if let Some(why) = self.0.health().fault() {
                return Err(ReadError::Unavailable { why });
            }
            if !pause(&mut news, deadline).await {
                return Err(ReadError::Unavailable { why });
            }
        }
    }

    /// Waits until the local state is as new as any that this replica has served. After a restart it begins with its
    /// last snapshot, and applies later entries once a leader announces the commit index.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`] when `deadline` passes first.
    pub async fn recovered(self, deadline: Instant) -> Result<(), ReadError> {
        let mut news = self.0.view.watch();
        loop {
            if let Some(why) = self.0.health().fault() {
                return Err(ReadError::Unavailable { why });
            }
            if self.0.view.recovered() {
                return Ok(());
            }
            if !pause(&mut news, deadline).await {
                let why = "this replica was restarted and has not caught up with its own log";
                return Err(ReadError::Unavailable { why: why.into() });
            }
        }
    }

    /// Index after the last applied entry. Changes whenever the local state may have changed.
    #[must_use]
    pub fn applied(self) -> watch::Receiver<u64> {
        self.0.host.machine.applied()
    }

    /// The latest change of each topic, as applied on this replica.
    #[must_use]
    pub fn topics(self) -> watch::Receiver<TopicRevisions> {
        self.0.host.machine.topics()
    }
}
