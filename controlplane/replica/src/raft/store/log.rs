//! openraft's log storage on top of our write-ahead log.
//!
//! The tail of the log is kept in memory, where replication and apply read it; older entries are read back from disk.
//! An entry leaves memory only after it is on disk, so every entry is readable from the moment it was appended.
//! Votes, appends, truncations and purges go to the WAL as one sequence and become durable in that order; the WAL's
//! thread completes openraft's callbacks.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use openraft::OptionalSend;
use openraft::alias::LeaderIdOf;
use openraft::storage::{
    IOFlushed, LeaderBoundedStreamError, LeaderBoundedStreamResult, LogState, RaftLogReader,
    RaftLogStorage,
};
use romana_storage::platform::blocking;
use romana_storage::wal::{Recovered, Wal};
use tokio::sync::oneshot;

use crate::raft::store::codec::{entry_bytes, entry_size, pack, read_entry, unpack};
use crate::raft::store::types::{LogEntry, LogId, TypeConfig, Vote};

/// Bytes of entries per read, from memory or from disk. At least one entry is read.
const READ_BYTES_MAX: usize = 4 << 20;
/// Estimated memory of an entry without its commands, in bytes.
const ENTRY_OVERHEAD: usize = 96;

/// What this replica knows from its own disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::raft) struct Known {
    /// The highest term in which it voted or has an entry.
    pub(in crate::raft) term: u64,
    /// Index of its last entry.
    pub(in crate::raft) index: u64,
    /// It has no data yet and joins a cluster that may be in any term.
    pub(in crate::raft) joins: bool,
}

/// The log of one replica. Clones share it.
#[derive(Clone)]
pub(in crate::raft) struct LogStore {
    wal: Wal,
    tail: Arc<Mutex<Tail>>,
    /// The replica joins a cluster that may be in any term.
    joins: bool,
}

/// What is known without disk reads.
///
/// Invariants: `entries` are consecutive and end with the last entry of the log; all earlier entries of the log are
/// on disk (`on_disk` ≥ the index before the first of `entries`).
struct Tail {
    vote: Option<Vote>,
    purged: Option<LogId>,
    /// Index of the first entry, in memory or on disk; the next index if there is none.
    first: u64,
    last: Option<LogId>,
    entries: VecDeque<LogEntry>,
    bytes: usize,
    bytes_max: usize,
    /// Index up to which entries are durable.
    on_disk: Option<u64>,
}

impl Tail {
    fn first_index(&self) -> Option<u64> {
        self.entries.front().map(|entry| entry.log_id.index)
    }

    fn push(&mut self, entry: LogEntry) {
        let size = entry_size(&entry) + ENTRY_OVERHEAD;
        self.bytes += size;
        if self.last.is_none() {
            self.first = entry.log_id.index;
        }
        self.last = Some(entry.log_id);
        self.entries.push_back(entry);
    }

    /// Drops the oldest durable entries from memory while their bytes exceed the limit.
    fn shrink(&mut self) {
        while self.bytes > self.bytes_max && self.first_index() <= self.on_disk {
            let Some(entry) = self.entries.pop_front() else { return };
            self.bytes -= entry_size(&entry) + ENTRY_OVERHEAD;
        }
    }

    fn truncate_after(&mut self, last: Option<LogId>) {
        let keep = last.map_or(0, |id| id.index + 1);
        while self.entries.back().is_some_and(|entry| entry.log_id.index >= keep) {
            if let Some(entry) = self.entries.pop_back() {
                self.bytes -= entry_size(&entry) + ENTRY_OVERHEAD;
            }
        }
        self.last = last;
        self.on_disk = self.on_disk.min(last.map(|id| id.index));
    }

    fn purge(&mut self, upto: LogId) {
        while self.first_index().is_some_and(|first| first <= upto.index) {
            if let Some(entry) = self.entries.pop_front() {
                self.bytes -= entry_size(&entry) + ENTRY_OVERHEAD;
            }
        }
        self.purged = Some(upto);
        self.first = self.first.max(upto.index + 1);
        self.last = self.last.max(Some(upto));
        self.on_disk = self.on_disk.max(Some(upto.index));
    }

    /// Entries of `from..to` in memory, up to [`READ_BYTES_MAX`]; `None` when `from` is not in memory.
    fn read(&self, from: u64, to: u64) -> Option<Vec<LogEntry>> {
        let first = self.first_index()?;
        let skip = usize::try_from(from.checked_sub(first)?).ok()?;
        let mut bytes = 0;
        let wanted = self.entries.iter().skip(skip).take_while(|entry| {
            let fits = bytes < READ_BYTES_MAX && entry.log_id.index < to;
            bytes += entry_size(entry);
            fits
        });
        Some(wanted.cloned().collect())
    }
}

impl LogStore {
    /// Takes over an opened WAL and reads its last entry. Blocks.
    ///
    /// # Errors
    /// When the contents of the WAL do not parse or cannot be read.
    pub(in crate::raft) fn open(
        wal: Wal,
        recovered: &Recovered,
        bytes_max: usize,
    ) -> io::Result<Self> {
        let vote: Option<Vote> =
            recovered.vote.as_ref().map(|bytes| unpack("vote", bytes)).transpose()?;
        // Never lead again in a term from before the restart. Openraft would, given a committed vote for this
        // replica; but followers may hold entries of that term that this replica sent and had not yet written, and it
        // would assign their indexes to other entries (found by chaos, seed 21).
        let vote = vote.map(|vote| Vote { committed: false, ..vote });
        let purged: Option<LogId> = match &recovered.purged {
            Some((_, marker)) => Some(unpack("purge marker", marker)?),
            None => None,
        };
        let last = match recovered.last {
            Some(last) if recovered.first <= last => {
                let read = wal.read(last, last + 1, READ_BYTES_MAX).map_err(io::Error::other)?;
                let entry = read.into_iter().next().map(|(_, bytes)| read_entry(bytes));
                entry.transpose()?.map(|entry| entry.log_id)
            }
            _ => None,
        };
        let tail = Tail {
            vote,
            purged,
            first: recovered.first,
            last: last.max(purged),
            entries: VecDeque::new(),
            bytes: 0,
            bytes_max,
            on_disk: last.max(purged).map(|id| id.index),
        };
        Ok(Self { wal, tail: Arc::new(Mutex::new(tail)), joins: false })
    }

    /// Marks it as the log of a replica that joins a cluster.
    pub(in crate::raft) fn joining(self, joins: bool) -> Self {
        Self { joins, ..self }
    }

    /// The underlying WAL.
    pub(in crate::raft) fn wal(&self) -> &Wal {
        &self.wal
    }

    /// Index of the first of the last entries that add up to this many bytes; `None` when there are fewer bytes in
    /// memory.
    pub(in crate::raft) fn first_within(&self, bytes: usize) -> Option<u64> {
        let tail = self.tail();
        let mut left = bytes;
        let too_many = tail.entries.iter().rev().find(|entry| {
            let size = entry_size(entry) + ENTRY_OVERHEAD;
            let fits = size <= left;
            left = left.saturating_sub(size);
            !fits
        });
        too_many.map(|entry| entry.log_id.index + 1)
    }

    /// Index of the last entry; 0 when there is none.
    pub(in crate::raft) fn last_index(&self) -> u64 {
        self.tail().last.map_or(0, |id| id.index)
    }

    /// This replica's term and index, for the plausibility checks in [`bounds`](crate::raft::peer::bounds).
    pub(in crate::raft) fn known(&self) -> Known {
        let tail = self.tail();
        let voted = tail.vote.map_or(0, |vote| vote.leader_id.term);
        let term = tail.last.map_or(0, |id| id.leader_id.term).max(voted);
        let joins = self.joins && tail.vote.is_none() && tail.last.is_none();
        Known { term, index: tail.last.map_or(0, |id| id.index), joins }
    }

    /// The term of the last vote, the index after the last entry, and the index after the last durable entry.
    pub(in crate::raft) fn position(&self) -> (u64, u64, u64) {
        let tail = self.tail();
        let after = |index: Option<u64>| index.map_or(0, |index| index + 1);
        let term = tail.vote.map_or(0, |vote| vote.leader_id.term);
        (term, after(tail.last.map(|id| id.index)), after(tail.on_disk))
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Entries of `from..to`, up to about [`READ_BYTES_MAX`], at least one if there is one.
    async fn read(&self, from: u64, to: u64) -> io::Result<Vec<LogEntry>> {
        let (from, to) = {
            let tail = self.tail();
            let end = tail.last.map_or(0, |id| id.index + 1);
            let (from, to) = (from.max(tail.first), to.min(end));
            if from >= to {
                return Ok(Vec::new());
            }
            if let Some(entries) = tail.read(from, to) {
                return Ok(entries);
            }
            (from, tail.first_index().map_or(to, |first| to.min(first)))
        };
        let wal = self.wal.clone();
        let read = blocking(move || wal.read(from, to, READ_BYTES_MAX));
        let read = read.await.map_err(io::Error::other)?.map_err(io::Error::other)?;
        read.into_iter().map(|(_, bytes)| Ok(read_entry(bytes)?)).collect()
    }

    /// All entries of `from..to`, read in chunks.
    fn stream(&self, from: u64, to: u64) -> impl Stream<Item = io::Result<LogEntry>> + use<> {
        let start = (self.clone(), from, VecDeque::<LogEntry>::new());
        stream::try_unfold(start, move |(log, next, mut ready)| async move {
            if ready.is_empty() && next < to {
                ready = log.read(next, to).await?.into();
            }
            let Some(entry) = ready.pop_front() else { return Ok(None) };
            let next = entry.log_id.index + 1;
            Ok(Some((entry, (log, next, ready))))
        })
    }

    /// Waits until an operation that `enqueue` submits to the WAL is durable.
    async fn durable(
        &self,
        enqueue: impl FnOnce(&Wal, romana_storage::wal::Done),
    ) -> io::Result<()> {
        let (send, done) = oneshot::channel();
        enqueue(&self.wal, Box::new(move |result| _ = send.send(result)));
        done.await.map_err(|_| io::Error::other("the write-ahead log has stopped"))?
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(from) => *from,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(to) => *to,
        Bound::Unbounded => u64::MAX,
    };
    (from, to)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<LogEntry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (mut from, to) = bounds(&range);
        let mut all = self.read(from, to).await?;
        while let Some(last) = all.last().map(|entry| entry.log_id.index) {
            from = last + 1;
            let more = self.read(from, to).await?;
            if more.is_empty() {
                break;
            }
            all.extend(more);
        }
        Ok(all)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.tail().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<LogEntry>> {
        self.read(start, end).await
    }

    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = io::Result<LogEntry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (from, to) = bounds(&range);
        Box::pin(self.stream(from, to))
    }

    async fn leader_bounded_stream<RB>(
        &mut self,
        leader: LeaderIdOf<TypeConfig>,
        range: RB,
    ) -> impl Stream<Item = LeaderBoundedStreamResult<TypeConfig>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        use openraft::errors::LeaderChanged;

        let (from, to) = bounds(&range);
        let before = self.tail().vote;
        let read = self.read(from, to).await;
        let after = self.tail().vote;
        let leads = |vote: &Option<Vote>| {
            vote.is_some_and(|vote| vote.leader_id == leader && vote.committed)
        };
        let items: Vec<LeaderBoundedStreamResult<TypeConfig>> = match read {
            _ if !leads(&before) || before != after => {
                vec![Err(LeaderBoundedStreamError::LeaderChanged(LeaderChanged::new(
                    leader, after,
                )))]
            }
            Ok(entries) => entries.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(LeaderBoundedStreamError::IoError(error))],
        };
        stream::iter(items)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let tail = self.tail();
        Ok(LogState { last_purged_log_id: tail.purged, last_log_id: tail.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let bytes = Bytes::from(pack(vote));
        self.durable(|wal, done| wal.save_vote(bytes, done)).await?;
        self.tail().vote = Some(*vote);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<LogEntry> = entries.into_iter().collect();
        let encoded: Vec<(u64, Bytes)> =
            entries.iter().map(|entry| (entry.log_id.index, entry_bytes(entry))).collect();
        let last = entries.last().map(|entry| entry.log_id.index);
        {
            let mut tail = self.tail();
            entries.into_iter().for_each(|entry| tail.push(entry));
        }
        let tail = Arc::clone(&self.tail);
        let done = move |result: io::Result<()>| {
            if let (Ok(()), Some(last)) = (&result, last) {
                let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
                tail.on_disk = tail.on_disk.max(Some(last));
                tail.shrink();
            }
            callback.io_completed(result);
        };
        self.wal.append(encoded, Box::new(done));
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        if self.tail().last.map(|id| id.index) <= last_log_id.map(|id| id.index) {
            return Ok(());
        }
        // Wait until every earlier append has completed, so that none can mark a new entry durable.
        let upto = last_log_id.map(|id| id.index);
        self.durable(|wal, done| wal.truncate_after(upto, done)).await?;
        self.tail().truncate_after(last_log_id);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        self.tail().purge(log_id);
        let marker = Bytes::from(pack(&log_id));
        self.durable(|wal, done| wal.purge(log_id.index, marker, done)).await
    }
}
