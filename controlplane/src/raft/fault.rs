//! Why a replica has stopped: set once, for good.

use std::sync::Arc;

use tokio::sync::watch;

/// What kind of reason it is, as far as somebody acts on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// A disk is full: it may start again when there is room.
    DiskFull,
    /// The data directory is an older copy of itself: it must be replaced, and starting again does not help.
    OlderCopy,
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

    /// [`Self::set`] for a failed write: says whether the disk is full.
    pub(super) fn set_error(&self, why: String, error: &(dyn std::error::Error + 'static)) {
        let full = crate::disk::is_full(error);
        self.set_kind(if full { FaultKind::DiskFull } else { FaultKind::Other }, why);
    }

    /// [`Self::set`], with its kind.
    pub(super) fn set_kind(&self, kind: FaultKind, why: String) {
        self.0.send_if_modified(|fault| {
            let first = fault.is_none();
            if first {
                tracing::error!(%why, "this replica stops");
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
