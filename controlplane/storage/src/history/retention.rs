//! Removal of old history: purging the oldest segments, and a reset after a snapshot.
//!
//! Laws: whole segments are purged, oldest first, each durably before the next, never the open one. So a
//! crash leaves a history that begins later, and its chain still verifies from the digest in the header of the first
//! remaining segment. A reset is atomic: its new start is written to a marker file first, and the next open
//! completes a reset that a crash interrupted.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use romana_statemachine::{Digest, Millis, Revision};

use super::error::HistoryError;
use super::frame::{HEADER, Start};
use super::open_segment::{RAW, Raw};
use super::origin;
use super::sealed_segment::{PACKED, PARTIAL};
use super::writer::Writer;
use super::{History, Segment};
use crate::durable::{Disk, Files};
use crate::platform::fs;

/// File extension of the marker of a reset in progress; the file contains the new start.
const RESET: &str = "reset";

/// Properties of a segment that matter for retention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    pub first: Revision,
    /// Last revision; less than `first` while the segment is empty.
    pub last: Revision,
    /// Size on disk, in bytes.
    pub bytes: u64,
    /// Time of the first record. `None` while the segment is empty.
    pub began: Option<Millis>,
    /// Upper bound of the times of its records. `None` for the open segment.
    pub ended: Option<Millis>,
}

impl History {
    /// Revision and digest of the record before the history begins: `(0, default)` when nothing was purged.
    #[must_use]
    pub fn start(&self) -> (Revision, Digest) {
        let state = self.inner.shared.state();
        let start = state.segments.values().next().map(Segment::start);
        start.map(|start| (start.first.minus(1), start.previous)).unwrap_or_default()
    }

    /// First revision of the segment after the one that contains `revision`; `None` if that is the open one.
    #[must_use]
    pub fn segment_after(&self, revision: Revision) -> Option<Revision> {
        let state = self.inner.shared.state();
        state.segments.range(revision.next()..).next().map(|(first, _)| *first)
    }

    /// Size of all segments on disk, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.inner.shared.state().segments.values().map(Segment::bytes).sum()
    }

    /// The segments, oldest first; the last one is the open one. Reads one record of each segment whose time is not
    /// cached yet.
    ///
    /// # Errors
    /// Those of [`History::read`].
    pub fn segments(&self) -> Result<Vec<SegmentInfo>, HistoryError> {
        let (found, last) = {
            let state = self.inner.shared.state();
            let found: Vec<(Revision, u64)> =
                state.segments.iter().map(|(first, segment)| (*first, segment.bytes())).collect();
            (found, state.last.0)
        };
        let ends = found.iter().skip(1).map(|(first, _)| first.minus(1)).chain([last]);
        let mut infos: Vec<SegmentInfo> = Vec::with_capacity(found.len());
        for ((first, bytes), last) in found.iter().zip(ends) {
            let began = if *first <= last { Some(self.began(*first)?) } else { None };
            if let Some(before) = infos.last_mut() {
                let ended = began.map_or_else(|| self.began(first.minus(1)), Ok)?;
                before.ended = Some(ended);
            }
            infos.push(SegmentInfo { first: *first, last, bytes: *bytes, began, ended: None });
        }
        Ok(infos)
    }

    /// Time of a record: the first one of a segment, or the newest of all. Cached.
    fn began(&self, first: Revision) -> Result<Millis, HistoryError> {
        let times = || self.inner.times.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = times().get(&first) {
            return Ok(*at);
        }
        let at = self.read(first, 1, 1)?.first().map(|record| record.at).unwrap_or_default();
        times().insert(first, at);
        Ok(at)
    }

    /// Closes the open segment, if it is not empty, so that it can be purged later.
    ///
    /// # Errors
    /// [`HistoryError::Stopped`]: the disk failed, now or before.
    pub fn close_segment(&self) -> Result<(), HistoryError> {
        let shared = &self.inner.shared;
        shared.check()?;
        let mut writer = self.writer();
        if shared.state().last.0 < writer.active.start.first {
            return Ok(());
        }
        self.rotate(&mut writer).map_err(|error| shared.fail(error))
    }

    /// Purges the segments whose records are all at or before `revision`; the open one always stays.
    /// Readers of purged records get [`HistoryError::Compacted`]. Returns the oldest remaining revision.
    ///
    /// # Errors
    /// [`HistoryError::Io`]: a file could not be removed; it and all later ones stay.
    /// [`HistoryError::Stopped`]: the disk failed, now or before.
    pub fn purge_before(&self, revision: Revision) -> Result<Revision, HistoryError> {
        let shared = &self.inner.shared;
        if self.purgeable(revision).is_none() {
            return Ok(self.oldest());
        }
        // The remaining records must be durable before the segments that their chain depends on are removed.
        self.sync()?;
        let _one = shared.syncing();
        while let Some((first, segment, next)) = self.purgeable(revision) {
            origin::note(&self.inner.dir, next)?;
            shared.state().segments.remove(&first);
            shared.cache().retain(|((of, _), _)| *of != first);
            let path = segment.path().to_owned();
            if let Err(error) = remove(&path) {
                shared.state().segments.insert(first, segment);
                return Err(error);
            }
            Disk.sync_parent(&path).map_err(|error| shared.fail(error.into()))?;
            let mut times = self.inner.times.lock().unwrap_or_else(PoisonError::into_inner);
            times.retain(|revision, _| *revision > first);
        }
        Ok(self.oldest())
    }

    /// The oldest segment, if it is closed and ends at or before `revision`; and the start of the next one.
    fn purgeable(&self, revision: Revision) -> Option<(Revision, Segment, Start)> {
        let state = self.inner.shared.state();
        let mut segments = state.segments.iter();
        let (first, segment) = segments.next()?;
        let (next, after) = segments.next()?;
        (next.minus(1) <= revision).then(|| (*first, segment.clone(), after.start()))
    }

    /// Discards everything and restarts after `revision`, whose digest is `digest`: for a replica
    /// whose history ends before its peers' history begins. Durable on return; atomic if it crashes
    /// before.
    ///
    /// # Errors
    /// [`HistoryError::Stopped`]: the disk failed, now or before.
    pub fn reset(&self, revision: Revision, digest: Digest) -> Result<(), HistoryError> {
        let shared = &self.inner.shared;
        shared.check()?;
        let _one = shared.syncing();
        let mut writer = self.writer();
        let mut state = shared.state();
        let start = Start { first: revision.next(), previous: digest };
        let begin = || {
            let marker = announce(&self.inner.dir, start)?;
            carry_out(&self.inner.dir, start, &marker)
        };
        let raw = begin().map_err(|error| shared.fail(error))?;
        state.segments = BTreeMap::from([(revision.next(), Segment::Raw(Arc::clone(&raw)))]);
        state.last = (revision, digest);
        shared.cache().clear();
        self.inner.times.lock().unwrap_or_else(PoisonError::into_inner).clear();
        *writer = Writer::new(raw);
        Ok(())
    }
}

/// Removes both forms of a segment: the packer may be about to remove the open one.
fn remove(path: &Path) -> Result<(), HistoryError> {
    for ending in [RAW, PACKED] {
        let path = path.with_extension(ending);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(HistoryError::io("remove", &path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Writes the marker of a reset durably, with the new start. Returns its path.
fn announce(dir: &Path, start: Start) -> Result<PathBuf, HistoryError> {
    let marker = dir.join(format!("{:020}.{RESET}", start.first));
    let partial = marker.with_extension(PARTIAL);
    Disk.replace(&marker, &partial, |file| file.write_all(&start.encode()))?;
    Ok(marker)
}

/// Performs the reset that a marker describes.
fn carry_out(dir: &Path, start: Start, marker: &Path) -> Result<Arc<Raw>, HistoryError> {
    for entry in fs::read_dir(dir).map_err(HistoryError::io("list", dir))? {
        let path = entry.map_err(HistoryError::io("list", dir))?.path();
        let ending = path.extension().and_then(|ending| ending.to_str());
        if matches!(ending, Some(RAW | PACKED)) {
            fs::remove_file(&path).map_err(HistoryError::io("remove", &path))?;
        }
    }
    let raw = Raw::create(dir, start)?;
    raw.sync()?;
    origin::note(dir, start)?;
    fs::remove_file(marker).map_err(HistoryError::io("remove", marker))?;
    Disk.sync_parent(&raw.path)?;
    Ok(Arc::new(raw))
}

/// Completes a reset that a crash interrupted, if there is one.
pub(super) fn finish(dir: &Path) -> Result<(), HistoryError> {
    for entry in fs::read_dir(dir).map_err(HistoryError::io("list", dir))? {
        let path = entry.map_err(HistoryError::io("list", dir))?.path();
        if path.extension().is_none_or(|ending| ending != RESET) {
            continue;
        }
        let bytes = fs::read(&path).map_err(HistoryError::io("read", &path))?;
        let start = Start::decode(&bytes).and_then(|start| match bytes.len() {
            HEADER => Ok(start),
            other => Err(format!("it has {other} bytes, not {HEADER}")),
        });
        let start = start.map_err(|why| HistoryError::damaged(&path, 0, why))?;
        tracing::warn!(first = start.first.get(), "resuming an interrupted reset of the history");
        carry_out(dir, start, &path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
