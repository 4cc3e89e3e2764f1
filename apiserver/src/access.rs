//! Credentials for the API server: those of the pod that this program runs in, or those of a kubeconfig.

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use kube::Client;
use kube::Config;
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};

/// Timeout of a connection attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout of a read: longer than a watch, which may be silent until the server ends it.
pub(crate) const READ_TIMEOUT: Duration = Duration::from_secs(60);
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the address of the API server and the credentials come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// The service account of this program's pod.
    InCluster,
    /// The current context of a kubeconfig.
    Kubeconfig(PathBuf),
}

/// Why there are no credentials.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// This program does not run in a pod, or its pod has no service account.
    #[error(
        "no service account of a pod was found (without --kubeconfig, its credentials are used)"
    )]
    NotInCluster(#[source] InClusterError),
    /// The kubeconfig cannot be used.
    #[error("kubeconfig {path} cannot be used")]
    Kubeconfig { path: String, source: KubeconfigError },
    /// A certificate, key or address in the credentials cannot be used.
    #[error("the credentials for the API server cannot be used")]
    Unusable(#[source] kube::Error),
}

impl Access {
    /// A client with these credentials, read again at each call. It does not connect.
    ///
    /// # Errors
    /// [`AccessError`].
    pub async fn client(&self) -> Result<Client, AccessError> {
        let mut config = match self {
            Self::InCluster => Config::incluster().map_err(AccessError::NotInCluster)?,
            Self::Kubeconfig(path) => from_file(path).await?,
        };
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        config.read_timeout = Some(READ_TIMEOUT);
        config.reset_reader_on_write = true;
        config.write_timeout = Some(WRITE_TIMEOUT);
        // Sessions have their own back-off, and report why they wait.
        config.default_retry = false;
        Client::try_from(config).map_err(AccessError::Unusable)
    }
}

async fn from_file(path: &Path) -> Result<Config, AccessError> {
    let wrong = |source| AccessError::Kubeconfig { path: path.display().to_string(), source };
    let kubeconfig = Kubeconfig::read_from(path).map_err(wrong)?;
    let options = KubeConfigOptions::default();
    Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(wrong)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use romana_daemon::error::chain;

    use super::*;

    #[test]
    fn a_kubeconfig_that_is_not_there_is_named() {
        let access = Access::Kubeconfig("/nowhere/config".into());
        let refused = access.client().now_or_never().expect("reading it takes no wait");
        let said = refused.err().map(|error| chain(&error)).expect("there is no such file");
        assert!(said.starts_with("kubeconfig /nowhere/config cannot be used: "), "{said}");
    }
}
