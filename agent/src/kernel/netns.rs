//! Network namespaces of containers.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use rtnetlink::Handle;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::KernelError;

/// Type of the file system of namespaces (linux/magic.h).
const NSFS_MAGIC: rustix::fs::FsWord = 0x6e73_6673;

/// A container's network namespace, kept open.
#[derive(Debug)]
pub struct Netns(pub(super) File);

/// The namespace cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    #[error("cannot open the network namespace {path}")]
    Open {
        path: String,
        #[source]
        source: std::io::Error,
    },
    /// The file is not a namespace: an unmounted namespace leaves an empty file.
    #[error("{path} is no network namespace")]
    Other { path: String },
    /// It is the host's namespace.
    #[error("the network namespace {path} is the host's own")]
    Own { path: String },
}

/// Whether an open namespace is a network namespace: a dedicated thread tries to enter it.
fn is_of_network(namespace: &File) -> bool {
    std::thread::scope(|scope| {
        let enter = || {
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(namespace.as_fd(), kind)
        };
        let entered = scope.spawn(enter).join();
        !entered.is_ok_and(|entered| entered == Err(rustix::io::Errno::INVAL))
    })
}

impl Netns {
    /// Opens a namespace by its path.
    ///
    /// # Errors
    /// [`NetnsError`].
    pub fn open(path: &str) -> Result<Self, NetnsError> {
        let open = |path: &str| {
            // A namespace is a file, but a runtime may pass any path.
            let opened = romana_daemon::file::open(Path::new(path)).map(|(file, _)| file);
            opened.map_err(|source| match source.kind() {
                std::io::ErrorKind::InvalidInput => NetnsError::Other { path: path.into() },
                _ => NetnsError::Open { path: path.into(), source },
            })
        };
        let (file, own) = (open(path)?, open("/proc/self/ns/net")?);
        let id = |file: &File| {
            let stat = rustix::fs::fstat(file).ok()?;
            Some((stat.st_dev, stat.st_ino))
        };
        let kind = rustix::fs::fstatfs(&file).map(|system| system.f_type);
        if kind.is_ok_and(|kind| kind != NSFS_MAGIC) {
            return Err(NetnsError::Other { path: path.into() });
        }
        if id(&file) == id(&own) {
            return Err(NetnsError::Own { path: path.into() });
        }
        if !is_of_network(&file) {
            return Err(NetnsError::Other { path: path.into() });
        }
        Ok(Self(file))
    }

    /// Runs `work` inside the namespace, on a dedicated thread.
    pub(super) async fn within<T, W>(&self, what: &'static str, work: W) -> Result<T, KernelError>
    where
        T: Send + 'static,
        W: AsyncFnOnce(Handle) -> Result<T, KernelError> + Send + 'static,
    {
        let namespace = self.0.try_clone()?;
        let (answer, answered) = tokio::sync::oneshot::channel();
        std::thread::Builder::new().name("netns".into()).spawn(move || {
            let done = (|| {
                let kind = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(namespace.as_fd(), kind).map_err(std::io::Error::from)?;
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(async {
                    let (connection, handle, _) = rtnetlink::new_connection()?;
                    tokio::spawn(connection);
                    work(handle).await
                })
            })();
            // The caller has gone; the result is dropped.
            _ = answer.send(done);
        })?;
        answered.await.unwrap_or_else(|_| Err(std::io::Error::other(what).into()))
    }
}
