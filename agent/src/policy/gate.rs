//! The way to the enforcer: attachments say what they have, and wait for their policy.

use std::net::IpAddr;
use std::time::Duration;

use romana_statemachine::Revision;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::world::Attached;
use crate::wire::Key;

/// How long an ADD waits for its policy.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) type Addresses = Vec<(IpAddr, Attached)>;

/// What attachments say to the enforcer, and ask of it.
#[derive(Debug)]
pub(super) enum Ask {
    /// All that is attached; nothing is done before this is known.
    Begin(Vec<(Key, Addresses)>),
    /// What an attachment has now.
    Note(Key, Addresses),
    /// When the kernel has all of this revision, and all that was noted before.
    Settle(Revision, oneshot::Sender<()>),
    /// Whether the kernel holds what was written to it; what it does not is put back.
    Verify(oneshot::Sender<bool>),
}

/// The way to the enforcer.
#[derive(Clone, Debug)]
pub struct Gate(pub(super) mpsc::UnboundedSender<Ask>);

/// The policy of a container is not in place.
#[derive(Debug, thiserror::Error)]
#[error("the policy of the container is not in place within {PATIENCE:?}")]
pub struct NotSettled;

impl Gate {
    /// Says what is attached when the agent starts.
    pub fn begin(&self, all: Vec<(Key, Addresses)>) {
        // A task that has ended needs nothing.
        _ = self.0.send(Ask::Begin(all));
    }

    /// Says what an attachment has now; nothing, when it goes.
    pub fn note(&self, key: Key, addresses: Addresses) {
        _ = self.0.send(Ask::Note(key, addresses));
    }

    /// Waits until the kernel has the policies of a revision for everything that was noted.
    ///
    /// # Errors
    /// [`NotSettled`]: it stays closed meanwhile.
    pub async fn settled(&self, revision: Revision) -> Result<(), NotSettled> {
        let (done, waits) = oneshot::channel();
        _ = self.0.send(Ask::Settle(revision, done));
        match timeout(PATIENCE, waits).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(NotSettled),
        }
    }

    /// Whether the kernel holds what was written to it. If not, that is restored on return.
    ///
    /// # Errors
    /// [`NotSettled`]: it cannot be read.
    pub async fn is_intact(&self) -> Result<bool, NotSettled> {
        let (done, waits) = oneshot::channel();
        _ = self.0.send(Ask::Verify(done));
        match timeout(PATIENCE, waits).await {
            Ok(Ok(intact)) => Ok(intact),
            _ => Err(NotSettled),
        }
    }
}
