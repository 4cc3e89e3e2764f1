//! Snapshot files: the whole state as of one log entry.
//!
//! A snapshot is a [`StateFile`] that becomes durable before it gets its final name; older ones are removed
//! afterwards. A damaged file is skipped and the next older one is tried; it is set aside when the replica can start
//! without it. Partially written files are removed at start.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use romana_statemachine::{Digest, Revision, State};
use romana_storage::durable::{Disk, Files};
use romana_storage::platform::fs::{self, File};
use romana_storage::platform::random;
use romana_storage::state_file::{Encoded, Form, StateFile, StateFileError};
use serde::{Deserialize, Serialize};

use crate::raft::store::types::{LogId, Membership, SnapshotMeta, TypeConfig};

const FORM: Form = Form { magic: b"ROMSNAP\x01", head_bytes_max: 1 << 20 };
const VERSION: u16 = 1;
const SUFFIX: &str = "snap";

/// Why a snapshot cannot be written or used.
#[derive(Debug, thiserror::Error)]
pub(in crate::raft) enum SnapshotError {
    #[error("{}", .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} is no whole snapshot: {why}", .path.display())]
    Damaged { path: PathBuf, why: String },
    #[error("{} is a snapshot of cluster {theirs}, not of {ours}", .path.display())]
    OtherCluster { path: PathBuf, theirs: String, ours: String },
}

impl From<StateFileError> for SnapshotError {
    fn from(error: StateFileError) -> Self {
        match error {
            StateFileError::Io { path, source } => Self::Io { path, source },
            StateFileError::Damaged { path, why } => Self::Damaged { path, why },
        }
    }
}

impl From<SnapshotError> for io::Error {
    fn from(error: SnapshotError) -> Self {
        Self::other(error)
    }
}

/// What a snapshot holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::raft) struct Head {
    version: u16,
    cluster: String,
    pub(in crate::raft) last: Option<LogId>,
    pub(in crate::raft) membership: Membership,
    pub(in crate::raft) revision: Revision,
    pub(in crate::raft) digest: Digest,
}

/// What [`SnapshotStore::newest`] found.
#[derive(Debug, Default)]
pub(in crate::raft) struct Found {
    pub(in crate::raft) newest: Option<(SnapshotFile, State)>,
    /// Newer snapshots that are damaged.
    pub(in crate::raft) damaged: Vec<(PathBuf, SnapshotError)>,
}

/// A snapshot as openraft passes it on.
pub(in crate::raft) type SnapshotOf = openraft::alias::SnapshotOf<TypeConfig, SnapshotFile>;

/// A snapshot on disk. It stays readable after its file is unlinked.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotFile(StateFile<Head>);

impl SnapshotFile {
    pub(in crate::raft) fn head(&self) -> &Head {
        self.0.head()
    }

    /// Length of the file.
    pub(in crate::raft) fn bytes(&self) -> u64 {
        self.0.bytes()
    }

    pub(in crate::raft) fn meta(&self) -> SnapshotMeta {
        let Head { last, membership, .. } = self.head();
        SnapshotMeta { last_log_id: *last, last_membership: membership.clone() }
    }

    /// Bytes from `at`, at most `max`; empty at the end. Blocks.
    pub(in crate::raft) fn read_at(&self, at: u64, max: usize) -> io::Result<Bytes> {
        self.0.read_at(at, max)
    }

    /// Decodes and verifies the state. Blocks, for about a second per million addresses.
    pub(in crate::raft) fn read_state(&self) -> Result<State, SnapshotError> {
        let state = self.0.read_state()?;
        if (state.revision(), state.digest()) != (self.head().revision, self.head().digest) {
            let why = "the state is of another revision than the head says";
            return Err(self.0.damaged(why).into());
        }
        Ok(state)
    }

    fn open(path: &Path) -> Result<Self, SnapshotError> {
        let file = StateFile::<Head>::open(&FORM, path)?;
        match file.head().version {
            VERSION => Ok(Self(file)),
            other => Err(file.damaged(format!("its version is {other}, not {VERSION}")).into()),
        }
    }
}

/// The snapshot directory of one replica. All methods block.
#[derive(Clone, Debug)]
pub(in crate::raft) struct SnapshotStore {
    dir: PathBuf,
    cluster: String,
}

impl SnapshotStore {
    /// Opens the directory, creates it if it is missing, and removes partially written files.
    pub(in crate::raft) fn open(dir: PathBuf, cluster: String) -> Result<Self, SnapshotError> {
        let store = Self { dir, cluster };
        fs::create_dir_all(&store.dir).map_err(|source| store.io(source))?;
        for path in store.list()? {
            if path.extension().is_some_and(|extension| extension == "tmp") {
                fs::remove_file(&path).map_err(|source| SnapshotError::Io { path, source })?;
            }
        }
        Ok(store)
    }

    /// The newest intact snapshot with its state; and the errors of newer, damaged ones.
    pub(in crate::raft) fn newest(&self) -> Result<Found, SnapshotError> {
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

    /// Moves damaged snapshots aside for an operator to inspect.
    pub(in crate::raft) fn set_aside(
        &self,
        damaged: &[(PathBuf, SnapshotError)],
    ) -> Result<(), SnapshotError> {
        for (path, error) in damaged {
            let aside = path.with_extension("damaged");
            tracing::error!(%error, aside = %aside.display(), "moved a damaged snapshot aside");
            fs::rename(path, &aside)
                .map_err(|source| SnapshotError::Io { path: path.clone(), source })?;
        }
        Ok(())
    }

    /// Writes a snapshot and removes all others.
    pub(in crate::raft) fn write(
        &self,
        state: &State,
        last: Option<LogId>,
        membership: Membership,
    ) -> Result<SnapshotFile, SnapshotError> {
        let head = Head {
            version: VERSION,
            cluster: self.cluster.clone(),
            last,
            membership,
            revision: state.revision(),
            digest: state.digest(),
        };
        let encoded = Encoded::new(&FORM, &head, state).map_err(|source| self.io(source))?;
        let mut incoming = self.incoming()?;
        let written = encoded.write_to(&mut incoming.file);
        written.map_err(|source| SnapshotError::Io { path: incoming.path.clone(), source })?;
        self.adopt(incoming.finish()?)
    }

    /// A file for a new snapshot, written locally or received from another replica.
    pub(in crate::raft) fn incoming(&self) -> Result<Incoming, SnapshotError> {
        let unique: u64 = random();
        let path = self.dir.join(format!("incoming-{unique:016x}.tmp"));
        let file = File::create_new(&path);
        let file = file.map_err(|source| SnapshotError::Io { path: path.clone(), source })?;
        Ok(Incoming { store: self.clone(), file, path, done: false })
    }

    /// Gives a finished file its final name, durably, and removes older snapshots.
    pub(in crate::raft) fn adopt(
        &self,
        snapshot: SnapshotFile,
    ) -> Result<SnapshotFile, SnapshotError> {
        let path = self.path_of(&snapshot);
        let renamed = Disk.put_in_place(snapshot.0.path(), &path);
        renamed
            .map_err(|failed| SnapshotError::Io { path: path.clone(), source: failed.source })?;
        for old in self.snapshots()? {
            if old < path
                && let Err(error) = fs::remove_file(&old)
            {
                tracing::warn!(path = %old.display(), %error, "cannot remove an old snapshot");
            }
        }
        Ok(SnapshotFile(snapshot.0.named(path)))
    }

    fn path_of(&self, snapshot: &SnapshotFile) -> PathBuf {
        let (index, term) = snapshot.head().last.map_or((0, 0), |id| (id.index, id.leader_id.term));
        self.dir.join(format!("{index:020}-{term:010}.{SUFFIX}"))
    }

    /// Like [`Self::check`]; also checks that the file's contents match its name: a renamed copy is refused.
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
        if snapshot.head().cluster != self.cluster {
            let (theirs, ours) = (snapshot.head().cluster.clone(), self.cluster.clone());
            return Err(SnapshotError::OtherCluster { path: path.into(), theirs, ours });
        }
        Ok(snapshot)
    }

    /// Paths of the snapshots, oldest first.
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

/// A snapshot that is being written. Dropping it unfinished removes its file.
#[derive(Debug)]
pub(in crate::raft) struct Incoming {
    store: SnapshotStore,
    file: File,
    path: PathBuf,
    done: bool,
}

impl Incoming {
    pub(in crate::raft) fn write(&mut self, chunk: &[u8]) -> Result<(), SnapshotError> {
        let written = self.file.write_all(chunk);
        written.map_err(|source| SnapshotError::Io { path: self.path.clone(), source })
    }

    /// Makes the file durable and checks it. [`SnapshotStore::adopt`] gives it its final name.
    pub(in crate::raft) fn finish(mut self) -> Result<SnapshotFile, SnapshotError> {
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
        let whole = fs::read(file.0.path()).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            fs::write(file.0.path(), bytes).unwrap();
            let found = snapshots.newest().unwrap();
            assert!(found.newest.is_none(), "damage at {at} was not found");
            assert_eq!(found.damaged.len(), 1);
            snapshots.set_aside(&found.damaged).unwrap();
            assert!(!file.0.path().exists());
        }
        fs::write(file.0.path(), &whole).unwrap();
        assert!(snapshots.newest().unwrap().newest.is_some());
        // The same contents under the name of a later snapshot.
        let later = file.0.path().with_file_name("00000000000000000009-0000000001.snap");
        fs::rename(file.0.path(), later).unwrap();
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
