//! The state machine under Raft: applies the log to the state, the history and the feed.
//!
//! An entry that cannot be applied (it does not parse, the history contradicts it, or a write fails) stops this
//! replica: continuing would compute a state that differs from the others.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use futures_util::{FutureExt, Stream, StreamExt, TryStreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use romana_daemon::error::chain;
use romana_statemachine::{Entry, Index, Position, Record, Revision, State, Term};
use romana_storage::history::History;
use romana_storage::platform::blocking;
use tokio::sync::watch;

use crate::audit::Audit;
use crate::feed::Feed;
use crate::metrics::DiskTimes;
use crate::raft::fault::Fault;
use crate::raft::store::codec::{entry_size, unpack};
use crate::raft::store::snapshot::{SnapshotFile, SnapshotOf, SnapshotStore};
use crate::raft::store::types::{Answers, LogId, Membership, SnapshotMeta, TypeConfig};
use crate::raft::topics::TopicRevisions;

/// Entries applied under one write lock. Readers wait that long.
const BATCH_ENTRIES_MAX: usize = 64;
/// Approximate bytes of entries applied under one write lock: another entry is taken only below this.
const BATCH_BYTES_MAX: usize = 256 << 10;
/// Records read from the history at a time when publishing them to the feed.
const RECORDS_MAX: usize = 4096;
const RECORD_BYTES_MAX: usize = 4 << 20;

/// The result of an entry: the responder and its answers, sent once history and feed have the records.
type Applied = (Option<openraft::storage::ApplyResponder<TypeConfig>>, Answers);

/// Raft with this state machine.
pub(in crate::raft) type Raft = openraft::Raft<TypeConfig, Machine>;

/// The state of one replica. Clones share it.
#[derive(Clone)]
pub(in crate::raft) struct Machine(Arc<Inner>);

struct Inner {
    live: RwLock<Live>,
    history: History,
    feed: Feed,
    audit: Audit,
    snapshots: SnapshotStore,
    newest: Mutex<Option<SnapshotFile>>,
    /// Index after the last applied entry.
    next: watch::Sender<u64>,
    topics: watch::Sender<TopicRevisions>,
    /// Bytes of entries applied since the last [`Machine::take_applied_bytes`].
    applied_bytes: AtomicU64,
    fault: Fault,
    times: DiskTimes,
}

/// The fields that change together.
#[derive(Clone)]
struct Live {
    state: State,
    last: Option<LogId>,
    membership: Membership,
}

/// Why the stored state cannot be used.
#[derive(Debug, thiserror::Error)]
pub(in crate::raft) enum LoadError {
    #[error(
        "{}: the history ends at revision {history}, before the snapshot of revision {snapshot}",
        dir.display()
    )]
    HistoryBehind { dir: PathBuf, snapshot: Revision, history: Revision },
    #[error("{}: snapshot and history disagree about revision {revision}", dir.display())]
    Disagree { dir: PathBuf, revision: Revision },
    #[error("snapshot")]
    Snapshot(#[from] crate::raft::store::snapshot::SnapshotError),
    #[error("history")]
    History(#[from] romana_storage::history::HistoryError),
}

/// The log continues at a version that this program does not know.
#[derive(Debug, thiserror::Error)]
#[error(
    "the cluster goes on at version {version}, which this program does not know: start this \
     replica with the program that the others have"
)]
struct TooNew {
    version: u16,
}

impl Machine {
    /// Starts from a snapshot. Raft applies the log after it. Blocks.
    pub(in crate::raft) fn open(
        snapshots: SnapshotStore,
        newest: Option<(SnapshotFile, State)>,
        history: History,
        feed: Feed,
        audit: Audit,
        fault: Fault,
    ) -> Result<Self, LoadError> {
        let (newest, live) = match newest {
            Some((file, state)) => {
                agree(&history, &state)?;
                let (last, membership) = (file.head().last, file.head().membership.clone());
                (Some(file), Live { state, last, membership })
            }
            None => {
                let (state, membership) = (State::new(), Membership::default());
                (None, Live { state, last: None, membership })
            }
        };
        let next = watch::Sender::new(live.last.map_or(0, |id| id.index + 1));
        let (live, newest) = (RwLock::new(live), Mutex::new(newest));
        Ok(Self(Arc::new(Inner {
            live,
            history,
            feed,
            audit,
            snapshots,
            newest,
            next,
            topics: watch::Sender::default(),
            applied_bytes: AtomicU64::new(0),
            fault,
            times: DiskTimes::default(),
        })))
    }

    pub(in crate::raft) fn with_state<R>(&self, read: impl FnOnce(&State) -> R) -> R {
        read(&self.live().state)
    }

    pub(in crate::raft) fn last_applied(&self) -> Option<LogId> {
        self.live().last
    }

    pub(in crate::raft) fn history(&self) -> &History {
        &self.0.history
    }

    pub(in crate::raft) fn feed(&self) -> &Feed {
        &self.0.feed
    }

    pub(in crate::raft) fn audit(&self) -> &Audit {
        &self.0.audit
    }

    /// Disk latencies.
    pub(in crate::raft) fn times(&self) -> &DiskTimes {
        &self.0.times
    }

    pub(in crate::raft) fn snapshots(&self) -> &SnapshotStore {
        &self.0.snapshots
    }

    /// Waits until the entry of this index is applied, and its records are in history and feed.
    pub(in crate::raft) async fn wait_applied(&self, index: u64) {
        // The sender lives as long as self, so the wait cannot fail.
        _ = self.0.next.subscribe().wait_for(|next| *next > index).await;
    }

    /// The index after the last applied entry, to watch.
    pub(in crate::raft) fn applied(&self) -> watch::Receiver<u64> {
        self.0.next.subscribe()
    }

    /// The latest change of each topic, to watch.
    pub(in crate::raft) fn topics(&self) -> watch::Receiver<TopicRevisions> {
        self.0.topics.subscribe()
    }

    fn live(&self) -> RwLockReadGuard<'_, Live> {
        self.0.live.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of entries applied since the last call.
    pub(in crate::raft) fn take_applied_bytes(&self) -> u64 {
        self.0.applied_bytes.swap(0, Ordering::Relaxed)
    }

    /// Length of the newest snapshot in bytes; 0 when there is none.
    pub(in crate::raft) fn snapshot_bytes(&self) -> u64 {
        self.newest().map_or(0, |file| file.bytes())
    }

    fn newest(&self) -> Option<SnapshotFile> {
        self.0.newest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Revision of the newest snapshot; 0 when there is none.
    pub(in crate::raft) fn snapshot_revision(&self) -> Revision {
        self.newest().map_or(Revision(0), |file| file.head().revision)
    }

    /// Index after the last entry in the newest snapshot.
    pub(in crate::raft) fn snapshot_next(&self) -> u64 {
        self.newest().and_then(|file| file.head().last).map_or(0, |id| id.index + 1)
    }

    /// Records a snapshot as the newest, unless a newer one was installed while it was written.
    fn set_newest(&self, file: &SnapshotFile) {
        let mut newest = self.0.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if newest.as_ref().is_none_or(|known| known.head().last <= file.head().last) {
            *newest = Some(file.clone());
        }
    }

    fn stop<E: std::error::Error + Send + Sync + 'static>(
        &self,
        what: &str,
        error: E,
    ) -> io::Error {
        self.0.fault.set_error(format!("{what}: {}", chain(&error)), &error);
        io::Error::other(error)
    }

    fn apply_batch(&self, batch: Vec<EntryResponder<TypeConfig>>) -> io::Result<()> {
        let mut decoded = Vec::with_capacity(batch.len());
        for (entry, responder) in batch {
            let commands: Option<Entry> = match &entry.payload {
                EntryPayload::Normal(payload) => Some(
                    unpack("log entry", &payload.0)
                        .map_err(|error| self.stop(&format!("entry {}", entry.log_id), error))?,
                ),
                EntryPayload::Blank | EntryPayload::Membership(_) => None,
            };
            decoded.push((entry, commands, responder));
        }
        let mut records: Vec<Record> = Vec::new();
        let mut applied: Vec<Applied> = Vec::with_capacity(decoded.len());
        let (mut next, mut checkpoint) = (0, None);
        {
            let mut live = self.0.live.write().unwrap_or_else(PoisonError::into_inner);
            for (entry, commands, responder) in decoded {
                let id = entry.log_id;
                let mut answers = Answers::default();
                if let Some(commands) = commands {
                    live.state
                        .understands(&commands)
                        .map_err(|version| self.stop("upgrade needed", TooNew { version }))?;
                    let position =
                        Position { term: Term(id.leader_id.term), index: Index(id.index) };
                    let before = live.state.revision();
                    let (outcomes, caused) = live.state.apply(position, &commands);
                    if self.0.audit.checkpoints().is_due(before, &live.state) {
                        checkpoint = Some(live.state.clone());
                    }
                    answers = Answers(outcomes);
                    records.extend(caused);
                    invariants(&live.state)
                        .map_err(|broken| self.stop(&format!("entry {id}"), broken))?;
                }
                if let EntryPayload::Membership(membership) = entry.payload {
                    live.membership = Membership::new(Some(id), membership);
                }
                // openraft's own tests leave gaps.
                debug_assert!(live.last.is_none_or(|last| id.index > last.index));
                live.last = Some(id);
                next = id.index + 1;
                applied.push((responder, answers));
            }
        }
        if !records.is_empty() {
            let appended = self.0.history.append(&records);
            appended.map_err(|error| self.stop("history", error))?;
            self.0.topics.send_modify(|topics| topics.take(&records));
            self.0.feed.publish(records);
        }
        if let Some(state) = checkpoint {
            self.0.audit.checkpoints().offer(state);
        }
        for (responder, answers) in applied {
            if let Some(responder) = responder {
                responder.send(answers);
            }
        }
        self.0.next.send_replace(next);
        Ok(())
    }

    /// Installs a received snapshot; the history must already reach it.
    fn install(&self, snapshot: &SnapshotFile) -> Result<Revision, LoadError> {
        let state = snapshot.read_state()?;
        agree(&self.0.history, &state)?;
        self.0.history.sync()?;
        let snapshot = self.0.snapshots.adopt(snapshot.clone())?;
        let (last, membership) = (snapshot.head().last, snapshot.head().membership.clone());
        self.set_newest(&snapshot);
        let mut live = self.0.live.write().unwrap_or_else(PoisonError::into_inner);
        let before = live.state.revision();
        self.0.topics.send_modify(|topics| topics.all_changed(state.revision()));
        *live = Live { state, last, membership };
        Ok(before)
    }

    /// Publishes the records that a snapshot skipped.
    fn publish_since(&self, before: Revision) -> Result<(), LoadError> {
        let end = self.live().state.revision();
        // A history that restarted lacks some of them: followers are told when they reach the gap.
        let mut next = before.next().max(self.0.history.oldest());
        while next <= end {
            let mut records = self.0.history.read(next, RECORDS_MAX, RECORD_BYTES_MAX)?;
            records.retain(|record| record.revision <= end);
            let Some(last) = records.last() else { return Ok(()) };
            next = last.revision.next();
            self.0.feed.publish(records);
        }
        Ok(())
    }
}

/// The state violates an invariant.
#[derive(Debug, thiserror::Error)]
#[error("the state breaks an invariant: {0}")]
struct Broken(String);

/// Up to this size of the state every entry is checked; at ten times the size, every tenth.
const CHECKED_SIZE: u64 = 500;

/// Checks the invariants of a state after an entry, in test builds: a fault is found where it begins, not where it
/// first has an effect.
fn invariants(state: &State) -> Result<(), Broken> {
    if !cfg!(any(feature = "simulation", debug_assertions)) {
        return Ok(());
    }
    let size = (state.ipam().address_count() + state.hosts().count()) as u64;
    if !state.index().get().is_multiple_of(size / CHECKED_SIZE + 1) {
        return Ok(());
    }
    state.validate().map_err(|wrong| Broken(wrong.join("; ")))
}

/// Checks that the history reaches the state and has the same digest for its revision.
fn agree(history: &History, state: &State) -> Result<(), LoadError> {
    let (last, last_digest) = history.last();
    let revision = state.revision();
    if last < revision {
        let dir = history.dir().to_owned();
        return Err(LoadError::HistoryBehind { dir, snapshot: revision, history: last });
    }
    let digest = if last == revision {
        Some(last_digest)
    } else if history.start().0 == revision {
        Some(history.start().1)
    } else if revision < history.oldest() {
        return Ok(());
    } else {
        history.read(revision, 1, RECORD_BYTES_MAX)?.first().map(|record| record.digest)
    };
    if digest == Some(state.digest()) {
        return Ok(());
    }
    Err(LoadError::Disagree { dir: history.dir().to_owned(), revision })
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, Membership)> {
        let live = self.live();
        Ok((live.last, live.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some(first) = entries.try_next().await? {
            let mut bytes = entry_size(&first.0);
            let mut batch = vec![first];
            while batch.len() < BATCH_ENTRIES_MAX
                && bytes < BATCH_BYTES_MAX
                && let Some(Some(entry)) = entries.next().now_or_never()
            {
                let entry = entry?;
                bytes += entry_size(&entry.0);
                batch.push(entry);
            }
            self.apply_batch(batch)?;
            self.0.applied_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            // A long replay must not starve elections and heartbeats.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { machine: self.clone(), live: self.live().clone() }
    }

    async fn install_snapshot(
        &mut self,
        _: &SnapshotMeta,
        snapshot: SnapshotFile,
    ) -> io::Result<()> {
        let machine = self.clone();
        let install = move || {
            let before = machine.install(&snapshot)?;
            machine.publish_since(before)?;
            Ok::<_, LoadError>(snapshot.head().last.map_or(0, |id| id.index + 1))
        };
        let installed = blocking(install).await.map_err(io::Error::other)?;
        let next = installed.map_err(|error| self.stop("snapshot", error))?;
        self.0.next.send_replace(next);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf>> {
        Ok(self.newest().map(|file| SnapshotOf { meta: file.meta(), snapshot: file }))
    }
}

/// Writes a snapshot from a copy of the state while the state keeps changing.
pub(in crate::raft) struct Builder {
    machine: Machine,
    live: Live,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf> {
        let (machine, live) = (self.machine.clone(), self.live.clone());
        let build = move || {
            // The log may be purged once the snapshot exists: the history must be durable by then.
            machine.0.history.sync()?;
            let file = machine.0.snapshots.write(&live.state, live.last, live.membership)?;
            machine.set_newest(&file);
            Ok::<_, LoadError>(file)
        };
        let started = std::time::Instant::now();
        let built = blocking(build).await.map_err(io::Error::other)?;
        let file = built.map_err(|error| self.machine.stop("snapshot", error))?;
        let (index, revision) = (file.head().last.map(|id| id.index), file.head().revision.get());
        let (bytes, took) = (file.bytes(), started.elapsed());
        self.machine.0.times.snapshot.observe(took.as_secs_f64());
        tracing::info!(index, revision, bytes, ?took, "snapshot written");
        Ok(SnapshotOf { meta: file.meta(), snapshot: file })
    }
}
