//! Kubernetes in this program, if it was built with it: the feature `kubernetes`, which the tour does without.

use std::sync::Arc;

#[cfg(feature = "kubernetes")]
use futures_util::future::BoxFuture;
use prometheus_client::collector::Collector;
#[cfg(feature = "kubernetes")]
pub use romana_apiserver::{Access, AccessError};
#[cfg(feature = "kubernetes")]
use romana_kubernetes::watch::{Segments, Status};
use romana_replica::Pods;
#[cfg(feature = "kubernetes")]
use romana_statemachine::agent::PodRef;
#[cfg(feature = "kubernetes")]
use romana_statemachine::name::SegmentId;

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
    /// Knows the pods while this replica leads.
    pub(crate) pods: Option<Arc<dyn Pods>>,
}

#[cfg(feature = "kubernetes")]
impl Parts {
    /// The parts for this API server; without one, there are none.
    pub(crate) fn new(access: Option<&Access>) -> Self {
        let Some(access) = access else { return Self::default() };
        let (status, segments) = (Arc::new(Status::default()), Arc::new(Segments::default()));
        let task = Kubernetes::new(access.clone(), Arc::clone(&status), Arc::clone(&segments));
        let pods: Arc<dyn Pods> = Arc::new(Known(segments));
        Self { task: Some(Arc::new(task)), collectors: vec![Box::new(status)], pods: Some(pods) }
    }
}

/// The pods that the listener has seen.
#[cfg(feature = "kubernetes")]
struct Known(Arc<Segments>);

#[cfg(feature = "kubernetes")]
impl Pods for Known {
    fn segment<'a>(&'a self, pod: &'a PodRef) -> BoxFuture<'a, Option<SegmentId>> {
        Box::pin(self.0.of(pod))
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
