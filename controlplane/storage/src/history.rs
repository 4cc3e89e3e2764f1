//! # The history
//!
//! Every record of every event, in append-only segments: since genesis, or, with a retention setting, since a
//! checkpoint that the cluster signed. It is the audit trail, the source from which followers of the feed catch up,
//! and the past of any address.
//!
//! ```text
//!   append ─► open segment (page cache) ─► full ─► packer thread ─► closed segment (compressed)
//!   sync   ─► fdatasync, then a mark               read ◄── sparse index ◄── both
//! ```
//!
//! ## Laws
//! 1. After `sync` returned, everything appended before it survives any power cut. Records that were not
//!    synced may be lost from the end (and are derived again from the Raft log), never from the middle.
//! 2. Records are dense and chained by their digests; a record that does not continue the chain is refused.
//! 3. Damage is an error with file and offset, at open or at the read that finds it. [`verify`]
//!    checks everything. A missing segment is damage; where the history begins is recorded (`origin`).
//! 4. After a failed write or sync nothing is written any more.
//! 5. Only whole closed segments are purged, oldest first; the rest verifies from its own start.
//!
//! Out of scope: indexes by anything but the revision, and a lock: the replica that owns the directory
//! has locked its log.
//!
//! Reading order: `frame` (encoding), `open_segment`, `sealed_segment`, `segment`, `recover`, `retention`.
//!
//! [`verify`]: History::verify

mod error;
mod frame;
mod open_segment;
mod origin;
mod packer;
mod read_batch;
mod recover;
mod retention;
mod sealed_segment;
mod segment;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use romana_statemachine::{Digest, Millis, Record, Revision};

use crate::durable::{Disk, Files};
use crate::platform::Worker;
pub use error::HistoryError;
use frame::Start;
use open_segment::Raw;
use packer::Packer;
use read_batch::{Cache, Collector};
pub use retention::SegmentInfo;
use sealed_segment::Full;
use segment::{Segment, full_segments};
use writer::Writer;

/// Options of the history.
#[derive(Clone, Debug)]
pub struct HistoryOptions {
    /// Size in bytes at which a segment is closed and compressed.
    pub segment_bytes: u64,
}

impl Default for HistoryOptions {
    /// Segments of 16 MiB: about 100 000 records, checked in a tenth of a second at open.
    fn default() -> Self {
        Self { segment_bytes: 16 << 20 }
    }
}

/// The history. Clones are handles to the same one. Appends and reads run concurrently.
#[derive(Clone)]
pub struct History {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    options: HistoryOptions,
    shared: Arc<Shared>,
    writer: Mutex<Writer>,
    packer: Worker<Packer>,
    /// Cached times of the first records of segments.
    times: Mutex<BTreeMap<Revision, Millis>>,
    /// The file that says where the history begins, if it was missing or damaged at open.
    missing_origin: Option<PathBuf>,
}

/// State shared by readers, writer and packer.
struct Shared {
    state: Mutex<State>,
    /// Serializes syncs: if two concurrent syncs fail for the same reason, only one reports the original error.
    syncing: Mutex<()>,
    cache: Mutex<Cache>,
    failure: OnceLock<Arc<HistoryError>>,
    /// Number of reads that found damage.
    damaged: AtomicU64,
    /// The damage that the last of them found.
    damage: Mutex<Option<String>>,
}

struct State {
    /// By first revision; never empty.
    segments: BTreeMap<Revision, Segment>,
    last: (Revision, Digest),
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn syncing(&self) -> MutexGuard<'_, ()> {
        self.syncing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self) -> Result<(), HistoryError> {
        self.failure.get().map_or(Ok(()), |cause| Err(HistoryError::Stopped(Arc::clone(cause))))
    }

    /// Stops writing permanently.
    fn fail(&self, error: HistoryError) -> HistoryError {
        let cause = self.failure.get_or_init(|| {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the history failed and stops"
            );
            Arc::new(error)
        });
        HistoryError::Stopped(Arc::clone(cause))
    }
}

impl History {
    /// Opens the history in `dir`, creates it if it is missing, and truncates a torn tail.
    ///
    /// # Errors
    /// [`HistoryError::Damaged`] (nothing was changed), [`HistoryError::Io`].
    pub fn open(dir: &Path, options: HistoryOptions) -> Result<Self, HistoryError> {
        let recover::Opened { segments, active, last, unrecorded } = recover::open(dir)?;
        let full = full_segments(&segments);
        let state = Mutex::new(State { segments, last });
        let shared = Arc::new(Shared {
            state,
            syncing: Mutex::default(),
            cache: Mutex::default(),
            failure: OnceLock::new(),
            damaged: AtomicU64::new(0),
            damage: Mutex::default(),
        });
        let packer = Worker::spawn_helper("history-packer", Packer(Arc::clone(&shared)))
            .map_err(HistoryError::io("start the threads of", dir))?;
        for segment in full {
            // The thread was just started, so this cannot fail.
            _ = packer.send(segment);
        }
        let mut writer = Writer::new(active);
        // All of it was just made durable.
        writer.mark(writer.end)?;
        let inner = Inner {
            dir: dir.to_owned(),
            options,
            shared,
            writer: Mutex::new(writer),
            packer,
            times: Mutex::default(),
            missing_origin: unrecorded.then(|| origin::path(dir)),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Appends records in order. They are readable at once, but durable only after [`History::sync`].
    /// Records that are already there are compared and skipped.
    ///
    /// # Errors
    /// [`HistoryError::Gap`], [`HistoryError::Diverged`]: nothing was appended.
    /// [`HistoryError::Stopped`]: writing failed, now or before.
    pub fn append(&self, records: &[Record]) -> Result<(), HistoryError> {
        let shared = &self.inner.shared;
        shared.check()?;
        let mut writer = self.writer();
        let (last, _) = shared.state().last;
        let old = records.partition_point(|record| record.revision <= last);
        let (old, new) = records.split_at(old);
        self.compare(old)?;
        let mut have = last;
        for record in new {
            if record.revision != have.next() {
                return Err(HistoryError::Gap { have, got: record.revision });
            }
            have = record.revision;
        }
        let Some(end) = new.last() else { return Ok(()) };
        writer.write(new).map_err(|error| shared.fail(error))?;
        shared.state().last = (end.revision, end.digest);
        if writer.end >= self.inner.options.segment_bytes {
            self.rotate(&mut writer).map_err(|error| shared.fail(error))?;
        }
        Ok(())
    }

    /// Compares records that are already there. Digests form a chain: if the last one matches, so do all before it.
    /// Only on a mismatch are they compared one by one, to report the first difference.
    fn compare(&self, records: &[Record]) -> Result<(), HistoryError> {
        let oldest = self.oldest();
        if let Some(last) = records.last().filter(|record| record.revision >= oldest) {
            let ours = self.read(last.revision, 1, 1 << 20)?;
            let same = |ours: &Record| (ours.revision, ours.digest) == (last.revision, last.digest);
            if ours.first().is_some_and(same) {
                return Ok(());
            }
        }
        let mut rest = &records[records.partition_point(|record| record.revision < oldest)..];
        while let Some(first) = rest.first() {
            let ours = self.read(first.revision, rest.len(), 1 << 20)?;
            let differs = ours.iter().zip(rest).find(|(ours, record)| {
                ours.revision != record.revision || ours.digest != record.digest
            });
            if let Some((ours, _)) = differs {
                return Err(HistoryError::Diverged { revision: ours.revision });
            }
            if ours.is_empty() {
                break;
            }
            rest = &rest[ours.len()..];
        }
        Ok(())
    }

    /// Closes the open segment and starts the next one.
    fn rotate(&self, writer: &mut Writer) -> Result<(), HistoryError> {
        let mut state = self.inner.shared.state();
        let start = Start { first: state.last.0.next(), previous: state.last.1 };
        let raw = Arc::new(Raw::create(&self.inner.dir, start)?);
        state.segments.insert(start.first, Segment::Raw(Arc::clone(&raw)));
        let last = state.last;
        drop(state);
        let full = Full { raw: std::mem::replace(&mut writer.active, Arc::clone(&raw)), last };
        writer.end = frame::HEADER as u64;
        // A torn mark at its end would make the records after it look as if they were never durable: sync it again.
        writer.owe(Arc::clone(&full.raw));
        writer.owe(raw);
        writer.new_files = true;
        // Without a packer the segment stays uncompressed.
        _ = self.inner.packer.send(full);
        Ok(())
    }

    /// Makes everything appended so far durable. Blocks on the disk; appends continue concurrently.
    ///
    /// # Errors
    /// [`HistoryError::Stopped`]: the disk failed, now or before. A sync is never retried: after a failed sync the
    /// contents of the disk are unknown.
    pub fn sync(&self) -> Result<(), HistoryError> {
        let shared = &self.inner.shared;
        let _one = shared.syncing();
        shared.check()?;
        let (segments, new_files, active, end) = {
            let mut writer = self.writer();
            let segments = std::mem::take(&mut writer.unsynced);
            let new_files = std::mem::take(&mut writer.new_files);
            (segments, new_files, Arc::clone(&writer.active), writer.end)
        };
        if segments.is_empty() {
            return Ok(());
        }
        for segment in &segments {
            segment.sync().map_err(|error| shared.fail(error))?;
        }
        if new_files {
            Disk.sync_parent(&active.path).map_err(|error| shared.fail(error.into()))?;
        }
        let mut writer = self.writer();
        if Arc::ptr_eq(&writer.active, &active) {
            writer.mark(end).map_err(|error| shared.fail(error))?;
        }
        Ok(())
    }

    /// The directory of the history.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// The last record's revision and digest; `(0, default)` when there is none.
    #[must_use]
    pub fn last(&self) -> (Revision, Digest) {
        self.inner.shared.state().last
    }

    /// The oldest readable revision (1 in an empty history).
    #[must_use]
    pub fn oldest(&self) -> Revision {
        self.inner.shared.state().segments.keys().next().copied().unwrap_or(Revision(1))
    }

    /// The oldest readable revision (1 in an empty history), and the digest of the history before it.
    #[must_use]
    pub fn begin(&self) -> (Revision, Digest) {
        let state = self.inner.shared.state();
        let first = state.segments.values().next().map(Segment::start);
        first
            .map_or_else(|| (Revision(1), Digest::default()), |start| (start.first, start.previous))
    }

    /// Reads records from `from` on: at most `max_records`, with at most `max_bytes` of wire form in total, but at
    /// least one if there is one. Blocks on the disk.
    ///
    /// # Errors
    /// [`HistoryError::Compacted`] when `from` is before the oldest revision; [`HistoryError::Damaged`];
    /// [`HistoryError::Io`].
    pub fn read(
        &self,
        from: Revision,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Vec<Record>, HistoryError> {
        let read = self.collect(from, max_records, max_bytes);
        if let Err(error @ HistoryError::Damaged { .. }) = &read {
            self.inner.shared.damaged.fetch_add(1, Ordering::Relaxed);
            let told = error.to_string();
            let mut damage = self.damage_lock();
            // A retry finds the same damage: log it once.
            if damage.as_ref() != Some(&told) {
                tracing::error!(%error, "the history is damaged");
                *damage = Some(told);
            }
        }
        read
    }

    /// The file that says where the history begins, if it was missing or damaged at open although there are records:
    /// a lost first segment was not noticed then. It was written again.
    #[must_use]
    pub fn missing_origin(&self) -> Option<&Path> {
        self.inner.missing_origin.as_deref()
    }

    /// The damage that the last such read found, since the start.
    #[must_use]
    pub fn damage(&self) -> Option<String> {
        self.damage_lock().clone()
    }

    fn damage_lock(&self) -> MutexGuard<'_, Option<String>> {
        self.inner.shared.damage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of reads that found damage.
    #[must_use]
    pub fn damaged(&self) -> u64 {
        self.inner.shared.damaged.load(Ordering::Relaxed)
    }

    fn collect(
        &self,
        from: Revision,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Vec<Record>, HistoryError> {
        let shared = &self.inner.shared;
        let mut collector = Collector::all(from.max(Revision(1)));
        collector.records_left = max_records;
        collector.bytes_left = max_bytes;
        collector.shared = Some(Arc::clone(shared));
        while !collector.is_full() {
            let wanted = collector.next;
            let segment = {
                let state = shared.state();
                if wanted > state.last.0 {
                    break;
                }
                let Some((_, segment)) = state.segments.range(..=wanted).next_back() else {
                    let oldest = state.segments.keys().next().copied().unwrap_or(Revision(1));
                    return Err(HistoryError::Compacted { oldest });
                };
                segment.clone()
            };
            let read = match &segment {
                Segment::Raw(raw) => raw.read(&mut collector),
                Segment::Packed(packed) => packed.read(&mut collector),
            };
            if let Err(error) = read {
                let oldest = self.oldest();
                if collector.next >= oldest {
                    return Err(error);
                }
                // Purged during the read.
                break;
            }
            if collector.next == wanted && !collector.is_full() {
                let path = segment.path();
                return Err(HistoryError::damaged(path, 0, format!("record {wanted} is missing")));
            }
        }
        match self.oldest() {
            oldest if collector.records.is_empty() && collector.next < oldest => {
                Err(HistoryError::Compacted { oldest })
            }
            _ => Ok(collector.records),
        }
    }

    /// Reads everything and verifies the whole chain of digests. Returns the last revision and digest.
    ///
    /// # Errors
    /// [`HistoryError::Damaged`], [`HistoryError::Diverged`] (a digest does not match),
    /// [`HistoryError::Io`].
    pub fn verify(&self) -> Result<(Revision, Digest), HistoryError> {
        let (mut revision, mut digest) = self.start();
        loop {
            let records = match self.read(revision.next(), 4096, 1 << 20) {
                Err(HistoryError::Compacted { .. }) => {
                    // Purged during the check: continue from the new start.
                    (revision, digest) = self.start();
                    continue;
                }
                read => read?,
            };
            if records.is_empty() {
                return Ok((revision, digest));
            }
            for record in records {
                if !record.follows(&digest) {
                    return Err(HistoryError::Diverged { revision: record.revision });
                }
                (revision, digest) = (record.revision, record.digest);
            }
        }
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.inner.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
