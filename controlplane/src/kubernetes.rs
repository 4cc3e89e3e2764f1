//! Kubernetes in this program, if it was built with it: the feature `kubernetes`, which the tour does without.

use std::sync::Arc;

use prometheus_client::collector::Collector;
#[cfg(feature = "kubernetes")]
pub use romana_kubernetes::access::{Access, AccessError};
#[cfg(feature = "kubernetes")]
use romana_kubernetes::watch::Status;

use crate::tasks::Task;
#[cfg(feature = "kubernetes")]
use crate::tasks::kubernetes::Kubernetes;
#[cfg(not(feature = "kubernetes"))]
pub use without::{Access, AccessError};

/// The parts that follow an API server.
#[derive(Default)]
pub(crate) struct Parts {
    pub(crate) task: Option<Arc<dyn Task>>,
    pub(crate) collectors: Vec<Box<dyn Collector>>,
}

#[cfg(feature = "kubernetes")]
impl Parts {
    /// The parts for this API server; without one, there are none.
    pub(crate) fn new(access: Option<&Access>) -> Self {
        let Some(access) = access else { return Self::default() };
        let status = Arc::new(Status::default());
        let task = Kubernetes::new(access.clone(), Arc::clone(&status));
        Self { task: Some(Arc::new(task)), collectors: vec![Box::new(status)] }
    }
}

/// A program without Kubernetes: the configuration refuses it, so there is no [`Access`].
#[cfg(not(feature = "kubernetes"))]
mod without {
    /// How to reach an API server: not at all.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum Access {}

    /// Why there are no credentials.
    #[derive(Debug, thiserror::Error)]
    pub enum AccessError {}

    impl Access {
        /// A client, if there could be one.
        ///
        /// # Errors
        /// Never.
        pub async fn client(&self) -> Result<(), AccessError> {
            match *self {}
        }
    }

    impl super::Parts {
        /// There are none.
        pub(crate) fn new(_: Option<&Access>) -> Self {
            Self::default()
        }
    }
}
