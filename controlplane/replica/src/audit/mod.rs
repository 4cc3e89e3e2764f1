//! # Audit
//!
//! Questions to the history: who had an address, what happened to a thing, what the state was.
//!
//! ```text
//!   history ──► indexer (a thread) ──► tail (open segment, in memory)
//!                                └───► index (closed segments, sled)      query ──► both ──► history
//!   apply ──► checkpoints (states, on disk) ──► past ──► history
//! ```
//!
//! ## Laws
//! 1. The history is the truth. The index says where to look in it; what is answered was read there.
//! 2. An index that fails in any way, or that is of another history, is thrown away and built again;
//!    questions that need it are refused meanwhile, and nothing else is affected. What is indexed stays so
//!    when the history cannot be read on; questions beyond that say why.
//! 3. Applying waits for nothing here. An index that is behind is waited for by the question.
//!
//! An index entry costs a record nothing on the way of a commit: the indexer reads the history after the
//! fact, with low priority, and writes each segment at once when it is closed, so that sled sees one
//! entry per thing and segment instead of one per record and thing.
//!
//! Time needs no index: entry times never go back, so the history is searched by halving.
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

pub use checkpoint::{CheckpointError, Keeper};
pub use past::{Base, PastError};
pub use query::{AuditError, Page, lasting};

use index::Index;
use tail::Tail;

/// Keys in the tail, some 30 MB of them. The more at once, the fewer updates of each page in the index on
/// disk, which cost most.
const TAIL_KEYS: usize = 256 << 10;

/// The audit of one replica. Clones are handles of the same.
#[derive(Clone)]
pub struct Audit(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    keeper: Keeper,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What questions and the indexer have in common.
struct Shared {
    history: History,
    dir: PathBuf,
    /// A tail with so many keys goes to the disk when its segment ends.
    tail_keys: usize,
    view: RwLock<View>,
    /// Last revision that is indexed.
    reached: watch::Sender<Revision>,
    rebuilds: AtomicU64,
    /// Why the history cannot be read on, while it cannot.
    stuck: watch::Sender<Option<Arc<HistoryError>>>,
    stop: AtomicBool,
}

/// What questions look at.
struct View {
    /// `None` while it is built again from the start.
    index: Option<Index>,
    /// What comes after the index.
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
    /// data directory. A checkpoint is due each `every` records, or as many as there are live addresses
    /// when those are more: the work for it stays in proportion.
    ///
    /// # Errors
    /// A thread cannot be started, or a directory not be made. (Bad files are no error: they are set
    /// aside, or built again.)
    pub fn start(history: History, data_dir: &Path, every: u64) -> std::io::Result<Self> {
        Self::with_tail(history, data_dir, every, TAIL_KEYS)
    }

    /// The same, with another length of the tail.
    fn with_tail(
        history: History,
        data_dir: &Path,
        every: u64,
        tail_keys: usize,
    ) -> std::io::Result<Self> {
        let keeper = Keeper::open(&data_dir.join("checkpoints"), history.clone(), every)?;
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
        Ok(Self(Arc::new(Handle { shared, keeper, thread: Mutex::new(thread) })))
    }

    /// How many records the index is behind the history.
    #[must_use]
    pub fn lag(&self) -> u64 {
        let reached = *self.0.shared.reached.borrow();
        self.0.shared.history.last().0.since(reached)
    }

    /// How often the index was thrown away and built again since the start.
    #[must_use]
    pub fn rebuilds(&self) -> u64 {
        self.0.shared.rebuilds.load(Ordering::Relaxed)
    }

    /// Bytes of the index on the disk.
    #[must_use]
    pub fn index_bytes(&self) -> u64 {
        self.0.shared.view().index.as_ref().map_or(0, Index::size)
    }

    /// Returns when everything up to a revision is indexed, or cannot be as the history cannot be read. May wait for
    /// ever: give it a deadline.
    pub async fn reached(&self, revision: Revision) {
        let mut reached = self.0.shared.reached.subscribe();
        let mut stuck = self.0.shared.stuck.subscribe();
        self.0.wake();
        // The senders live as long as self: waiting cannot fail.
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
