//! The fault of a replica: the reason why it stopped. Set once, never cleared.

use std::error::Error;
use std::sync::Arc;

use romana_daemon::error::any_cause;
use romana_storage::history::HistoryError;
use romana_storage::wal::WalError;
use tokio::sync::watch;

/// Kind of a fault, for callers that handle some kinds specially.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// A disk is full: a restart succeeds once there is free space.
    DiskFull,
    /// The data directory is an older copy: it must be replaced; a restart does not help.
    OlderCopy,
    /// Durable bytes are corrupt: the replica must be re-seeded from the other members.
    Damaged,
    /// Any other fault: an operator must investigate.
    Other,
}

/// The first reason to stop. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Fault(Arc<watch::Sender<Option<(FaultKind, String)>>>);

impl Fault {
    pub(super) fn none() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }

    /// Stops the replica, unless it has stopped already: the first reason is kept as the cause.
    pub(super) fn set(&self, why: String) {
        self.set_kind(FaultKind::Other, why);
    }

    /// [`Self::set`] for a storage error: derives whether the disk is full or its data is damaged.
    pub(super) fn set_error(&self, why: String, error: &(dyn Error + 'static)) {
        let kind = match () {
            () if romana_storage::disk::is_full(error) => FaultKind::DiskFull,
            () if is_damage(error) => FaultKind::Damaged,
            () => FaultKind::Other,
        };
        self.set_kind(kind, why);
    }

    /// [`Self::set`] with an explicit kind.
    pub(super) fn set_kind(&self, kind: FaultKind, why: String) {
        self.0.send_if_modified(|fault| {
            let first = fault.is_none();
            if first {
                tracing::error!(%why, "stopping this replica");
                *fault = Some((kind, why));
            }
            first
        });
    }

    pub(super) fn get(&self) -> Option<String> {
        self.0.borrow().as_ref().map(|(_, why)| why.clone())
    }

    pub(super) fn kind(&self) -> Option<FaultKind> {
        self.0.borrow().as_ref().map(|(kind, _)| *kind)
    }

    /// Waits for a fault.
    pub(super) async fn wait(&self) -> String {
        self.wait_kind().await.1
    }

    /// Like [`Self::wait`], with the kind.
    pub(super) async fn wait_kind(&self) -> (FaultKind, String) {
        let mut watch = self.0.subscribe();
        // The sender lives as long as self: waiting cannot fail.
        let fault = watch.wait_for(Option::is_some).await.ok().and_then(|fault| fault.clone());
        fault.unwrap_or((FaultKind::Other, String::new()))
    }
}

/// Whether an error, or one of its causes, reports corruption of durable bytes.
fn is_damage(error: &(dyn Error + 'static)) -> bool {
    any_cause(error, &|cause| {
        matches!(
            cause.downcast_ref(),
            Some(HistoryError::Damaged { .. } | HistoryError::Diverged { .. })
        ) || matches!(cause.downcast_ref(), Some(WalError::Damaged { .. }))
    })
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn damage_is_told_from_other_errors() {
        let damaged = || HistoryError::Damaged { file: "f".into(), offset: 7, why: "a sum".into() };
        let kind = |error: &(dyn Error + 'static)| {
            let fault = Fault::none();
            fault.set_error("why".into(), error);
            fault.kind()
        };
        assert_eq!(kind(&damaged()), Some(FaultKind::Damaged));
        assert_eq!(kind(&io::Error::other(damaged())), Some(FaultKind::Damaged));
        assert_eq!(kind(&io::Error::from(io::ErrorKind::StorageFull)), Some(FaultKind::DiskFull));
        assert_eq!(kind(&io::Error::other("else")), Some(FaultKind::Other));
    }
}
