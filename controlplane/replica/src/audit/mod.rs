//! # Audit
//!
//! Queries on the history: who held an address, what happened to an object, what the state was.
//!
//! ```text
//!   history ──► indexer (a thread) ──► tail (open segment, in memory)
//!                                └───► index (closed segments, sled)      query ──► both ──► history
//!   apply ──► checkpoints (states, on disk) ──► past ──► history
//! ```
//!
//! ## Laws
//! 1. The history is authoritative. The index only says where to look; answers are read from the history.
//! 2. An index that fails in any way, or belongs to another history, is discarded and rebuilt. Until then queries
//!    that need it are refused; nothing else is affected. If the history becomes unreadable, the indexed part
//!    stays usable, and queries beyond it report why.
//! 3. Applying entries never waits for the audit. A query waits for an index that lags behind.
//!
//! Indexing costs a commit nothing: the indexer reads the history afterwards, with low priority, and writes each
//! segment in one go when it is closed, so that sled gets one entry per subject and segment instead of one per
//! record and subject.
//!
//! Time needs no index: entry times never decrease, so a binary search of the history is enough.
//!
//! Reading order: `keys`, `tail`, `index`, `indexer`, `query`; `checkpoint`, `past`.

mod checkpoint;
mod index;
mod indexer;
mod keys;
mod past;
mod query;
mod tail;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;

use romana_statemachine::Revision;
use romana_storage::history::{History, HistoryError};
use romana_storage::platform;
use tokio::sync::watch;

pub use checkpoint::{CheckpointError, CheckpointStore};
pub use past::{Base, PastError};
pub use query::{AuditError, Page, lasting};

use index::Index;
use tail::Tail;

/// Keys in the tail, about 30 MB. The larger the tail, the fewer updates of each page of the index on disk, and these
/// updates dominate the cost.
const TAIL_KEYS: usize = 256 << 10;

/// The audit of one replica. Clones are handles to the same audit.
#[derive(Clone)]
pub struct Audit(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    store: CheckpointStore,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// State shared by queries and the indexer.
struct Shared {
    history: History,
    dir: PathBuf,
    /// A tail with this many keys moves to the disk when its segment ends.
    tail_keys: usize,
    view: RwLock<View>,
    /// Last indexed revision.
    reached: watch::Sender<Revision>,
    rebuilds: AtomicU64,
    /// Why the history cannot be read, while it cannot.
    stuck: watch::Sender<Option<Arc<HistoryError>>>,
    stop: AtomicBool,
}

/// What queries read.
struct View {
    /// `None` while it is rebuilt from the start.
    index: Option<Index>,
    /// Records after the index.
    tail: Tail,
}

impl Shared {
    fn view(&self) -> RwLockReadGuard<'_, View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn view_mut(&self) -> RwLockWriteGuard<'_, View> {
        self.view.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

impl Audit {
    /// Starts indexing a history and keeping checkpoints, in `index/` and `checkpoints/` of a replica's
    /// data directory. A checkpoint is due every `every` records, or every n records where n is the number of live
    /// addresses if that is larger: the cost stays proportional.
    ///
    /// # Errors
    /// A thread cannot be started, or a directory cannot be created. (Damaged files are no error: they are set
    /// aside or rebuilt.)
    pub fn start(history: History, data_dir: &Path, every: u64) -> std::io::Result<Self> {
        Self::with_tail(history, data_dir, every, TAIL_KEYS)
    }

    /// The same, with another tail size.
    fn with_tail(
        history: History,
        data_dir: &Path,
        every: u64,
        tail_keys: usize,
    ) -> std::io::Result<Self> {
        let store = CheckpointStore::open(&data_dir.join("checkpoints"), history.clone(), every)?;
        let dir = data_dir.join("index");
        let (start, digest) = history.start();
        let view = RwLock::new(View { index: None, tail: Tail::after(start, digest) });
        let shared = Arc::new(Shared {
            history,
            dir,
            tail_keys,
            view,
            reached: watch::Sender::new(start),
            rebuilds: AtomicU64::new(0),
            stuck: watch::Sender::new(None),
            stop: AtomicBool::new(false),
        });
        let indexer = Arc::clone(&shared);
        let thread = platform::background("audit-indexer", move || indexer.run())?;
        Ok(Self(Arc::new(Handle { shared, store, thread: Mutex::new(thread) })))
    }

    /// How many records the index lags behind the history.
    #[must_use]
    pub fn lag(&self) -> u64 {
        let reached = *self.0.shared.reached.borrow();
        self.0.shared.history.last().0.since(reached)
    }

    /// How often the index was discarded and rebuilt since the start.
    #[must_use]
    pub fn rebuilds(&self) -> u64 {
        self.0.shared.rebuilds.load(Ordering::Relaxed)
    }

    /// Size of the index on disk, in bytes.
    #[must_use]
    pub fn index_bytes(&self) -> u64 {
        self.0.shared.view().index.as_ref().map_or(0, Index::size)
    }

    /// Waits until everything up to a revision is indexed, or cannot be because the history is unreadable. May wait
    /// forever: use a deadline.
    pub async fn reached(&self, revision: Revision) {
        let mut reached = self.0.shared.reached.subscribe();
        let mut stuck = self.0.shared.stuck.subscribe();
        self.0.wake();
        // The senders live as long as self, so the waits cannot fail.
        tokio::select! {
            _ = reached.wait_for(|reached| *reached >= revision) => {}
            _ = stuck.wait_for(Option::is_some) => {}
        }
    }

    /// Stops indexing. Blocks until the thread has ended.
    pub fn stop(&self) {
        self.0.end();
    }
}

impl Handle {
    fn thread(&self) -> std::sync::MutexGuard<'_, Option<JoinHandle<()>>> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        if let Some(thread) = &*self.thread() {
            thread.thread().unpark();
        }
    }

    fn end(&self) {
        self.shared.stop.store(true, Ordering::Release);
        let Some(thread) = self.thread().take() else { return };
        thread.thread().unpark();
        if thread.join().is_err() {
            tracing::warn!("the indexer thread panicked");
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.end();
    }
}
