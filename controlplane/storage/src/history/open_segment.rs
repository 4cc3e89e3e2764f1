//! Open segments: append-only, readable from any revision.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use romana_statemachine::{Revision, entry};

use super::Collector;
use super::error::HistoryError;
use super::frame::{self, HEADER, Item, Start};
use crate::platform::FileExt;
use crate::platform::fs::{File, OpenOptions};

/// File extension of an open segment.
pub(super) const RAW: &str = "log";

/// Bytes between two points of the sparse index.
const POINT_BYTES: u64 = 16 << 10;

/// Bytes per read.
const CHUNK_BYTES: usize = 64 << 10;

/// An open segment.
#[derive(Debug)]
pub(super) struct Raw {
    pub(super) start: Start,
    pub(super) path: PathBuf,
    pub(super) file: File,
    index: Mutex<Index>,
}

/// The sparse index of an open segment, and the end of its readable part.
#[derive(Debug)]
pub(super) struct Index {
    /// Some records and their offsets, ascending; always includes the first record.
    points: Vec<(Revision, u64)>,
    /// End of the written part.
    pub(super) end: u64,
}

impl Index {
    pub(super) fn new(start: Start) -> Self {
        Self { points: vec![(start.first, HEADER as u64)], end: HEADER as u64 }
    }

    /// Adds the offset of a record, if it is far enough from the last point.
    pub(super) fn note(&mut self, revision: Revision, offset: u64) {
        if self.points.last().is_none_or(|(_, last)| offset >= last + POINT_BYTES) {
            self.points.push((revision, offset));
        }
    }

    /// The last point at or before `revision`.
    fn before(&self, revision: Revision) -> (Revision, u64) {
        let after = self.points.partition_point(|(point, _)| *point <= revision);
        self.points.get(after.saturating_sub(1)).copied().unwrap_or((revision, self.end))
    }
}

impl Raw {
    /// Creates an empty segment in `dir`. Durable only after file and directory are synced.
    pub(super) fn create(dir: &Path, start: Start) -> Result<Self, HistoryError> {
        let path = dir.join(format!("{:020}.{RAW}", start.first));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .map_err(HistoryError::io("create", &path))?;
        file.write_all_at(&start.encode(), 0).map_err(HistoryError::io("write", &path))?;
        Ok(Self::new(start, path, file, Index::new(start)))
    }

    pub(super) fn new(start: Start, path: PathBuf, file: File, index: Index) -> Self {
        Self { start, path, file, index: Mutex::new(index) }
    }

    pub(super) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes everything written so far durable.
    pub(super) fn sync(&self) -> Result<(), HistoryError> {
        self.file.sync_data().map_err(HistoryError::io("sync", &self.path))
    }

    /// Reads records from the collector's next one, until it is full or the segment ends.
    pub(super) fn read(&self, collector: &mut Collector) -> Result<(), HistoryError> {
        let (mut revision, mut at, end) = {
            let index = self.index();
            let (revision, at) = index.before(collector.next);
            (revision, at, index.end)
        };
        let mut chunk = CHUNK_BYTES;
        while at < end && !collector.is_full() {
            let left = usize::try_from(end - at).unwrap_or(usize::MAX);
            let mut bytes = vec![0; chunk.min(left)];
            let read = self.file.read_exact_at(&mut bytes, at);
            read.map_err(HistoryError::io("read", &self.path))?;
            let used = collect(&bytes, &mut revision, collector)
                .map_err(|(offset, why)| self.damaged(at + offset as u64, why))?;
            if used == 0 && bytes.len() == left {
                return Err(self.damaged(at, "a record goes past the end"));
            }
            if used == 0 {
                chunk = chunk.saturating_mul(4);
            }
            at += used as u64;
        }
        Ok(())
    }

    fn damaged(&self, offset: u64, why: impl Into<String>) -> HistoryError {
        HistoryError::damaged(&self.path, offset, why)
    }
}

/// Passes the complete records in `bytes` to the collector; `revision` is that of the first one and is
/// advanced. Returns the number of bytes consumed; `Err`: the offset of the first error, and what it is.
pub(super) fn collect(
    bytes: &[u8],
    revision: &mut Revision,
    collector: &mut Collector,
) -> Result<usize, (usize, String)> {
    let mut at = 0;
    while let Some(length) = frame::item_len(bytes, at) {
        if length > bytes.len() - at || collector.is_full() {
            break;
        }
        // Skipped records are not checksummed; `verify` checks them.
        let is_wanted = *revision >= collector.next;
        if is_wanted || frame::is_mark(bytes, at) {
            let (item, _) = frame::item(bytes, at).map_err(|why| (at, why.to_owned()))?;
            if let Item::Record(body) = item {
                let size = body.len();
                let record = entry::unwire(&bytes[body])
                    .map_err(|error| (at, format!("a record is not readable: {error}")))?;
                if !collector.take(record, size) {
                    return Err((at, format!("this is not record {}", collector.next)));
                }
                *revision = revision.next();
            }
        } else {
            *revision = revision.next();
        }
        at += length;
    }
    Ok(at)
}
