//! The indexer thread: opens or rebuilds the index, and follows the history.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use romana_statemachine::{Digest, Record, Revision};
use romana_storage::history::HistoryError;

use super::index::{Index, IndexError, Mark};
use super::tail::Tail;
use super::{Shared, View};

/// Records per read.
const RECORDS_MAX: usize = 2048;
const RECORD_BYTES_MAX: usize = 1 << 20;
/// How often the history is polled without queries.
const IDLE: Duration = Duration::from_millis(100);
/// Pause before a failed index is rebuilt, or an unreadable history is read again.
const RETRY: Duration = Duration::from_secs(1);
/// The lowest priority: commits go first, and queries wait for the index.
pub(super) const NICE: i32 = 19;

/// Why indexing starts over.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error("the history cannot be read")]
    History(#[from] HistoryError),
    #[error("the history does not continue what was indexed up to revision {0}")]
    OtherHistory(Revision),
    #[error("most of what is indexed was purged")]
    MostlyPurged,
}

impl Shared {
    /// Indexes until it is stopped.
    pub(super) fn run(&self) {
        if let Err(error) = rustix::process::nice(NICE) {
            tracing::debug!(%error, "cannot lower the priority of the indexer");
        }
        while !self.stopping() {
            let Err(trouble) = self.index_all() else { return };
            let why = &trouble as &dyn std::error::Error;
            self.rebuilds.fetch_add(1, Ordering::Relaxed);
            self.view_mut().index = None;
            tracing::warn!(error = why, "audit: rebuilding the index");
            self.discard(None);
            if !self.stopping() {
                thread::park_timeout(RETRY);
            }
        }
    }

    fn index_all(&self) -> Result<(), Trouble> {
        let (index, mark) = self.open()?;
        let (revision, digest) = mark.map_or_else(|| self.history.start(), |m| (m.last, m.digest));
        let first = mark.map_or_else(|| revision.next(), |mark| mark.first);
        *self.view_mut() = View { index: Some(index.clone()), tail: Tail::after(revision, digest) };
        self.reached.send_replace(revision);
        while !self.stopping() {
            let (next, digest) = {
                let view = self.view();
                if view.index.is_none() {
                    return Err(IndexError::Damaged("a question found it broken").into());
                }
                (view.tail.last.next(), view.tail.digest)
            };
            let records = match self.read(next, digest) {
                Err(Trouble::History(error)) => {
                    self.get_stuck(error);
                    thread::park_timeout(RETRY);
                    continue;
                }
                records => records?,
            };
            if records.is_empty() {
                self.stuck.send_if_modified(|stuck| stuck.take().is_some());
                self.check_purged(first, next)?;
                thread::park_timeout(IDLE);
                continue;
            }
            self.take(&index, first, &records)?;
        }
        Ok(())
    }

    /// The next records, which must continue the indexed ones.
    fn read(&self, next: Revision, digest: Digest) -> Result<Vec<Record>, Trouble> {
        if self.history.last().0.next() < next {
            return Err(Trouble::OtherHistory(next.minus(1)));
        }
        let read = |most| self.history.read(next, most, RECORD_BYTES_MAX);
        let records = match read(RECORDS_MAX) {
            // Everything before the damage is intact: index the rest of this segment, unless the damage is in it.
            Err(HistoryError::Damaged { .. }) => {
                let end = self.history.segment_after(next).unwrap_or_else(|| next.next());
                read(usize::try_from(end.since(next)).unwrap_or(RECORDS_MAX).min(RECORDS_MAX))
            }
            records => records,
        };
        let records = match records {
            Err(HistoryError::Compacted { .. }) => {
                return Err(Trouble::OtherHistory(next.minus(1)));
            }
            records => records?,
        };
        let mut last = digest;
        for record in &records {
            if !record.follows(&last) {
                return Err(Trouble::OtherHistory(record.revision.minus(1)));
            }
            last = record.digest;
        }
        Ok(records)
    }

    /// Records that the history cannot be read, so that queries waiting for the index fail.
    fn get_stuck(&self, error: HistoryError) {
        let told = error.to_string();
        self.stuck.send_if_modified(|stuck| {
            let news = stuck.as_ref().is_none_or(|known| known.to_string() != told);
            if news {
                let why = &error as &dyn std::error::Error;
                tracing::error!(error = why, "audit: indexing paused: the history cannot be read");
                *stuck = Some(Arc::new(error));
            }
            news
        });
    }

    /// Adds records to the tail; at the end of a segment, moves a tail that is large enough to the index.
    fn take(&self, index: &Index, first: Revision, records: &[Record]) -> Result<(), Trouble> {
        let mut records = records;
        while let Some(head) = records.first() {
            let (last, keys) = {
                let view = self.view();
                (view.tail.last, view.tail.keys())
            };
            let ended = self.history.segment_after(last) == Some(head.revision);
            if ended && keys >= self.tail_keys {
                self.close(index, first)?;
            }
            let next = self.history.segment_after(head.revision).unwrap_or(Revision::MAX);
            let here = records.partition_point(|record| record.revision < next);
            let (now, later) = records.split_at(here);
            {
                let mut view = self.view_mut();
                now.iter().for_each(|record| view.tail.add(record));
            }
            records = later;
        }
        self.reached.send_replace(self.view().tail.last);
        Ok(())
    }

    /// Moves the tail to the index on disk. Queries find its contents in one of the two at any moment.
    fn close(&self, index: &Index, first: Revision) -> Result<(), Trouble> {
        let mark = {
            let view = self.view();
            let tail = &view.tail;
            let mark = Mark::new(first, tail.last, tail.digest);
            index.add(tail.first, tail.sorted().into_iter(), mark)?;
            mark
        };
        self.view_mut().tail = Tail::after(mark.last, mark.digest);
        Ok(())
    }

    /// Purged revisions stay in the index until they are the larger part of it; then it is rebuilt.
    fn check_purged(&self, first: Revision, next: Revision) -> Result<(), Trouble> {
        let (purged, _) = self.history.start();
        let gone = purged.since(first);
        let mostly = gone > 0 && gone > next.since(purged);
        if mostly { Err(Trouble::MostlyPurged) } else { Ok(()) }
    }

    /// Opens the newest index if it matches the history; else creates a new one.
    fn open(&self) -> Result<(Index, Option<Mark>), Trouble> {
        self.make_room();
        fs::create_dir_all(&self.dir).map_err(IndexError::from)?;
        let newest = generations(&self.dir).into_iter().max();
        if let Some((_, path)) = newest {
            match Index::open(&path) {
                Ok((index, Some(mark))) if self.fits(&mark) => {
                    self.discard(Some(&path));
                    return Ok((index, Some(mark)));
                }
                Ok((_, None)) => {}
                Ok(_) => self.count("it is of another history"),
                Err(error) => self.count(&error.to_string()),
            }
        }
        let generation = generations(&self.dir).into_iter().map(|(n, _)| n + 1).max().unwrap_or(1);
        let path = self.dir.join(format!("{generation:010}"));
        self.discard(None);
        Ok((Index::open(&path)?.0, None))
    }

    /// Moves aside a file that is in the place of the directory; the index can be rebuilt.
    fn make_room(&self) {
        if fs::symlink_metadata(&self.dir).is_ok() && !self.dir.is_dir() {
            let aside = self.dir.with_extension("aside");
            tracing::warn!(
                path = %self.dir.display(), aside = %aside.display(),
                "audit: moved aside what is not a directory"
            );
            if let Err(error) = fs::rename(&self.dir, &aside) {
                tracing::warn!(%error, "audit: cannot move it aside");
            }
        }
    }

    fn count(&self, why: &str) {
        self.rebuilds.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(why, "audit: rebuilding the index");
    }

    fn fits(&self, mark: &Mark) -> bool {
        let (start, start_digest) = self.history.start();
        if mark.last == start {
            return mark.digest == start_digest;
        }
        let record = self.history.read(mark.last, 1, 1).ok();
        let record = record.and_then(|records| records.into_iter().next());
        record.is_some_and(|r| (r.revision, r.digest) == (mark.last, mark.digest))
    }

    /// Removes all indexes except one.
    fn discard(&self, keep: Option<&Path>) {
        for (_, path) in generations(&self.dir) {
            if Some(path.as_path()) != keep
                && let Err(error) = fs::remove_dir_all(&path)
            {
                tracing::warn!(path = %path.display(), %error, "cannot remove an old index");
            }
        }
    }
}

/// Index directories by number. There is normally one, and briefly two.
fn generations(dir: &Path) -> Vec<(u64, PathBuf)> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let numbered = |path: PathBuf| {
        let number = path.file_name()?.to_str()?.parse().ok()?;
        Some((number, path))
    };
    entries.filter_map(|entry| numbered(entry.ok()?.path())).collect()
}
