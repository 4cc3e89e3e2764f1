//! Why a replica has stopped: set once, for good.

use std::error::Error;
use std::sync::Arc;

use romana_daemon::error::any_cause;
use romana_storage::history::HistoryError;
use romana_storage::wal::WalError;
use tokio::sync::watch;

/// What kind of reason it is, as far as somebody acts on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// A disk is full: it may start again when there is room.
    DiskFull,
    /// The data directory is an older copy of itself: it must be replaced, and starting again does not help.
    OlderCopy,
    /// Bytes that were durable are not what was written: what the others have must be copied to it anew.
    Damaged,
    /// Anything else: somebody must look.
    Other,
}

/// The first reason to stop that anybody found. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Fault(Arc<watch::Sender<Option<(FaultKind, String)>>>);

impl Fault {
    pub(super) fn none() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }

    /// Stops the replica, unless it has stopped already: the first reason is the cause.
    pub(super) fn set(&self, why: String) {
        self.set_kind(FaultKind::Other, why);
    }

    /// [`Self::set`] for what storage says: whether the disk is full, or what is on it is damaged.
    pub(super) fn set_error(&self, why: String, error: &(dyn Error + 'static)) {
        let kind = match () {
            () if romana_storage::disk::is_full(error) => FaultKind::DiskFull,
            () if is_damage(error) => FaultKind::Damaged,
            () => FaultKind::Other,
        };
        self.set_kind(kind, why);
    }

    /// [`Self::set`], with its kind.
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

    /// Returns when there is a fault.
    pub(super) async fn wait(&self) -> String {
        self.wait_kind().await.1
    }

    /// [`Self::wait`], with its kind.
    pub(super) async fn wait_kind(&self) -> (FaultKind, String) {
        let mut watch = self.0.subscribe();
        // The sender lives as long as self: waiting cannot fail.
        let fault = watch.wait_for(Option::is_some).await.ok().and_then(|fault| fault.clone());
        fault.unwrap_or((FaultKind::Other, String::new()))
    }
}

/// Whether an error, or one of its causes, says that durable bytes have changed.
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
