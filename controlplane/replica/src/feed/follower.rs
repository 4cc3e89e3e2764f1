//! A follower: a cursor in the feed, and how it advances.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{BufMut, Bytes, BytesMut};
use romana_statemachine::{Record, Revision};
use romana_storage::history::HistoryError;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::ring::{self, Item};
use super::{BOOKMARK_INTERVAL, Feed, FeedError, Filter, Form, Slot, lock};

/// Approximate size of a piece of ordinary records, in bytes.
const PIECE_BYTES: usize = 64 << 10;
/// Maximum records per look into the ring.
const CHUNK_RECORDS_MAX: usize = 128;
/// Maximum records and bytes per read of the history.
const HISTORY_RECORDS_MAX: usize = 128;
const HISTORY_BYTES_MAX: usize = 32 << 10;

/// One follower's position in the feed.
pub struct Follower {
    feed: Feed,
    id: u64,
    slot: Arc<Slot>,
    pub(super) cursor: Revision,
    pub(super) filter: Filter,
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
    /// The follower registered under this number.
    pub(super) fn new(
        feed: Feed,
        (id, slot): (u64, Arc<Slot>),
        cursor: Revision,
        filter: Filter,
        form: Form,
    ) -> Self {
        let bookmark_at = Instant::now() + BOOKMARK_INTERVAL;
        Self { feed, id, slot, cursor, filter, form, bookmark_at, greeted: false, ended: false }
    }

    /// Waits for the next bytes of the follower. `None` when the feed was closed.
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
                        // The encoded bytes are shared with other followers.
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
                    // Look once more before the bookmark, so that it includes the newest revision.
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

    /// Reserves budget for one more piece; `None` if there is none before the next bookmark is due.
    async fn piece(&self) -> Option<OwnedSemaphorePermit> {
        let wanted = u32::try_from(PIECE_BYTES).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.feed.0.pieces).acquire_many_owned(wanted);
        tokio::time::timeout_at(self.bookmark_at, room).await.ok()?.ok()
    }

    /// Encodes and concatenates records.
    fn join(&self, items: &[Arc<Item>]) -> Result<Bytes, FeedError> {
        let mut joined = BytesMut::with_capacity(PIECE_BYTES.min(items.len() * 512));
        for item in items {
            joined.put(item.bytes(self.form).map_err(FeedError::Json)?);
        }
        Ok(joined.freeze())
    }

    /// Continues from the history. `None` when no record of the chunk matched, or no budget was available in time.
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
            // The ring skipped ahead (a snapshot was installed) and the history has not caught up yet.
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

/// The last revision of some records, and the encoded matching ones.
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

/// A piece of the feed and its share of the budget.
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
    /// Bytes that release their share of the budget when they are dropped.
    fn counted(bytes: Bytes, mut held: OwnedSemaphorePermit) -> Bytes {
        // Return the unused part of the reservation at once.
        drop(held.split(held.num_permits().saturating_sub(bytes.len())));
        Bytes::from_owner(Self { bytes, _held: held })
    }
}
