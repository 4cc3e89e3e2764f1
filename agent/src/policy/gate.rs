//! The handle of the enforcer: attachments announce their addresses, and wait for their policy.

use std::net::IpAddr;
use std::time::Duration;

use romana_statemachine::Revision;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::inputs::Attached;
use crate::ipc::Key;

/// How long an ADD waits for its policy.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) type Addresses = Vec<(IpAddr, Attached)>;

/// A message to the enforcer.
#[derive(Debug)]
pub(super) enum Ask {
    /// All attachments at start-up; the enforcer waits for this first.
    Begin(Vec<(Key, Addresses)>),
    /// The addresses of an attachment now.
    Note(Key, Addresses),
    /// Answer when the kernel has the policies of this revision for all attachments noted before.
    Settle(Revision, oneshot::Sender<()>),
    /// Answer whether the kernel holds what was written; repair it if not.
    Verify(oneshot::Sender<bool>),
}

/// The handle of the enforcer.
#[derive(Clone, Debug)]
pub struct EnforcerHandle(pub(super) mpsc::UnboundedSender<Ask>);

/// The policy of a container is not in place.
#[derive(Debug, thiserror::Error)]
#[error("the policy of the container is not in place within {PATIENCE:?}")]
pub struct NotSettled;

impl EnforcerHandle {
    /// Announces all attachments at start-up.
    pub fn begin(&self, all: Vec<(Key, Addresses)>) {
        // A send error means that the enforcer has stopped.
        _ = self.0.send(Ask::Begin(all));
    }

    /// Announces the addresses of an attachment; none when it is removed.
    pub fn note(&self, key: Key, addresses: Addresses) {
        _ = self.0.send(Ask::Note(key, addresses));
    }

    /// Waits until the kernel has the policies of a revision for everything announced before.
    ///
    /// # Errors
    /// [`NotSettled`]: the container stays isolated.
    pub async fn settled(&self, revision: Revision) -> Result<(), NotSettled> {
        let (done, waits) = oneshot::channel();
        _ = self.0.send(Ask::Settle(revision, done));
        match timeout(PATIENCE, waits).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(NotSettled),
        }
    }

    /// Whether the kernel holds what was written. If not, it is repaired on return.
    ///
    /// # Errors
    /// [`NotSettled`]: the kernel cannot be read.
    pub async fn is_intact(&self) -> Result<bool, NotSettled> {
        let (done, waits) = oneshot::channel();
        _ = self.0.send(Ask::Verify(done));
        match timeout(PATIENCE, waits).await {
            Ok(Ok(intact)) => Ok(intact),
            _ => Err(NotSettled),
        }
    }
}
