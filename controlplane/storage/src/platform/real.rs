//! The real platform.

pub use std::fs;
use std::io;
pub use std::os::unix::fs::FileExt;
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::distr::{Distribution, StandardUniform};
use rustix::fs::{FallocateFlags, FlockOperation};
use rustix::io::Errno;
use rustix::time::{ClockId, Timespec};
use tokio::task::JoinError;

use super::Work;

/// Connections between replicas.
pub mod net {
    pub use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
    pub use tokio::net::{TcpListener, TcpStream};
}

/// Locks the file for this process. `false`: another process holds the lock.
pub fn lock(file: &fs::File) -> io::Result<bool> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Allocates `size` bytes for the file, so that later writes cannot fail for lack of space; sets only the size if the
/// file system cannot allocate.
pub fn allocate(file: &fs::File, size: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, size) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => file.set_len(size),
        other => other.map_err(io::Error::from),
    }
}

/// Runs blocking disk work on a separate thread.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    tokio::task::spawn_blocking(work).await
}

/// Starts a low-priority thread.
pub fn background(
    name: &str,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<Option<JoinHandle<()>>> {
    thread::Builder::new().name(name.to_owned()).spawn(work).map(Some)
}

/// Wall-clock time since 1970.
pub fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A clock that never jumps and also advances while the machine is suspended.
pub fn steady_time() -> Duration {
    let Timespec { tv_sec, tv_nsec } = rustix::time::clock_gettime(ClockId::Boottime);
    Duration::new(tv_sec.unsigned_abs(), u32::try_from(tv_nsec).unwrap_or(0))
}

/// A random number.
pub fn random<T>() -> T
where
    StandardUniform: Distribution<T>,
{
    rand::random()
}

/// A thread with a job queue. Dropping it processes the queued jobs and waits for the thread to end (unless the drop
/// runs on that thread).
pub struct Worker<W: Work> {
    /// `None` only during the drop.
    queue: Option<Sender<W::Job>>,
    thread: Option<JoinHandle<()>>,
}

impl<W: Work> Worker<W> {
    /// Starts the thread.
    pub fn spawn(name: &str, mut work: W) -> io::Result<Self> {
        let (queue, inbox) = mpsc::channel();
        let run = move || {
            while let Ok(first) = inbox.recv() {
                work.take(first, &mut || inbox.try_recv().ok());
            }
            work.end();
        };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run)?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    /// Starts a thread whose work another worker waits for.
    pub fn spawn_helper(name: &str, work: W) -> io::Result<Self> {
        Self::spawn(name, work)
    }

    /// Queues a job; returns it if the thread has ended, which only happens after a panic.
    pub fn send(&self, job: W::Job) -> Result<(), W::Job> {
        match &self.queue {
            Some(queue) => queue.send(job).map_err(|error| error.0),
            None => Err(job),
        }
    }
}

impl<W: Work> Drop for Worker<W> {
    fn drop(&mut self) {
        drop(self.queue.take());
        let Some(thread) = self.thread.take() else { return };
        if thread.thread().id() != thread::current().id() {
            // A panic of the worker was already reported.
            _ = thread.join();
        }
    }
}
