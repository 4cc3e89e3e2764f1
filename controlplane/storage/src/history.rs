//! # The history
//!
//! Every record of every event, in segments that are only appended to: since genesis, or, where a
//! retention is set, since some checkpoint on which the cluster agreed. It is the audit trail, what
//! followers of the feed catch up from, and the past of any address.
//!
//! ```text
//!   append ─► open segment (page cache) ─► full ─► packer thread ─► closed segment (compressed)
//!   sync   ─► fdatasync, then a mark               read ◄── sparse index ◄── both
//! ```
//!
//! ## Laws
//! 1. After `sync` returned, everything appended before it is there after any power cut. What was not
//!    synced may be lost from the end (and is derived again from the Raft log), never from the middle.
//! 2. Records are dense and chained by their digests; what does not continue the chain is refused.
//! 3. Damage is an error with file and offset, at open or at the read that meets it. [`verify`]
//!    looks at everything. A missing segment is damage; where the history begins is noted (`origin`).
//! 4. After a failed write or sync nothing is written any more.
//! 5. Only whole closed segments go, oldest first; what is left verifies from its own start.
//!
//! Left out: indexes by anything but the revision, and a lock: the replica that owns the directory
//! has locked its log.
//!
//! Reading order: `frame` (bytes), `raw`, `packed`, `segment`, `recover`, `retention`.
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

use crate::durable::sync_parent;
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

/// How to keep the history.
#[derive(Clone, Debug)]
pub struct HistoryOptions {
    /// Size at which a segment is closed and compressed, bytes.
    pub segment_bytes: u64,
}

impl Default for HistoryOptions {
    /// Segments of 16 MiB: about 100 000 records, a tenth of a second to check at open.
    fn default() -> Self {
        Self { segment_bytes: 16 << 20 }
    }
}

/// The history. Clones are handles to the same one. Appending and reading go on at the same time.
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
    /// When segments began, as far as that was looked up.
    times: Mutex<BTreeMap<Revision, Millis>>,
}

/// What readers, writer and packer have in common.
struct Shared {
    state: Mutex<State>,
    /// One sync at a time: of two that meet the same failure, only one is told.
    syncing: Mutex<()>,
    cache: Mutex<Cache>,
    failure: OnceLock<Arc<HistoryError>>,
    /// Reads that met damage.
    damaged: AtomicU64,
    /// What the last of them met.
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

    /// Stops writing for good.
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
    /// Opens the history in `dir`, which is made if it is missing. A torn tail is cut.
    ///
    /// # Errors
    /// [`HistoryError::Damaged`] (nothing was changed then), [`HistoryError::Io`].
    pub fn open(dir: &Path, options: HistoryOptions) -> Result<Self, HistoryError> {
        let recover::Opened { segments, active, last } = recover::open(dir)?;
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
            // It has just been started.
            _ = packer.send(segment);
        }
        let mut writer = Writer::new(active);
        // All of it was made durable just now.
        writer.mark(writer.end)?;
        let inner = Inner {
            dir: dir.to_owned(),
            options,
            shared,
            writer: Mutex::new(writer),
            packer,
            times: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Appends records, in order. They can be read at once, but are durable only after
    /// [`History::sync`]. Records that are there already are compared and skipped.
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

    /// Records that we have must be the ones that come again. Digests are a chain: if the last is right,
    /// so are those before it, and only if it is not are they looked at one by one, to name the first.
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

    /// Closes the open segment and begins the next one.
    fn rotate(&self, writer: &mut Writer) -> Result<(), HistoryError> {
        let mut state = self.inner.shared.state();
        let start = Start { first: state.last.0.next(), previous: state.last.1 };
        let raw = Arc::new(Raw::create(&self.inner.dir, start)?);
        state.segments.insert(start.first, Segment::Raw(Arc::clone(&raw)));
        let last = state.last;
        drop(state);
        let full = Full { raw: std::mem::replace(&mut writer.active, Arc::clone(&raw)), last };
        writer.end = frame::HEADER as u64;
        // A mark may be the last thing in it: torn, it would make what follows look as if it never was durable.
        writer.owe(Arc::clone(&full.raw));
        writer.owe(raw);
        writer.new_files = true;
        // Without a packer it stays as it is.
        _ = self.inner.packer.send(full);
        Ok(())
    }

    /// Makes everything appended so far durable. Blocks on the disk; appending goes on meanwhile.
    ///
    /// # Errors
    /// [`HistoryError::Stopped`]: the disk failed, now or before. It is never asked again: after a
    /// failed sync nobody knows what is on it.
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
            sync_parent(&active.path).map_err(|error| shared.fail(error.into()))?;
        }
        let mut writer = self.writer();
        if Arc::ptr_eq(&writer.active, &active) {
            writer.mark(end).map_err(|error| shared.fail(error))?;
        }
        Ok(())
    }

    /// Where it is.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// The last record's revision and digest; `(0, default)` when there is none.
    #[must_use]
    pub fn last(&self) -> (Revision, Digest) {
        self.inner.shared.state().last
    }

    /// The first revision that can be read (or will be: 1 in an empty history).
    #[must_use]
    pub fn oldest(&self) -> Revision {
        self.inner.shared.state().segments.keys().next().copied().unwrap_or(Revision(1))
    }

    /// The first revision that can be read (or will be), and the digest of the history before it.
    #[must_use]
    pub fn begin(&self) -> (Revision, Digest) {
        let state = self.inner.shared.state();
        let first = state.segments.values().next().map(Segment::start);
        first
            .map_or_else(|| (Revision(1), Digest::default()), |start| (start.first, start.previous))
    }

    /// Reads records from `from` on: at most `max_records` with `max_bytes` of wire form together,
    /// but one at least if there is one. Blocks on the disk.
    ///
    /// # Errors
    /// [`HistoryError::Compacted`] when `from` is before the oldest; [`HistoryError::Damaged`];
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
            // Whoever asks again meets it again: it is said once.
            if damage.as_ref() != Some(&told) {
                tracing::error!(%error, "the history is damaged");
                *damage = Some(told);
            }
        }
        read
    }

    /// What the last read met that met damage, since the start.
    #[must_use]
    pub fn damage(&self) -> Option<String> {
        self.damage_lock().clone()
    }

    fn damage_lock(&self) -> MutexGuard<'_, Option<String>> {
        self.inner.shared.damage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many reads met damage.
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
                // Purged while it was read.
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

    /// Reads everything and checks the whole chain of digests. Returns the last revision and digest.
    ///
    /// # Errors
    /// [`HistoryError::Damaged`], [`HistoryError::Diverged`] (a digest does not follow),
    /// [`HistoryError::Io`].
    pub fn verify(&self) -> Result<(Revision, Digest), HistoryError> {
        let (mut revision, mut digest) = self.start();
        loop {
            let records = match self.read(revision.next(), 4096, 1 << 20) {
                Err(HistoryError::Compacted { .. }) => {
                    // Purged meanwhile: what is left has a start of its own.
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
