//! The feed: all records, delivered to followers in order and without gaps.
//!
//! ```text
//!   apply ──publish──► ring (recent records, bounded in bytes) ◄──cursor── follower ──► socket
//!                        │ evicts                                  │ too far behind
//!                        ▼                                         ▼
//!                      history (everything, on disk) ──────────► read in chunks
//! ```
//!
//! Laws:
//! - a follower is a cursor and owns no queue: a slow one costs no more than the last piece it was given, and delays
//!   no other follower;
//! - these pieces share one budget across all followers: a follower that would exceed it waits;
//! - `publish` takes a short lock, pushes and signals: it never waits for a follower;
//! - each record is encoded as JSON once, when a follower first needs it, and the bytes are shared;
//! - a follower of one host is woken only by records that concern that host, and does not read the history
//!   for records that it would skip (`Evicted` remembers what left the ring).
//!
//! Out of scope: HTTP (`api::events`), and closing sockets that do not drain (`server`).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use romana_statemachine::name::HostName;
use romana_statemachine::{Event, Record, Revision};
use romana_storage::history::{History, HistoryError};
use tokio::sync::{Notify, Semaphore};

mod follower;
mod ring;
#[cfg(test)]
mod tests;

pub use follower::Follower;
pub use ring::Topics;
use ring::{Interest, Ring};

/// A bookmark is sent at least this often.
pub const BOOKMARK_INTERVAL: Duration = Duration::from_secs(5);
/// Bytes of all pieces given to followers and not yet written.
const PIECES_BYTES_MAX: usize = 64 << 20;
/// Followers that may read the history concurrently.
const HISTORY_READERS_MAX: usize = 2;

/// Why a feed ends early.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The follower's next record is no longer kept.
    #[error("revision {wanted} is no longer kept, the oldest is {oldest}")]
    Compacted {
        wanted: Revision,
        /// Oldest kept revision.
        oldest: Revision,
    },
    /// The history cannot be read.
    #[error("the history cannot be read")]
    History(#[source] HistoryError),
    /// A record cannot be encoded as JSON.
    #[error("a record cannot be written as JSON")]
    Json(#[source] serde_json::Error),
    /// The task that reads the history was cancelled or panicked.
    #[error("the task that reads the history ended")]
    Task(#[source] tokio::task::JoinError),
}

/// Output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Server-Sent Events.
    Sse,
    /// One JSON document per line.
    Ndjson,
}

/// What a follower wants to receive.
#[derive(Clone, Debug)]
pub struct Filter {
    pub topics: Topics,
    /// Leave out events that concern only other hosts.
    pub host: Option<HostName>,
    /// Leave out events of later versions, which the follower would silently misread.
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

/// The feed of one replica. Clones are handles to the same feed.
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

/// The waiting followers, indexed so that a wake-up visits only those concerned.
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
        self.published.notify_one(); // the dispatcher ends: no handle is left
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

    /// Publishes records that were just applied, in order, after they were appended to the history. Records
    /// that the feed already has are skipped. Never waits for a follower.
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

    /// Revision of the last published record.
    #[must_use]
    pub fn last(&self) -> Revision {
        lock(&self.0.ring).last()
    }

    /// Closes the feed: followers get the remaining records and a bookmark, then their streams end.
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

    /// Number of records by which the slowest follower lags behind.
    #[must_use]
    pub fn lag(&self) -> u64 {
        let last = self.last();
        let followers = lock(&self.0.followers);
        let slowest = followers.slots().map(|slot| slot.cursor.load(Ordering::Relaxed)).min();
        slowest.map_or(0, |cursor| last.since(Revision(cursor)))
    }

    /// Starts following after revision `after`. Must be called in a tokio runtime.
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
        Ok(Follower::new(self.clone(), (id, slot), after, filter, form))
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
