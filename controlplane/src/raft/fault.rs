//! Why a replica has stopped: set once, for good.

use std::sync::Arc;

use tokio::sync::watch;

/// The first reason to stop that anybody found. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Fault(Arc<watch::Sender<Option<String>>>);

impl Fault {
    pub(super) fn none() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }

    /// Stops the replica, unless it has stopped already: the first reason is the cause.
    pub(super) fn set(&self, why: String) {
        self.0.send_if_modified(|fault| {
            let first = fault.is_none();
            if first {
                tracing::error!(%why, "this replica stops");
                *fault = Some(why);
            }
            first
        });
    }

    pub(super) fn get(&self) -> Option<String> {
        self.0.borrow().clone()
    }

    /// Returns when there is a fault.
    pub(super) async fn wait(&self) -> String {
        let mut watch = self.0.subscribe();
        // The sender lives as long as self: waiting cannot fail.
        let fault = watch.wait_for(Option::is_some).await.ok().and_then(|fault| fault.clone());
        fault.unwrap_or_default()
    }
}
