//! Checkpoints: the whole state at some revisions, so that the state at any other revision is a short replay.
//!
//! Each is a [`StateFile`]. All replicas take them at the same revisions: after the first entry at or after each
//! multiple of an interval that depends only on the state. A checkpoint can be rebuilt from the history, so a damaged
//! file is set aside and never used. When space is short, the oldest and most closely spaced ones are removed.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use romana_statemachine::{Revision, State};
use romana_storage::durable::{Disk, Files};
use romana_storage::history::History;
use romana_storage::platform;
use romana_storage::platform::fs;
use romana_storage::state_file::{Encoded, Form, StateFile, StateFileError};

use crate::retention::CheckpointId;

const FORM: Form = Form { magic: b"ROMCKPT\x01", head_bytes_max: 4096 };
const SUFFIX: &str = "ckpt";
/// Minimum space budget of checkpoints in bytes; half of the history's size if that is larger.
const BYTES_MIN: u64 = 256 << 20;
/// This many of the newest checkpoints are never thinned.
const NEWEST: usize = 4;

/// Why a checkpoint is unavailable.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file operation failed.
    #[error("{}", .path.display())]
    Io { path: PathBuf, source: io::Error },
    /// The file is damaged.
    #[error("{} is no whole checkpoint: {why}", .path.display())]
    Damaged { path: PathBuf, why: String },
}

impl From<StateFileError> for CheckpointError {
    fn from(error: StateFileError) -> Self {
        match error {
            StateFileError::Io { path, source } => Self::Io { path, source },
            StateFileError::Damaged { path, why } => Self::Damaged { path, why },
        }
    }
}

/// The checkpoints of one replica. Clones are handles to the same store.
#[derive(Clone)]
pub struct CheckpointStore(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    history: History,
    /// Minimum interval between checkpoints, in records; larger states use a longer one.
    every: u64,
    kept: Mutex<BTreeMap<Revision, Kept>>,
    offered: SyncSender<State>,
}

#[derive(Clone, Debug)]
struct Kept {
    id: CheckpointId,
    bytes: u64,
    /// Referenced by a signed checkpoint: never thinned.
    held: bool,
}

/// Whether a checkpoint is due when the revision goes from `before` to `after`.
fn is_due(before: Revision, after: Revision, live: u64, every: u64) -> bool {
    let each = every.max(live.next_power_of_two()).max(1);
    after.get() / each > before.get() / each
}

/// The checkpoint to remove: the one between the closest neighbours. Held ones, the newest ones, and the first one
/// (on which all later ones depend) stay.
fn to_thin(kept: &BTreeMap<Revision, Kept>) -> Option<Revision> {
    let all: Vec<(Revision, bool)> = kept.iter().map(|(at, kept)| (*at, kept.held)).collect();
    let old = all.len().saturating_sub(NEWEST);
    let candidates = all.windows(3).take(old.saturating_sub(1));
    let free = candidates.filter(|trio| !trio[1].1);
    free.min_by_key(|trio| trio[2].0.since(trio[0].0)).map(|trio| trio[1].0)
}

impl CheckpointStore {
    /// Opens the checkpoints in `dir`, creates it if it is missing, and starts the thread that writes
    /// them. `every`: see [`super::Audit::start`].
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn open(dir: &Path, history: History, every: u64) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let mut kept = BTreeMap::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            match path.extension().and_then(|suffix| suffix.to_str()) {
                Some("tmp") => fs::remove_file(&path)?,
                Some(SUFFIX) => match open(&path) {
                    Ok(file) => {
                        let (id, bytes) = (*file.head(), file.bytes());
                        kept.insert(id.revision, Kept { id, bytes, held: false });
                    }
                    Err(error) => set_aside(&path, &error),
                },
                _ => {}
            }
        }
        let (offered, queue) = sync_channel(1);
        let store = Self(Arc::new(Inner {
            dir: dir.to_owned(),
            history,
            every,
            kept: Mutex::new(kept),
            offered,
        }));
        let weak = Arc::downgrade(&store.0);
        let write = move || write_offered(&queue, || weak.upgrade().map(CheckpointStore));
        platform::background("checkpoints", write)?;
        Ok(store)
    }

    /// Whether a checkpoint is due after an entry that was applied to the state at `before`.
    #[must_use]
    pub fn is_due(&self, before: Revision, state: &State) -> bool {
        is_due(before, state.revision(), state.ipam().address_count() as u64, self.0.every)
    }

    /// Offers a state to the writer thread; dropped if the thread is busy. Does not block.
    pub fn offer(&self, state: State) {
        if let Err(TrySendError::Full(state)) = self.0.offered.try_send(state) {
            let revision = state.revision();
            tracing::info!(
                revision = revision.get(),
                "checkpoint skipped: another one is being written"
            );
        }
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<Revision, Kept>> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The id of the checkpoint at a revision, if it exists.
    #[must_use]
    pub fn id(&self, revision: Revision) -> Option<CheckpointId> {
        self.kept().get(&revision).map(|kept| kept.id)
    }

    /// The id of the newest checkpoint.
    #[must_use]
    pub fn newest(&self) -> Option<CheckpointId> {
        self.kept().values().next_back().map(|kept| kept.id)
    }

    fn path(&self, revision: Revision) -> PathBuf {
        self.0.dir.join(format!("{revision:020}.{SUFFIX}"))
    }

    /// The state of the newest intact checkpoint at or before a revision. Blocks.
    #[must_use]
    pub fn before(&self, revision: Revision) -> Option<State> {
        loop {
            let at = *self.kept().range(..=revision).next_back()?.0;
            match self.read(at) {
                Ok(state) => return Some(state),
                Err(error) => {
                    set_aside(&self.path(at), &error);
                    self.kept().remove(&at);
                }
            }
        }
    }

    /// Reads and verifies a checkpoint. Blocks.
    ///
    /// # Errors
    /// [`CheckpointError`].
    pub fn read(&self, revision: Revision) -> Result<State, CheckpointError> {
        let file = open(&self.path(revision))?;
        let state = file.read_state()?;
        let is = id(&state);
        if is != *file.head() || is.revision != revision {
            return Err(file.damaged("it is another state than its head says").into());
        }
        Ok(state)
    }

    /// Writes a checkpoint durably and thins older ones. Blocks.
    ///
    /// # Errors
    /// [`CheckpointError::Io`].
    pub fn write(&self, state: &State) -> Result<CheckpointId, CheckpointError> {
        let path = self.path(state.revision());
        let io = |source| CheckpointError::Io { path: path.clone(), source };
        let id = id(state);
        let encoded = Encoded::new(&FORM, &id, state).map_err(io)?;
        let beside = path.with_extension("tmp");
        let written = Disk.replace(&path, &beside, |file| encoded.write_to(file));
        written.map_err(|failed| io(failed.source))?;
        let bytes = encoded.bytes();
        self.kept().insert(id.revision, Kept { id, bytes, held: false });
        self.thin();
        Ok(id)
    }

    /// All checkpoints, by revision.
    pub(super) fn all(&self) -> Vec<CheckpointId> {
        self.kept().values().map(|kept| kept.id).collect()
    }

    /// The checkpoint at a revision.
    pub(super) fn at(&self, revision: Revision) -> Option<CheckpointId> {
        self.kept().get(&revision).map(|kept| kept.id)
    }

    /// Exempts a checkpoint from the space budget.
    pub(super) fn keep(&self, revision: Revision) {
        if let Some(kept) = self.kept().get_mut(&revision) {
            kept.held = true;
        }
    }

    pub(super) fn history(&self) -> &History {
        &self.0.history
    }

    /// Removes checkpoints that the history no longer reaches, and those beyond the space budget.
    fn thin(&self) {
        let (start, _) = self.0.history.start();
        let most = BYTES_MIN.max(self.0.history.bytes() / 2);
        let mut kept = self.kept();
        loop {
            let unreachable = kept.keys().next().copied().filter(|first| *first < start);
            let bytes: u64 = kept.values().map(|kept| kept.bytes).sum();
            let too_much = if bytes > most { to_thin(&kept) } else { None };
            let Some(goes) = unreachable.or(too_much) else { return };
            kept.remove(&goes);
            if let Err(error) = fs::remove_file(self.path(goes)) {
                tracing::warn!(revision = goes.get(), %error, "cannot remove a checkpoint");
            }
        }
    }
}

fn id(state: &State) -> CheckpointId {
    let (revision, digest) = (state.revision(), state.digest());
    CheckpointId { revision, digest, state_digest: state.state_digest() }
}

/// Opens a file, and checks its head and that its name matches its contents.
fn open(path: &Path) -> Result<StateFile<CheckpointId>, CheckpointError> {
    let file = StateFile::<CheckpointId>::open(&FORM, path)?;
    let name = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
    if name != Some(file.head().revision) {
        return Err(file.damaged("it has the name of another").into());
    }
    Ok(file)
}

fn set_aside(path: &Path, error: &CheckpointError) {
    let aside = path.with_extension("damaged");
    tracing::error!(%error, aside = %aside.display(), "moved a damaged checkpoint aside");
    if let Err(error) = fs::rename(path, &aside) {
        tracing::warn!(%error, "cannot move the damaged checkpoint aside");
    }
}

fn write_offered(queue: &Receiver<State>, store: impl Fn() -> Option<CheckpointStore>) {
    if let Err(error) = rustix::process::nice(super::indexer::NICE) {
        tracing::debug!(%error, "cannot lower the priority of the checkpoint writer");
    }
    while let Ok(state) = queue.recv() {
        let Some(store) = store() else { return };
        if store.kept().contains_key(&state.revision()) {
            continue;
        }
        // The history must be durable up to a checkpoint before the checkpoint is relied on.
        let started = std::time::Instant::now();
        let written = store.0.history.sync().map_err(|error| error.to_string());
        match written.and_then(|()| store.write(&state).map_err(|error| error.to_string())) {
            Ok(at) => {
                let (revision, took) = (at.revision.get(), started.elapsed());
                tracing::info!(at.revision = revision, ?took, "checkpoint written");
            }
            Err(error) => tracing::warn!(error, "cannot write a checkpoint"),
        }
    }
}

#[cfg(test)]
mod tests {
    use romana_statemachine::Digest;

    use super::*;

    #[test]
    fn due_at_each_multiple_of_what_lives() {
        let is_due =
            |before, after, live, every| is_due(Revision(before), Revision(after), live, every);
        assert!(!is_due(0, 99, 0, 100));
        assert!(is_due(0, 100, 0, 100) && is_due(99, 350, 0, 100) && !is_due(100, 199, 0, 100));
        assert!(!is_due(99, 101, 1000, 100) && is_due(1023, 1024, 1000, 100));
    }

    #[test]
    fn the_closest_go_first_but_not_the_first_the_held_or_the_newest() {
        let kept = |at: &[(u64, bool)]| -> BTreeMap<Revision, Kept> {
            let id = |revision| CheckpointId {
                revision,
                digest: Digest::default(),
                state_digest: Digest::default(),
            };
            let kept = |(at, held): &(u64, bool)| {
                let at = Revision(*at);
                (at, Kept { id: id(at), bytes: 1, held: *held })
            };
            at.iter().map(kept).collect()
        };
        let at = [(10, false), (20, false), (25, true), (30, false), (60, false), (70, false)];
        let newest = [(71, false), (72, false), (73, false)];
        let all: Vec<_> = at.iter().chain(&newest).copied().collect();
        assert_eq!(to_thin(&kept(&all)), Some(Revision(20)));
        assert_eq!(to_thin(&kept(&all[1..])), Some(Revision(30)));
        assert_eq!(to_thin(&kept(&all[4..])), None);
    }
}
