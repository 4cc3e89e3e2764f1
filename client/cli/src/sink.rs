//! Streams output to a file that the user named: a [`Replacement`], or stdout.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use romana_daemon::file::Replacement;
use tokio::task::spawn_blocking;

use crate::failure::Failure;

/// Paths that mean stdout.
const STDOUT: [&str; 4] = ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"];

/// A file that is being written.
pub(crate) struct Sink {
    to: To,
    path: PathBuf,
}

enum To {
    File(Replacement),
    Stdout,
}

impl Sink {
    /// Opens the output; stdout if there is no path, or if it is one of stdout's.
    pub(crate) async fn open(path: Option<&Path>) -> Result<Self, Failure> {
        match path.filter(|path| !STDOUT.iter().any(|name| *path == Path::new(name))) {
            None => Ok(Self { to: To::Stdout, path: PathBuf::from("stdout") }),
            Some(path) => {
                let path = path.to_owned();
                blocking(path.clone(), move || {
                    let to = To::File(Replacement::create(&path)?);
                    Ok(Self { to, path })
                })
                .await
            }
        }
    }

    /// The same; a regular or new file gets these permissions.
    pub(crate) async fn open_private(path: &Path, mode: u32) -> Result<Self, Failure> {
        if STDOUT.iter().any(|name| path == Path::new(name)) {
            return Self::open(Some(path)).await;
        }
        let path = path.to_owned();
        blocking(path.clone(), move || {
            let regular = path.metadata().map_or(true, |found| found.is_file());
            let file = match regular {
                true => Replacement::create_regular(&path, mode)?,
                false => Replacement::create(&path)?,
            };
            Ok(Self { to: To::File(file), path })
        })
        .await
    }

    /// Whether it writes to stdout; messages must then not go there.
    pub(crate) fn is_stdout(&self) -> bool {
        matches!(self.to, To::Stdout)
    }

    pub(crate) async fn write(mut self, piece: Bytes) -> Result<Self, Failure> {
        blocking(self.path.clone(), move || {
            match &mut self.to {
                To::File(file) => file.write_all(&piece)?,
                To::Stdout => io::stdout().lock().write_all(&piece)?,
            }
            Ok(self)
        })
        .await
    }

    /// Makes the file durable and renames it to its final name.
    pub(crate) async fn finish(self) -> Result<(), Failure> {
        blocking(self.path, move || match self.to {
            To::File(file) => file.finish(),
            To::Stdout => io::stdout().flush(),
        })
        .await
    }
}

/// Runs blocking I/O on a separate thread.
async fn blocking<T: Send + 'static>(
    path: PathBuf,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Failure> {
    let done = spawn_blocking(work).await.map_err(io::Error::other).flatten();
    done.map_err(|error| Failure::io(path.display().to_string(), error))
}
