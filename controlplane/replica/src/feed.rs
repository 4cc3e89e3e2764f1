//! The feed: what was decided, to whoever follows, in order and without gaps.
//!
//! ```text
//!   apply ──publish──► ring (recent records, bounded in bytes) ◄──cursor── follower ──► socket
//!                        │ evicts                                  │ too far behind
//!                        ▼                                         ▼
//!                      history (everything, on disk) ──────────► read in chunks
//! ```
//!
//! Laws:
//! - a follower is a cursor: it owns no queue, so a slow one costs no more than the piece that it was
//!   given last, and delays nobody;
//! - those pieces have one budget for all followers: who would exceed it waits;
//! - `publish` takes a short lock, pushes and signals: it never waits for a follower;
//! - each record becomes JSON once, when the first follower wants it, and the bytes are shared;
//! - a follower of one host is woken only by what concerns that host, and is not sent to the history
//!   for records it would have skipped anyway (`Evicted` remembers what left the ring).
//!
//! Left out: HTTP (that is `api::events`), and cutting off sockets that take nothing (`server`).

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use romana_statemachine::name::HostName;
use romana_statemachine::{Event, Record, Revision, Topic};
use romana_storage::history::{History, HistoryError};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

mod ring;
#[cfg(test)]
mod tests;

pub use ring::Topics;
use ring::{Interest, Item, Ring};

/// A bookmark is sent at least this often.
pub const BOOKMARK_INTERVAL: Duration = Duration::from_secs(5);
/// Bytes that a piece of ordinary records has, about.
const PIECE_BYTES: usize = 64 << 10;
/// Bytes of all pieces that were given to followers and are not yet written.
const PIECES_BYTES_MAX: usize = 64 << 20;
/// Records that one look into the ring returns, at most.
const CHUNK_RECORDS_MAX: usize = 128;
/// Records and bytes that one read of the history returns, at most.
const HISTORY_RECORDS_MAX: usize = 128;
const HISTORY_BYTES_MAX: usize = 32 << 10;
/// Followers that read the history at the same time.
const HISTORY_READERS_MAX: usize = 2;

/// Why a feed ends before its follower does.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// What the follower wants next is no longer kept.
    #[error("revision {wanted} is no longer kept, the oldest is {oldest}")]
    Compacted {
        /// What was wanted.
        wanted: Revision,
        /// Oldest revision that is kept.
        oldest: Revision,
    },
    /// The history cannot be read.
    #[error("the history cannot be read")]
    History(#[source] HistoryError),
    /// A record cannot be written as JSON.
    #[error("a record cannot be written as JSON")]
    Json(#[source] serde_json::Error),
    /// The reading task was cancelled or panicked.
    #[error("the task that reads the history ended")]
    Task(#[source] tokio::task::JoinError),
}

/// How a follower wants records written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Server-Sent Events.
    Sse,
    /// One JSON document per line.
    Ndjson,
}

/// What a follower follows.
#[derive(Clone, Debug)]
pub struct Filter {
    /// Topics of interest.
    pub topics: Topics,
    /// Leave out events that concern only another host.
    pub host: Option<HostName>,
    /// Leave out events of later versions: the follower would not understand them, and not say so.
    pub version: u16,
}

impl Filter {
    fn wants(&self, event: &Event) -> bool {
        self.topics.has(event.topic())
            && event.meta().since <= self.version
            && match (&self.host, event.only_host()) {
                (Some(mine), Some(only)) => mine == only,
                _ => true,
            }
    }
}

/// The feed of one replica. Clones are handles of the same feed.
#[derive(Clone)]
pub struct Feed(Arc<Shared>);

struct Shared {
    history: History,
    ring: Mutex<Ring>,
    followers: Mutex<Followers>,
    published: Arc<Notify>,
    dispatching: AtomicBool,
    closed: AtomicBool,
    readers: Arc<Semaphore>,
    pieces: Arc<Semaphore>,
}

/// A piece of the feed, and its part of the budget.
struct Piece {
    bytes: Bytes,
    _held: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Piece {
    /// Bytes that give back their part of the budget when they are gone.
    fn counted(bytes: Bytes, mut held: OwnedSemaphorePermit) -> Bytes {
        // What was too much goes back at once.
        drop(held.split(held.num_permits().saturating_sub(bytes.len())));
        Bytes::from_owner(Self { bytes, _held: held })
    }
}

/// Who waits, arranged so that waking looks only at those concerned.
#[derive(Default)]
struct Followers {
    next: u64,
    everywhere: HashMap<u64, Arc<Slot>>,
    by_host: HashMap<HostName, HashMap<u64, Arc<Slot>>>,
}

struct Slot {
    topics: Topics,
    cursor: AtomicU64,
    wake: Notify,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.published.notify_one(); // the dispatcher sees that nobody is left
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Feed {
    /// A feed that continues a history and keeps about `capacity_bytes` of recent records in memory.
    #[must_use]
    pub fn new(history: History, capacity_bytes: usize) -> Self {
        let (last, _) = history.last();
        Self(Arc::new(Shared {
            history,
            ring: Mutex::new(Ring::new(last, capacity_bytes)),
            followers: Mutex::default(),
            published: Arc::new(Notify::new()),
            dispatching: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            readers: Arc::new(Semaphore::new(HISTORY_READERS_MAX)),
            pieces: Arc::new(Semaphore::new(PIECES_BYTES_MAX)),
        }))
    }

    /// Hands over records that were just applied, in order, after they went to the history. Records
    /// that the feed had already are skipped. Never waits for a follower.
    pub fn publish(&self, records: Vec<Record>) {
        if records.is_empty() {
            return;
        }
        debug_assert!(
            records.windows(2).all(
                |two| two[0].revision.next() == two[1].revision && two[0].index <= two[1].index
            ),
            "records come in the order of the log"
        );
        lock(&self.0.ring).extend(records);
        self.0.published.notify_one();
    }

    /// Revision of the last record published.
    #[must_use]
    pub fn last(&self) -> Revision {
        lock(&self.0.ring).last()
    }

    /// Ends the feed: followers get what is left and a bookmark, then their streams end.
    pub fn close(&self) {
        self.0.closed.store(true, Ordering::SeqCst);
        self.0.published.notify_one();
        lock(&self.0.followers).wake_all();
    }

    /// Number of followers.
    #[must_use]
    pub fn followers(&self) -> usize {
        lock(&self.0.followers).slots().count()
    }

    /// Records between the last one and the slowest follower's last look.
    #[must_use]
    pub fn lag(&self) -> u64 {
        let last = self.last();
        let followers = lock(&self.0.followers);
        let slowest = followers.slots().map(|slot| slot.cursor.load(Ordering::Relaxed)).min();
        slowest.map_or(0, |cursor| last.get().saturating_sub(cursor))
    }

    /// Starts following after revision `after`. Must be called inside the runtime.
    ///
    /// # Errors
    /// [`FeedError::Compacted`] when the record after `after` is no longer kept.
    pub fn follow(
        &self,
        after: Revision,
        filter: Filter,
        form: Form,
    ) -> Result<Follower, FeedError> {
        let oldest = self.0.history.oldest();
        if after.next() < oldest && after < lock(&self.0.ring).base() {
            return Err(FeedError::Compacted { wanted: after.next(), oldest });
        }
        self.dispatch();
        let slot = Arc::new(Slot {
            topics: filter.topics,
            cursor: AtomicU64::new(after.get()),
            wake: Notify::new(),
        });
        let id = lock(&self.0.followers).add(filter.host.clone(), Arc::clone(&slot));
        Ok(Follower {
            feed: self.clone(),
            id,
            slot,
            cursor: after,
            filter,
            form,
            bookmark_at: Instant::now() + BOOKMARK_INTERVAL,
            greeted: false,
            ended: false,
        })
    }

    /// Starts the task that wakes followers, once.
    fn dispatch(&self) {
        if self.0.dispatching.swap(true, Ordering::SeqCst) {
            return;
        }
        let (shared, published) = (Arc::downgrade(&self.0), Arc::clone(&self.0.published));
        let mut seen = self.last();
        tokio::spawn(async move {
            loop {
                published.notified().await;
                let Some(shared) = shared.upgrade() else { return };
                let interest = lock(&shared.ring).interest_since(&mut seen);
                lock(&shared.followers).wake(&interest);
            }
        });
    }
}

impl Followers {
    fn add(&mut self, host: Option<HostName>, slot: Arc<Slot>) -> u64 {
        let id = self.next;
        self.next += 1;
        match host {
            Some(host) => self.by_host.entry(host).or_default().insert(id, slot),
            None => self.everywhere.insert(id, slot),
        };
        id
    }

    fn remove(&mut self, host: Option<&HostName>, id: u64) {
        let Some(host) = host else {
            self.everywhere.remove(&id);
            return;
        };
        if let Some(slots) = self.by_host.get_mut(host) {
            slots.remove(&id);
            if slots.is_empty() {
                self.by_host.remove(host);
            }
        }
    }

    fn slots(&self) -> impl Iterator<Item = &Arc<Slot>> {
        self.everywhere.values().chain(self.by_host.values().flat_map(HashMap::values))
    }

    fn wake_all(&self) {
        self.slots().for_each(|slot| slot.wake.notify_one());
    }

    fn wake(&self, interest: &Interest) {
        let Interest::Some { any, shared, hosts } = interest else {
            return self.wake_all();
        };
        let wake = |slots: &HashMap<u64, Arc<Slot>>, topics: Topics| {
            let concerned = slots.values().filter(|slot| slot.topics.meets(topics));
            concerned.for_each(|slot| slot.wake.notify_one());
        };
        wake(&self.everywhere, *any);
        if !shared.is_empty() {
            self.by_host.values().for_each(|slots| wake(slots, *shared));
        }
        for (host, topics) in hosts {
            if let Some(slots) = self.by_host.get(host) {
                wake(slots, *topics);
            }
        }
    }
}

/// One follower's place in the feed.
pub struct Follower {
    feed: Feed,
    id: u64,
    slot: Arc<Slot>,
    cursor: Revision,
    filter: Filter,
    form: Form,
    bookmark_at: Instant,
    greeted: bool,
    ended: bool,
}

impl Drop for Follower {
    fn drop(&mut self) {
        lock(&self.feed.0.followers).remove(self.filter.host.as_ref(), self.id);
    }
}

impl Follower {
    /// The next bytes for the follower; waits for them. `None` when the feed was closed.
    ///
    /// # Errors
    /// [`FeedError`]; the stream should end then.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FeedError> {
        loop {
            if self.ended {
                return Ok(None);
            }
            let closing = self.feed.0.closed.load(Ordering::SeqCst);
            let look = lock(&self.feed.0.ring).look(self.cursor, &self.filter, CHUNK_RECORDS_MAX);
            match look {
                ring::Look::Behind => {
                    if let Some(bytes) = self.read_history().await? {
                        return Ok(Some(bytes));
                    }
                }
                ring::Look::Items { items, upto } => {
                    if let [only] = &*items {
                        // Shared with the other followers.
                        let bytes = only.bytes(self.form).map_err(FeedError::Json)?;
                        self.advance(upto);
                        return Ok(Some(bytes));
                    }
                    if !items.is_empty() {
                        let Some(held) = self.piece().await else {
                            return Ok(Some(self.bookmark()));
                        };
                        let bytes = self.join(&items)?;
                        self.advance(upto);
                        return Ok(Some(Piece::counted(bytes, held)));
                    }
                    self.advance(upto);
                    self.ended = closing;
                    if closing || !self.greeted {
                        self.greeted = true;
                        return Ok(Some(self.bookmark()));
                    }
                    let wait = tokio::time::timeout_at(self.bookmark_at, self.slot.wake.notified());
                    if wait.await.is_ok() {
                        continue;
                    }
                    // Look once more before the bookmark, so that it is not behind what is known.
                    self.greeted = false;
                    continue;
                }
            }
            if Instant::now() >= self.bookmark_at {
                return Ok(Some(self.bookmark()));
            }
        }
    }

    fn advance(&mut self, cursor: Revision) {
        self.cursor = self.cursor.max(cursor);
        self.slot.cursor.store(self.cursor.get(), Ordering::Relaxed);
    }

    fn bookmark(&mut self) -> Bytes {
        self.bookmark_at = Instant::now() + BOOKMARK_INTERVAL;
        let revision = self.cursor;
        Bytes::from(match self.form {
            Form::Sse => format!(
                "id: {revision}\nevent: bookmark\ndata: {{\"bookmark\":{{\"revision\":{revision}}}}}\n\n"
            ),
            Form::Ndjson => format!("{{\"bookmark\":{{\"revision\":{revision}}}}}\n"),
        })
    }

    /// Room in the budget for one more piece; `None` when there is none until a bookmark is due.
    async fn piece(&self) -> Option<OwnedSemaphorePermit> {
        let wanted = u32::try_from(PIECE_BYTES).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.feed.0.pieces).acquire_many_owned(wanted);
        tokio::time::timeout_at(self.bookmark_at, room).await.ok()?.ok()
    }

    /// Writes records down, one after the other.
    fn join(&self, items: &[Arc<Item>]) -> Result<Bytes, FeedError> {
        let mut joined = BytesMut::with_capacity(PIECE_BYTES.min(items.len() * 512));
        for item in items {
            joined.put(item.bytes(self.form).map_err(FeedError::Json)?);
        }
        Ok(joined.freeze())
    }

    /// Reads on from the history. `None` when nothing in the chunk was of interest, or there was no room
    /// for it yet.
    async fn read_history(&mut self) -> Result<Option<Bytes>, FeedError> {
        let Some(held) = self.piece().await else { return Ok(None) };
        let turn = Arc::clone(&self.feed.0.readers).acquire_owned().await;
        let (history, from) = (self.feed.0.history.clone(), self.cursor.next());
        let (filter, form) = (self.filter.clone(), self.form);
        let read = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let read = history.read(from, HISTORY_RECORDS_MAX, HISTORY_BYTES_MAX);
            read.map_err(|error| unreadable(error, from))
                .and_then(|records| write(&records, &filter, form))
        });
        let (upto, bytes) = read.await.map_err(FeedError::Task)??;
        let Some(upto) = upto else {
            // The ring jumped (a snapshot came) and the history has not followed yet.
            _ = tokio::time::timeout_at(self.bookmark_at, self.slot.wake.notified()).await;
            return Ok(None);
        };
        self.advance(upto);
        Ok((!bytes.is_empty()).then(|| Piece::counted(bytes, held)))
    }
}

fn unreadable(error: HistoryError, wanted: Revision) -> FeedError {
    match error {
        HistoryError::Compacted { oldest, .. } => FeedError::Compacted { wanted, oldest },
        error => FeedError::History(error),
    }
}

/// The last revision of some records, and those of interest as bytes.
fn write(
    records: &[Record],
    filter: &Filter,
    form: Form,
) -> Result<(Option<Revision>, Bytes), FeedError> {
    let mut joined = BytesMut::new();
    for record in records.iter().filter(|record| filter.wants(&record.event)) {
        joined.put(ring::render(record, form).map_err(FeedError::Json)?);
    }
    Ok((records.last().map(|record| record.revision), joined.freeze()))
}
