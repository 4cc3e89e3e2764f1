//! Snapshot files: the whole state as of one log entry.
//!
//! ```text
//!   magic 8 · head length u32 · head crc32 u32 · head (postcard) · body (lz4 frame of the state)
//! ```
//! Written beside, fsynced, renamed, directory fsynced; older ones go afterwards. The head says what
//! is inside and carries the digest of the body. A file that is not whole is passed over and the next
//! older one is tried; it is set aside when the replica can start without it. Half-written ones are
//! removed at start.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use lz4_flex::frame::{FrameDecoder, FrameEncoder};
use romana_statemachine::{Digest, Revision, State};
use romana_storage::platform::fs::{self, File};
use romana_storage::platform::{FileExt, random};
use serde::{Deserialize, Serialize};

use super::codec::{pack, unpack};
use super::types::{LogId, Membership, SnapshotMeta};

const MAGIC: &[u8; 8] = b"ROMSNAP\x01";
const VERSION: u16 = 1;
const PREFIX_BYTES: usize = 16;
const HEAD_BYTES_MAX: usize = 1 << 20;
const SUFFIX: &str = "snap";

/// Why a snapshot cannot be written or used.
#[derive(Debug, thiserror::Error)]
pub(super) enum SnapshotError {
    #[error("{}", .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} is no whole snapshot: {why}", .path.display())]
    Damaged { path: PathBuf, why: String },
    #[error("{} is a snapshot of cluster {theirs}, not of {ours}", .path.display())]
    OtherCluster { path: PathBuf, theirs: String, ours: String },
}

impl From<SnapshotError> for io::Error {
    fn from(error: SnapshotError) -> Self {
        Self::other(error)
    }
}

/// What a snapshot holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Head {
    version: u16,
    cluster: String,
    pub(super) last: Option<LogId>,
    pub(super) membership: Membership,
    pub(super) revision: Revision,
    pub(super) digest: Digest,
    state_bytes: u64,
    body_bytes: u64,
    body_digest: Digest,
}

/// What [`SnapshotStore::newest`] found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) newest: Option<(SnapshotFile, State)>,
    /// Newer ones that are not whole.
    pub(super) damaged: Vec<(PathBuf, SnapshotError)>,
}

/// A snapshot on disk. Stays readable after the file's name is gone.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotFile {
    path: PathBuf,
    file: Arc<File>,
    bytes: u64,
    body_at: u64,
    head: Arc<Head>,
}

impl SnapshotFile {
    pub(super) fn head(&self) -> &Head {
        &self.head
    }

    /// Length of the file.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn meta(&self) -> SnapshotMeta {
        let (last_log_id, last_membership) = (self.head.last, self.head.membership.clone());
        SnapshotMeta { last_log_id, last_membership }
    }

    /// Bytes from `at`, `max` at most; empty at the end. Blocks.
    pub(super) fn read_at(&self, at: u64, max: usize) -> io::Result<Bytes> {
        let left = usize::try_from(self.bytes.saturating_sub(at)).unwrap_or(max);
        let mut chunk = vec![0; max.min(left)];
        self.file.read_exact_at(&mut chunk, at)?;
        Ok(chunk.into())
    }

    /// Decodes the state, checking everything. Blocks, for about a second per million addresses.
    pub(super) fn read_state(&self) -> Result<State, SnapshotError> {
        let damaged = |why: String| SnapshotError::Damaged { path: self.path.clone(), why };
        let length = usize::try_from(self.head.body_bytes).map_err(|e| damaged(e.to_string()))?;
        let mut body = vec![0; length];
        let read = self.file.read_exact_at(&mut body, self.body_at);
        read.map_err(|source| SnapshotError::Io { path: self.path.clone(), source })?;
        if Digest::of(&body) != self.head.body_digest {
            return Err(damaged("the digest of the body is wrong".into()));
        }
        let mut bytes = Vec::new();
        let mut body = FrameDecoder::new(body.as_slice()).take(self.head.state_bytes + 1);
        body.read_to_end(&mut bytes).map_err(|e| damaged(e.to_string()))?;
        if bytes.len() as u64 != self.head.state_bytes {
            return Err(damaged("the state has another length than the head says".into()));
        }
        let state = State::from_snapshot(&bytes).map_err(|e| damaged(e.to_string()))?;
        if (state.revision(), state.digest()) != (self.head.revision, self.head.digest) {
            return Err(damaged("the state is of another revision than the head says".into()));
        }
        Ok(state)
    }

    fn open(path: &Path) -> Result<Self, SnapshotError> {
        let io = |source| SnapshotError::Io { path: path.into(), source };
        let damaged = |why: &str| SnapshotError::Damaged { path: path.into(), why: why.into() };
        let mut file = File::open(path).map_err(io)?;
        let bytes = file.metadata().map_err(io)?.len();
        let mut prefix = [0; PREFIX_BYTES];
        file.read_exact(&mut prefix).map_err(|_| damaged("it is too short"))?;
        let (magic, numbers) = prefix.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(damaged("it does not start like one"));
        }
        let number = |at: usize| {
            numbers.get(at..at + 4).map_or(0, |four| {
                four.iter().rev().fold(0u32, |number, byte| number << 8 | u32::from(*byte))
            })
        };
        let (length, crc) = (number(0) as usize, number(4));
        if length > HEAD_BYTES_MAX {
            return Err(damaged("its head is too long"));
        }
        let mut head = vec![0; length];
        file.read_exact(&mut head).map_err(|_| damaged("it is too short"))?;
        if crc32fast::hash(&head) != crc {
            return Err(damaged("the checksum of the head is wrong"));
        }
        let head: Head = unpack("snapshot head", &head).map_err(|e| damaged(&e.to_string()))?;
        let body_at = (PREFIX_BYTES + length) as u64;
        if head.version != VERSION {
            return Err(damaged(&format!("its version is {}, not {VERSION}", head.version)));
        }
        if body_at.checked_add(head.body_bytes) != Some(bytes) {
            return Err(damaged("the file has another length than the head says"));
        }
        Ok(Self { path: path.into(), file: Arc::new(file), bytes, body_at, head: Arc::new(head) })
    }
}

/// The directory of snapshots of one replica. All methods block.
#[derive(Clone, Debug)]
pub(super) struct SnapshotStore {
    dir: PathBuf,
    cluster: String,
}

impl SnapshotStore {
    /// Opens the directory, making it if need be, and removes what was half written.
    pub(super) fn open(dir: PathBuf, cluster: String) -> Result<Self, SnapshotError> {
        let store = Self { dir, cluster };
        fs::create_dir_all(&store.dir).map_err(|source| store.io(source))?;
        for path in store.list()? {
            if path.extension().is_some_and(|extension| extension == "tmp") {
                fs::remove_file(&path).map_err(|source| SnapshotError::Io { path, source })?;
            }
        }
        Ok(store)
    }

    /// The newest snapshot that is whole, with its state; and what is wrong with newer ones.
    pub(super) fn newest(&self) -> Result<Found, SnapshotError> {
        let mut found = Found::default();
        let mut paths = self.snapshots()?;
        while let Some(path) = paths.pop() {
            let read = self.check_named(&path).and_then(|file| Ok((file.read_state()?, file)));
            match read {
                Ok((state, file)) => {
                    found.newest = Some((file, state));
                    break;
                }
                Err(error @ SnapshotError::Damaged { .. }) => found.damaged.push((path, error)),
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Takes damaged snapshots out of the way, for somebody to look at.
    pub(super) fn set_aside(
        &self,
        damaged: &[(PathBuf, SnapshotError)],
    ) -> Result<(), SnapshotError> {
        for (path, error) in damaged {
            let aside = path.with_extension("damaged");
            tracing::error!(%error, aside = %aside.display(), "snapshot set aside");
            fs::rename(path, &aside)
                .map_err(|source| SnapshotError::Io { path: path.clone(), source })?;
        }
        Ok(())
    }

    /// Writes a snapshot and makes it the only one.
    pub(super) fn write(
        &self,
        state: &State,
        last: Option<LogId>,
        membership: Membership,
    ) -> Result<SnapshotFile, SnapshotError> {
        let bytes = state.snapshot();
        let mut encoder = FrameEncoder::new(Vec::new());
        let compressed = encoder.write_all(&bytes).and_then(|()| Ok(encoder.finish()?));
        let body = compressed.map_err(|source| self.io(source))?;
        let head = Head {
            version: VERSION,
            cluster: self.cluster.clone(),
            last,
            membership,
            revision: state.revision(),
            digest: state.digest(),
            state_bytes: bytes.len() as u64,
            body_bytes: body.len() as u64,
            body_digest: Digest::of(&body),
        };
        let head = pack(&head);
        let mut incoming = self.incoming()?;
        let length = u32::try_from(head.len()).unwrap_or(u32::MAX);
        for part in
            [&MAGIC[..], &length.to_le_bytes(), &crc32fast::hash(&head).to_le_bytes(), &head, &body]
        {
            incoming.write(part)?;
        }
        self.adopt(incoming.finish()?)
    }

    /// A file to write a snapshot into, from here or from another replica.
    pub(super) fn incoming(&self) -> Result<Incoming, SnapshotError> {
        let unique: u64 = random();
        let path = self.dir.join(format!("incoming-{unique:016x}.tmp"));
        let file = File::create_new(&path);
        let file = file.map_err(|source| SnapshotError::Io { path: path.clone(), source })?;
        Ok(Incoming { store: self.clone(), file, path, done: false })
    }

    /// Gives a finished file its name, durably, and removes the older ones.
    pub(super) fn adopt(&self, snapshot: SnapshotFile) -> Result<SnapshotFile, SnapshotError> {
        let path = self.path_of(&snapshot);
        let renamed =
            fs::rename(&snapshot.path, &path).and_then(|()| File::open(&self.dir)?.sync_all());
        renamed.map_err(|source| SnapshotError::Io { path: path.clone(), source })?;
        for old in self.snapshots()? {
            if old < path
                && let Err(error) = fs::remove_file(&old)
            {
                tracing::warn!(path = %old.display(), %error, "old snapshot not removed");
            }
        }
        Ok(SnapshotFile { path, ..snapshot })
    }

    fn path_of(&self, snapshot: &SnapshotFile) -> PathBuf {
        let (index, term) = snapshot.head.last.map_or((0, 0), |id| (id.index, id.leader_id.term));
        self.dir.join(format!("{index:020}-{term:010}.{SUFFIX}"))
    }

    /// [`Self::check`], and that the file is what its name says: not the copy of another.
    fn check_named(&self, path: &Path) -> Result<SnapshotFile, SnapshotError> {
        let snapshot = self.check(path)?;
        let own = self.path_of(&snapshot);
        if own != path {
            let why = format!("it holds what belongs into {}", own.display());
            return Err(SnapshotError::Damaged { path: path.into(), why });
        }
        Ok(snapshot)
    }

    fn check(&self, path: &Path) -> Result<SnapshotFile, SnapshotError> {
        let snapshot = SnapshotFile::open(path)?;
        if snapshot.head.cluster != self.cluster {
            let (theirs, ours) = (snapshot.head.cluster.clone(), self.cluster.clone());
            return Err(SnapshotError::OtherCluster { path: path.into(), theirs, ours });
        }
        Ok(snapshot)
    }

    /// Snapshots, oldest first.
    fn snapshots(&self) -> Result<Vec<PathBuf>, SnapshotError> {
        let mut paths = self.list()?;
        paths.retain(|path| path.extension().is_some_and(|extension| extension == SUFFIX));
        paths.sort();
        Ok(paths)
    }

    fn list(&self) -> Result<Vec<PathBuf>, SnapshotError> {
        let list = fs::read_dir(&self.dir)
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
        list.map_err(|source| self.io(source))
    }

    fn io(&self, source: io::Error) -> SnapshotError {
        SnapshotError::Io { path: self.dir.clone(), source }
    }
}

/// A snapshot being written. Dropped unfinished, it removes its file.
#[derive(Debug)]
pub(super) struct Incoming {
    store: SnapshotStore,
    file: File,
    path: PathBuf,
    done: bool,
}

impl Incoming {
    pub(super) fn write(&mut self, chunk: &[u8]) -> Result<(), SnapshotError> {
        let written = self.file.write_all(chunk);
        written.map_err(|source| SnapshotError::Io { path: self.path.clone(), source })
    }

    /// Makes the file durable and checks it. It gets its name from [`SnapshotStore::adopt`].
    pub(super) fn finish(mut self) -> Result<SnapshotFile, SnapshotError> {
        let synced = self.file.sync_all();
        synced.map_err(|source| SnapshotError::Io { path: self.path.clone(), source })?;
        let snapshot = self.store.check(&self.path)?;
        self.done = true;
        Ok(snapshot)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.done {
            _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(dir: &Path) -> SnapshotStore {
        SnapshotStore::open(dir.join("snapshots"), "c1".into()).unwrap()
    }

    #[test]
    fn written_is_read_and_older_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = store(dir.path());
        assert!(snapshots.newest().unwrap().newest.is_none());
        for index in [7, 8] {
            let last = Some(LogId::new_term_index(2, index));
            snapshots.write(&State::new(), last, Membership::default()).unwrap();
        }
        let (file, state) = snapshots.newest().unwrap().newest.unwrap();
        assert_eq!(file.head().last, Some(LogId::new_term_index(2, 8)));
        assert_eq!(state.revision(), 0);
        assert_eq!(snapshots.list().unwrap().len(), 1);
    }

    #[test]
    fn damage_is_found_and_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = store(dir.path());
        let last = Some(LogId::new_term_index(1, 1));
        let file = snapshots.write(&State::new(), last, Membership::default()).unwrap();
        let whole = fs::read(&file.path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            fs::write(&file.path, bytes).unwrap();
            let found = snapshots.newest().unwrap();
            assert!(found.newest.is_none(), "damage at {at} was not found");
            assert_eq!(found.damaged.len(), 1);
            snapshots.set_aside(&found.damaged).unwrap();
            assert!(!file.path.exists());
        }
        fs::write(&file.path, &whole).unwrap();
        assert!(snapshots.newest().unwrap().newest.is_some());
        // The same under the name of a later one.
        let later = file.path.with_file_name("00000000000000000009-0000000001.snap");
        fs::rename(&file.path, later).unwrap();
        assert_eq!(snapshots.newest().unwrap().damaged.len(), 1);
    }

    #[test]
    fn another_clusters_snapshot_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        store(dir.path()).write(&State::new(), None, Membership::default()).unwrap();
        let other = SnapshotStore::open(dir.path().join("snapshots"), "c2".into()).unwrap();
        assert!(matches!(other.newest(), Err(SnapshotError::OtherCluster { .. })));
    }
}
