//! # The write-ahead log
//!
//! Stores Raft's durable state: entries, the vote, truncations and purges, in one sequence of
//! records, so that they are on disk in the order of the calls. Payloads are
//! opaque. What is *acknowledged* (its [`Done`] was called with `Ok`) is durable.
//!
//! ```text
//!   append, save_vote, truncate_after, purge        read
//!        │ queue, never blocks                        │ preads, checks checksums
//!        ▼                                            ▼
//!   writer thread: gather → one pwrite → one fdatasync → catalog → Done, Done, Done
//!        │ takes a spare segment, retires purged ones
//!        ▼
//!   allocator thread: allocates the next segment ahead, recycles or unlinks purged ones
//! ```
//!
//! ## Laws
//! 1. What is acknowledged survives any crash and any power cut, complete and in order.
//! 2. A torn tail (a group that was being written, never acknowledged) is truncated at open, durably.
//!    With any other damage the log does not open, and the error names file and offset.
//! 3. The first error of a write, a sync (of a file or the directory) or an allocation stops
//!    the log permanently: after a failed fsync the contents of the disk are unknown, and a retry would
//!    hide that. Only a restart can find out.
//! 4. One process at a time (`LOCK`).
//! 5. A log that lost its end (a file removed, truncated, zeroed or replaced by an older copy) does not
//!    open: the acknowledged end is recorded in a separate file. The log alone cannot detect that this file
//!    and the log were both rolled back.
//!
//! Out of scope: a cache of the last entries (the owner has one), and compression.
//!
//! Reading order: `frame` (encoding), `contents` (semantics), `recover` (open), `highwater`, `writer`,
//! `allocator`.

mod allocator;
mod contents;
mod error;
mod frame;
mod highwater;
mod recover;
mod segment;
#[cfg(test)]
mod tests;
mod writer;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::SetOnce;

use crate::platform::Worker;
use contents::{Catalog, Run};
pub use error::WalError;
pub use frame::Owner;
use writer::{Change, Job, Writer};

/// Called once, on the writer's thread, when a change is durable or has failed. It must not block.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Options of the log.
#[derive(Clone, Debug)]
pub struct WalOptions {
    /// Segment size in bytes. At least 4096; smaller values are raised.
    pub segment_bytes: u64,
    /// Path of the high-water mark; `None`: `MARK` in the log's directory. Outside that directory it also
    /// detects the loss of the whole directory.
    pub mark: Option<PathBuf>,
    /// Owner of the log: written into each segment; a log of another owner does not open. Files without an owner
    /// do.
    pub owner: Option<Owner>,
}

impl Default for WalOptions {
    /// Segments of 64 MiB.
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, mark: None, owner: None }
    }
}

/// Contents of the log at open. All of it is durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The last saved vote.
    pub vote: Option<Bytes>,
    /// Index and marker of the last purge.
    pub purged: Option<(u64, Bytes)>,
    /// Index of the first entry, or of the next one if there is none.
    pub first: u64,
    /// Index of the last entry. `None`: the log has no entries.
    pub last: Option<u64>,
}

/// The log. Clones are handles to the same log; dropping the last one writes the queued changes
/// and waits for that (unless it happens in a [`Done`]).
#[derive(Clone)]
pub struct Wal {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    writer: Worker<Writer>,
    /// The high-water mark, if it was missing or damaged at open.
    missing_mark: Option<PathBuf>,
}

/// State shared by writer, allocator and readers.
#[derive(Default)]
struct Shared {
    catalog: Mutex<Catalog>,
    failure: SetOnce<Arc<WalError>>,
    on_sync: OnceLock<OnSync>,
}

/// Receives the duration of each group's sync. Called on the writer's thread; must not block.
pub type OnSync = Box<dyn Fn(Duration) + Send + Sync>;

impl Shared {
    fn failed(&self) -> Option<Arc<WalError>> {
        self.failure.get().cloned()
    }

    fn synced(&self, took: Duration) {
        if let Some(observe) = self.on_sync.get() {
            observe(took);
        }
    }

    /// Stops the log. Returns the first error that stopped it.
    fn fail(&self, error: WalError) -> Arc<WalError> {
        let error = Arc::new(error);
        if self.failure.set(Arc::clone(&error)).is_ok() {
            tracing::error!(
                error = &*error as &dyn std::error::Error,
                "the write-ahead log failed and stops"
            );
        }
        self.failed().unwrap_or(error)
    }
}

impl Wal {
    /// Opens the log in `dir`, creates it if it is missing, and returns its contents.
    ///
    /// # Errors
    /// [`WalError::Locked`], [`WalError::Damaged`] or [`WalError::Foreign`] (nothing was changed),
    /// [`WalError::Io`].
    pub fn open(dir: &Path, options: WalOptions) -> Result<(Self, Recovered), WalError> {
        let segment_bytes = options.segment_bytes.max(4096);
        let mark = options.mark.unwrap_or_else(|| dir.join("MARK"));
        let owner = options.owner;
        let opened = recover::open(dir, &mark, segment_bytes, owner)?;
        let log = opened.log.0.clone();
        let missing_mark = opened.unmarked.then_some(mark);
        let shared = Arc::new(Shared::default());
        let writer =
            Writer::new(dir.to_owned(), Arc::clone(&shared), opened, (segment_bytes, owner))
                .and_then(|writer| Worker::spawn("wal-writer", writer))
                .map_err(WalError::io("start the threads of", dir))?;
        let inner = Inner { shared, writer, missing_mark };
        let last = log.next.checked_sub(1).filter(|_| log.first < log.next);
        let recovered = Recovered { vote: log.vote, purged: log.purged, first: log.first, last };
        Ok((Self { inner: Arc::new(inner) }, recovered))
    }

    /// The high-water mark, if it was missing or damaged at open although the log has entries: a lost end of the
    /// log was not noticed then. It was written again.
    #[must_use]
    pub fn missing_mark(&self) -> Option<&Path> {
        self.inner.missing_mark.as_deref()
    }

    /// Appends entries. The first index must follow the last entry (any index in a log that never had
    /// an entry), and the others must be consecutive; otherwise `done` gets `InvalidInput`, and the entries
    /// before the wrong one may have been appended.
    pub fn append(&self, entries: Vec<(u64, Bytes)>, done: Done) {
        self.enqueue(Change::Append(entries), done);
    }

    /// Saves the vote, replacing the previous one.
    pub fn save_vote(&self, vote: Bytes, done: Done) {
        self.enqueue(Change::Vote(vote), done);
    }

    /// Removes the entries after `last` (`None`: all). No effect if there are none.
    pub fn truncate_after(&self, last: Option<u64>, done: Done) {
        self.enqueue(Change::TruncateAfter(last), done);
    }

    /// Removes the entries up to `upto` and keeps `marker` as [`Recovered::purged`]. If the log ends before `upto`,
    /// the next entry follows `upto`. No effect if it was purged that far already.
    pub fn purge(&self, upto: u64, marker: Bytes, done: Done) {
        self.enqueue(Change::Purge(upto, marker), done);
    }

    fn enqueue(&self, change: Change, done: Done) {
        if let Err(job) = self.inner.writer.send(Job { change, done }) {
            // Only after a panic of the writer, for example in a `Done`.
            let source = io::Error::other("the writer of the log has ended");
            let path = PathBuf::new();
            let error = WalError::Io { action: "write the log", path, source };
            (job.done)(Err(WalError::answer(&self.inner.shared.fail(error))));
        }
    }

    /// Reads the durable entries of `from..to_exclusive`: as many as have `max_bytes` of payload in total, but at
    /// least one if there is one. Blocks on the disk.
    ///
    /// # Errors
    /// [`WalError::Purged`] when `from` is before the first entry; [`WalError::Damaged`] when an
    /// entry is corrupt; [`WalError::Io`].
    pub fn read(
        &self,
        from: u64,
        to_exclusive: u64,
        max_bytes: usize,
    ) -> Result<Vec<(u64, Bytes)>, WalError> {
        let catalog = self.inner.shared.catalog.lock().unwrap_or_else(PoisonError::into_inner);
        let runs = catalog.find(from, to_exclusive, max_bytes);
        drop(catalog);
        let mut entries = Vec::new();
        for run in runs.map_err(|first| WalError::Purged { first })? {
            read_run(&run, &mut entries)?;
        }
        Ok(entries)
    }

    /// Registers an observer of sync durations. Only the first call counts.
    pub fn on_sync(&self, observe: OnSync) {
        // A second observer would be a harmless mistake of the caller.
        _ = self.inner.shared.on_sync.set(observe);
    }

    /// Why the log has stopped, if it has. It never resumes; every later [`Done`] gets this error.
    #[must_use]
    pub fn failed(&self) -> Option<Arc<WalError>> {
        self.inner.shared.failed()
    }

    /// Waits until the log has stopped, and returns [`Self::failed`].
    pub async fn wait_failed(&self) -> Arc<WalError> {
        Arc::clone(self.inner.shared.failure.wait().await)
    }
}

/// Reads adjacent entries with one call; their payloads share one allocation.
fn read_run(run: &Run, entries: &mut Vec<(u64, Bytes)>) -> Result<(), WalError> {
    let (Some(first), Some(last)) = (run.places.first(), run.places.last()) else { return Ok(()) };
    let base = first.offset;
    let end = last.offset + frame::record_len(last.length as usize) as u64;
    let mut bytes = vec![0; usize::try_from(end - base).unwrap_or(usize::MAX)];
    run.segment.read_at(&mut bytes, base)?;
    let bytes = Bytes::from(bytes);
    let salt = run.segment.preamble.salt;
    for (index, place) in (run.index..).zip(&run.places) {
        let at = usize::try_from(place.offset - base).unwrap_or(usize::MAX);
        let record = frame::record(&bytes, base, salt, at)
            .map_err(|why| run.segment.damaged(place.offset, why))?;
        if record.kind != frame::Kind::Entry || record.index != index {
            return Err(run.segment.damaged(place.offset, format!("this is not entry {index}")));
        }
        entries.push((index, bytes.slice_ref(record.payload)));
    }
    Ok(())
}
