//! # The write-ahead log
//!
//! Keeps what Raft must not forget: entries, the vote, truncations and purges, in one sequence of
//! records, so that their order on disk is the order in which they were asked for. Payloads are
//! opaque. What is *acknowledged* (its [`Done`] was called with `Ok`) is durable.
//!
//! ```text
//!   append, save_vote, truncate_after, purge        read
//!        │ queue, never blocks                        │ preads, checks checksums
//!        ▼                                            ▼
//!   writer thread: gather → one pwrite → one fdatasync → catalog → Done, Done, Done
//!        │ takes a spare, gives used segments away
//!        ▼
//!   keeper thread: allocates the next segment ahead, recycles or unlinks purged ones
//! ```
//!
//! ## Laws
//! 1. What is acknowledged is there after any crash and any power cut, whole and in order.
//! 2. A torn tail (a group that was being written, never acknowledged) is cut at open, durably.
//!    Damage to anything else refuses to open and names file and offset.
//! 3. The first error of a write, of a sync (of a file or the directory) or of an allocation stops
//!    the log for good: after a failed fsync nobody knows what is on the disk, and asking again would
//!    hide it. Restart to find out.
//! 4. One process at a time (`LOCK`).
//! 5. A log that lost its end (a file removed, cut, zeroed or put back from an older copy) does not
//!    open: how far it was acknowledged is noted in a file of its own. What cannot be noticed from
//!    here is that file and the log put back together.
//!
//! Left out: a cache of the last entries (its owner has one), and compression.
//!
//! Reading order: `frame` (bytes), `ledger` (meaning), `recover` (open), `highwater`, `writer`,
//! `keeper`.

mod error;
mod frame;
mod highwater;
mod keeper;
mod ledger;
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
pub use error::WalError;
pub use frame::Owner;
use ledger::{Catalog, Run};
use writer::{Change, Job, Writer};

/// Called once, on the writer's thread, when a change is durable or never will be. It must not block.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// How to keep the log.
#[derive(Clone, Debug)]
pub struct WalOptions {
    /// Size of a segment, bytes. At least 4096; smaller values are raised.
    pub segment_bytes: u64,
    /// The file of the high-water mark; `None`: `MARK`, in the log's directory. Elsewhere it outlives
    /// that directory, so that its loss is noticed.
    pub mark: Option<PathBuf>,
    /// Whose log it is: written into each segment, and a log of another owner does not open. Files without an
    /// owner do.
    pub owner: Option<Owner>,
}

impl Default for WalOptions {
    /// Segments of 64 MiB.
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, mark: None, owner: None }
    }
}

/// What the log has at open. All of it is durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The vote saved last.
    pub vote: Option<Bytes>,
    /// Index and marker of the last purge.
    pub purged: Option<(u64, Bytes)>,
    /// The first entry, or where it would be.
    pub first: u64,
    /// The last entry. `None`: the log has no entries.
    pub last: Option<u64>,
}

/// The log. Clones are handles to the same log; when the last one is dropped, what is queued is
/// still written, and the drop waits for it (unless it happens in a [`Done`]).
#[derive(Clone)]
pub struct Wal {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    writer: Worker<Writer>,
}

/// What writer, keeper and readers have in common.
#[derive(Default)]
struct Shared {
    catalog: Mutex<Catalog>,
    failure: SetOnce<Arc<WalError>>,
    on_sync: OnceLock<OnSync>,
}

/// Told how long each sync of a group took. Called on the writer's thread; must not block.
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

    /// Stops the log. Returns the error that stopped it first.
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
    /// Opens the log in `dir`, which is made if it is missing, and says what is in it.
    ///
    /// # Errors
    /// [`WalError::Locked`], [`WalError::Damaged`] or [`WalError::Foreign`] (nothing was changed then),
    /// [`WalError::Io`].
    pub fn open(dir: &Path, options: WalOptions) -> Result<(Self, Recovered), WalError> {
        let segment_bytes = options.segment_bytes.max(4096);
        let mark = options.mark.unwrap_or_else(|| dir.join("MARK"));
        let owner = options.owner;
        let opened = recover::open(dir, &mark, segment_bytes, owner)?;
        let log = opened.ledger.0.clone();
        let shared = Arc::new(Shared::default());
        let writer =
            Writer::new(dir.to_owned(), Arc::clone(&shared), opened, (segment_bytes, owner))
                .and_then(|writer| Worker::spawn("wal-writer", writer))
                .map_err(WalError::io("start the threads of", dir))?;
        let inner = Inner { shared, writer };
        let last = log.next.checked_sub(1).filter(|_| log.first < log.next);
        let recovered = Recovered { vote: log.vote, purged: log.purged, first: log.first, last };
        Ok((Self { inner: Arc::new(inner) }, recovered))
    }

    /// Appends entries. The first index is one after the last entry (any, in a log that never had
    /// one), the others follow without holes; otherwise `done` gets `InvalidInput`, and the entries
    /// before the wrong one may be there.
    pub fn append(&self, entries: Vec<(u64, Bytes)>, done: Done) {
        self.enqueue(Change::Append(entries), done);
    }

    /// Saves the vote, replacing the one before.
    pub fn save_vote(&self, vote: Bytes, done: Done) {
        self.enqueue(Change::Vote(vote), done);
    }

    /// Removes the entries after `last` (`None`: all). Nothing happens where there are none.
    pub fn truncate_after(&self, last: Option<u64>, done: Done) {
        self.enqueue(Change::TruncateAfter(last), done);
    }

    /// Removes the entries up to `upto` and keeps `marker` as [`Recovered::purged`]. When the log
    /// ends before `upto`, it goes on after it. Nothing happens if it was purged that far already.
    pub fn purge(&self, upto: u64, marker: Bytes, done: Done) {
        self.enqueue(Change::Purge(upto, marker), done);
    }

    fn enqueue(&self, change: Change, done: Done) {
        if let Err(job) = self.inner.writer.send(Job { change, done }) {
            // Only after a panic of the writer, in a `Done` for instance.
            let source = io::Error::other("the writer of the log has ended");
            let path = PathBuf::new();
            let error = WalError::Io { action: "write the log", path, source };
            (job.done)(Err(WalError::answer(&self.inner.shared.fail(error))));
        }
    }

    /// Reads the entries `from..to_exclusive` as far as they are durable: as many as have `max_bytes`
    /// of payload together, but one at least if there is one. Blocks on the disk.
    ///
    /// # Errors
    /// [`WalError::Purged`] when `from` is before the first entry; [`WalError::Damaged`] when an
    /// entry is not what was written; [`WalError::Io`].
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

    /// Has somebody told how long syncs take, from now on. The first one that asks is told.
    pub fn on_sync(&self, observe: OnSync) {
        // A second observer would be a mistake of the caller without consequence.
        _ = self.inner.shared.on_sync.set(observe);
    }

    /// Why the log has stopped, if it has. It never starts again; every later [`Done`] gets this.
    #[must_use]
    pub fn failed(&self) -> Option<Arc<WalError>> {
        self.inner.shared.failed()
    }

    /// Returns when the log has stopped, with [`Self::failed`].
    pub async fn wait_failed(&self) -> Arc<WalError> {
        Arc::clone(self.inner.shared.failure.wait().await)
    }
}

/// Reads neighbours with one call; their payloads share one allocation.
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
