//! The index of the closed segments. This is the only file that uses sled.
//!
//! ```text
//!   key (16) · first revision of the segment (8, big-endian)  →  revisions in the segment, delta-encoded
//!   "mark"                                                    →  how far the index reaches, and of which history
//! ```
//! sled 0.34 may fail to open after a crash, may panic, and its `flush` is no write barrier. So the index is never
//! authoritative: every failure, including a panic, is an [`IndexError`], at which the caller discards the index and
//! rebuilds it. It is flushed once per segment, and its files are fsynced afterwards; it has no flusher thread.

use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use romana_statemachine::entry::{unwire, wire};
use romana_statemachine::{Digest, Revision};
use serde::{Deserialize, Serialize};

use super::keys::{KEY_BYTES, Key};

const MARK: &[u8] = b"mark";
/// Format of the stored data: an index with another format is rebuilt.
const FORMAT: u16 = 1;
/// Page cache of sled, in bytes.
const CACHE_BYTES: u64 = 32 << 20;

/// The index cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum IndexError {
    #[error("the index fails")]
    Sled(#[from] sled::Error),
    #[error("the index fails: {0}")]
    Panic(String),
    #[error("the files of the index cannot be made durable")]
    Io(#[from] std::io::Error),
    #[error("the index holds what it should not: {0}")]
    Damaged(&'static str),
}

/// How far the index reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    format: u16,
    /// First indexed revision.
    pub(super) first: Revision,
    /// Last indexed revision.
    pub(super) last: Revision,
    /// Digest of the history at `last`.
    pub(super) digest: Digest,
}

impl Mark {
    pub(super) fn new(first: Revision, last: Revision, digest: Digest) -> Self {
        Self { format: FORMAT, first, last, digest }
    }
}

/// The index. Clones are handles to the same index.
#[derive(Clone)]
pub(super) struct Index {
    db: Arc<Guarded>,
    dir: PathBuf,
}

/// The database. sled writes when the last handle is dropped, and panics if it cannot.
struct Guarded(Option<sled::Db>);

impl Drop for Guarded {
    fn drop(&mut self) {
        let db = self.0.take();
        if let Err(error) = guarded(|| {
            drop(db);
            Ok(())
        }) {
            tracing::warn!(%error, "audit: the index was not closed cleanly");
        }
    }
}

/// Runs a sled operation that may panic.
fn guarded<T>(work: impl FnOnce() -> Result<T, IndexError>) -> Result<T, IndexError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(IndexError::Panic(text.unwrap_or("a panic").to_owned()))
    })
}

impl Index {
    /// Opens the index in `dir`, or creates an empty one. Returns how far it reaches.
    pub(super) fn open(dir: &Path) -> Result<(Self, Option<Mark>), IndexError> {
        guarded(|| {
            let config = sled::Config::new().path(dir).cache_capacity(CACHE_BYTES);
            let db = config.flush_every_ms(None).open()?;
            let mark = db.get(MARK)?;
            let index = Self { db: Arc::new(Guarded(Some(db))), dir: dir.to_owned() };
            let mark = mark.map(|bytes| unwire::<Mark>(&bytes)).transpose();
            let mark = mark.map_err(|_| IndexError::Damaged("the mark does not parse"))?;
            if mark.is_some_and(|mark| mark.format != FORMAT) {
                return Err(IndexError::Damaged("it has another format"));
            }
            Ok((index, mark))
        })
    }

    /// Adds the postings of a segment and moves the mark. `postings` are sorted by key. Durable on return.
    pub(super) fn add<'a>(
        &self,
        first: Revision,
        postings: impl Iterator<Item = (&'a Key, &'a [u32])>,
        mark: Mark,
    ) -> Result<(), IndexError> {
        guarded(|| {
            // One by one: sled frees replaced pages after a number of calls, not of updates, and a batch is one call.
            // Ten million records in batches took 24 GB. If this is interrupted, the mark is missing and everything
            // is added again.
            for (key, offsets) in postings {
                self.db()?.insert(entry_key(key, first), encode(offsets))?;
            }
            self.db()?.insert(MARK, wire(&mark))?;
            self.db()?.flush()?;
            sync_files(&self.dir)
        })
    }

    /// Revisions at which a key occurs, at or after `from` and before `before`, in order.
    pub(super) fn find(
        &self,
        key: &Key,
        from: Revision,
        before: Revision,
    ) -> Result<Vec<Revision>, IndexError> {
        guarded(|| {
            let mut found = Vec::new();
            // The segment that contains `from` may start before it.
            let db = self.db()?;
            let start = db.get_lt(entry_key(key, from.next()))?;
            let start = start.map(|(entry, _)| entry).filter(|entry| entry.starts_with(key));
            let start = start.map_or_else(|| entry_key(key, from).to_vec(), |entry| entry.to_vec());
            for entry in db.range(start..entry_key(key, before).to_vec()) {
                let (entry, offsets) = entry?;
                let first = entry.get(KEY_BYTES..).and_then(|bytes| bytes.try_into().ok());
                let first = first.map(u64::from_be_bytes);
                let first = first.ok_or(IndexError::Damaged("a key has another length"))?;
                let revisions =
                    decode(&offsets)?.into_iter().map(|at| Revision(first).plus(u64::from(at)));
                found.extend(revisions.filter(|revision| (from..before).contains(revision)));
            }
            Ok(found)
        })
    }

    fn db(&self) -> Result<&sled::Db, IndexError> {
        self.db.0.as_ref().ok_or(IndexError::Damaged("it is closed"))
    }

    /// Size on disk, in bytes.
    pub(super) fn size(&self) -> u64 {
        guarded(|| Ok(self.db()?.size_on_disk()?)).unwrap_or(0)
    }
}

fn entry_key(key: &Key, first: Revision) -> [u8; KEY_BYTES + 8] {
    let mut entry = [0; KEY_BYTES + 8];
    let (front, back) = entry.split_at_mut(KEY_BYTES);
    front.copy_from_slice(key);
    back.copy_from_slice(&first.get().to_be_bytes());
    entry
}

/// Delta-encodes ascending offsets; most deltas take one or two bytes.
fn encode(offsets: &[u32]) -> Vec<u8> {
    let mut last = 0;
    let distances = offsets.iter().map(|offset| {
        let distance = offset - last;
        last = *offset;
        distance
    });
    wire(&distances.collect::<Vec<u32>>())
}

fn decode(bytes: &[u8]) -> Result<Vec<u32>, IndexError> {
    let mut offsets: Vec<u32> =
        unwire(bytes).map_err(|_| IndexError::Damaged("a list of revisions does not parse"))?;
    let mut last = 0u32;
    for offset in &mut offsets {
        last = last.checked_add(*offset).ok_or(IndexError::Damaged("a revision is too large"))?;
        *offset = last;
    }
    Ok(offsets)
}

fn sync_files(dir: &Path) -> Result<(), IndexError> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() { sync_files(&path)? } else { File::open(&path)?.sync_all()? }
    }
    Ok(File::open(dir)?.sync_all()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_revisions_read_back() {
        for offsets in [&[][..], &[0], &[5, 6, 300, 100_000], &[u32::MAX]] {
            assert_eq!(decode(&encode(offsets)).unwrap(), offsets);
        }
        assert!(decode(&wire(&vec![u32::MAX, 1])).is_err());
        assert!(decode(b"\xff").is_err());
    }

    #[test]
    fn what_is_added_is_found_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = ([1; KEY_BYTES], [2; KEY_BYTES]);
        let mark = Mark::new(Revision(1), Revision(200), Digest::default());
        {
            let (index, none) = Index::open(dir.path()).unwrap();
            assert_eq!(none, None);
            let first = [(&a, &[0, 7][..]), (&b, &[3][..])];
            index
                .add(
                    Revision(1),
                    first.into_iter(),
                    Mark::new(Revision(1), Revision(100), Digest::default()),
                )
                .unwrap();
            index.add(Revision(101), [(&a, &[9][..])].into_iter(), mark).unwrap();
        }
        let (index, found) = Index::open(dir.path()).unwrap();
        assert_eq!(found, Some(mark));
        let find = |key, from, before| index.find(key, Revision(from), Revision(before)).unwrap();
        assert_eq!(find(&a, 1, 1000), [1, 8, 110]);
        assert_eq!(find(&a, 2, 110), [8]);
        assert_eq!(find(&a, 9, 1000), [110]);
        assert_eq!(find(&b, 1, 1000), [4]);
        assert_eq!(find(&[3; KEY_BYTES], 1, 1000), [0; 0]);
    }
}
