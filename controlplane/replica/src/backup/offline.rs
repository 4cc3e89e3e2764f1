//! Reads the data directory of a replica that is down permanently: all of its entries, applied, whether they were
//! acknowledged or not.
//!
//! The directory is locked and only read. The log and the open end of the history are copied, and the other files are
//! linked, into a scratch directory. So the code that opens a replica's files, and repairs them while it does, is the
//! same as at a start.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use romana_daemon::error::chain;
use romana_daemon::owner;
use romana_statemachine::{Digest, Index, Millis, Position, Revision, State, Term};
use romana_storage::history::{History, HistoryError, HistoryOptions};
use romana_storage::wal::{Owner, Recovered, Wal, WalError, WalOptions};
use rustix::fs::FlockOperation;
use tempfile::TempDir;

use crate::identity::{Identity, IdentityError};
use crate::raft::stored;

/// Bytes of entries per read.
const READ_BYTES: usize = 4 << 20;
/// Records per read.
const RECORDS_MAX: usize = 8192;

/// What was read from a survivor.
pub struct Salvage {
    pub dir: PathBuf,
    pub id: u64,
    pub cluster: String,
    /// The founding members of its cluster.
    pub initial_cluster: std::collections::BTreeMap<u64, String>,
    /// The state after all of its entries.
    pub state: State,
    /// The history up to that state. Its files are removed when this value is dropped.
    pub history: History,
    /// Its last entry, by term and index: of several survivors, the highest has the most data.
    pub last: (Term, Index),
    pub voted: Term,
    /// Index up to which entries are certainly committed.
    pub agreed: Index,
    pub agreed_revision: Revision,
    /// Number of entries after that: they may never have been acknowledged.
    pub unsure: u64,
    scratch: TempDir,
}

/// Why a survivor cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SalvageError {
    /// The directory has no identity.
    #[error("{} is no data directory of a replica: it has no identity.json", dir.display())]
    Nobody { dir: PathBuf },
    /// It contains something that is not a regular file.
    #[error(transparent)]
    Special(#[from] owner::Unfit),
    /// Its identity does not parse.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A process is using it.
    #[error("{} is in use: stop the replica first", dir.display())]
    InUse { dir: PathBuf },
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    /// The log cannot be opened, or not be read to its end.
    #[error("the log of {} cannot be read", dir.display())]
    Wal { dir: PathBuf, source: WalError },
    /// The history cannot be opened, or contradicts the log.
    #[error("the history of {} cannot be used", dir.display())]
    History { dir: PathBuf, source: HistoryError },
    /// Snapshot, history and log do not match.
    #[error("the data in {} does not fit together: {why}", dir.display())]
    Unfit { dir: PathBuf, why: String },
}

impl std::fmt::Debug for Salvage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (term, index) = self.last;
        write!(f, "replica {} in {}, to entry {index} of term {term}", self.id, self.dir.display())
    }
}

impl Salvage {
    /// Reads everything in `dir`. Temporary files are created in `scratch`: as large as the log, a few hundred
    /// megabytes at most. Blocks.
    ///
    /// # Errors
    /// [`SalvageError`].
    pub fn read(dir: &Path, scratch: &Path) -> Result<Self, SalvageError> {
        let identity =
            Identity::load(dir)?.ok_or_else(|| SalvageError::Nobody { dir: dir.into() })?;
        // Do not create a missing nonce here: the directory is only read.
        let identity = if dir.join("nonce").exists() { identity.named(dir)? } else { identity };
        let owner = identity.owner();
        let Identity { cluster_id, id, initial_cluster, .. } = identity;
        let _lock = lock(dir)?;
        let scratch = tempfile::Builder::new().prefix("romana-recover-").tempdir_in(scratch);
        let scratch = scratch.map_err(failed("make a directory in", dir))?;
        copy_all(&dir.join("wal"), &scratch.path().join("wal"), |_| true)?;
        copy_all(&dir.join("snapshots"), &scratch.path().join("snapshots"), |_| false)?;
        // Compressed segments never change.
        let is_open = |path: &Path| path.extension().is_none_or(|ending| ending != "lz4");
        copy_all(&dir.join("history"), &scratch.path().join("history"), is_open)?;
        let survivor = Survivor { dir, at: scratch.path(), owner };
        let Loaded { state, history, log, last, voted, agreed } = survivor.load(&cluster_id)?;
        let agreed_revision = agreed.1;
        let unsure = last.1.since(agreed.0);
        drop(log);
        Ok(Self {
            dir: dir.into(),
            id,
            cluster: cluster_id,
            initial_cluster,
            state,
            history,
            last,
            voted,
            agreed: agreed.0,
            agreed_revision,
            unsure,
            scratch,
        })
    }

    /// Time of the last entry that changed or tried to change the state.
    #[must_use]
    pub fn at(&self) -> Millis {
        self.state.at()
    }

    /// Digest of the history.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.state.digest()
    }

    /// Directory of the copies.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }
}

/// What was loaded from the copies.
struct Loaded {
    state: State,
    history: History,
    log: Wal,
    last: (Term, Index),
    voted: Term,
    agreed: (Index, Revision),
}

/// A survivor's directory and its copies.
struct Survivor<'a> {
    dir: &'a Path,
    at: &'a Path,
    owner: Option<Owner>,
}

impl Survivor<'_> {
    fn load(&self, cluster: &str) -> Result<Loaded, SalvageError> {
        let (log, recovered) = Wal::open(
            &self.at.join("wal"),
            WalOptions { owner: self.owner, ..WalOptions::default() },
        )
        .map_err(|e| self.wal(e))?;
        let history = History::open(&self.at.join("history"), HistoryOptions::default())
            .map_err(|e| self.history(e))?;
        let snapshot = stored::newest_snapshot(self.at.join("snapshots"), cluster)
            .map_err(|error| self.unfit(chain(&error)))?;
        let (state, applied) = snapshot.unwrap_or_else(|| (State::new(), None));
        let agreed = self.agreed(&history, &state, applied)?;
        let voted = recovered.vote.as_ref().map_or(Ok(Term(0)), |vote| stored::voted(vote));
        let voted = voted.map_err(|error| self.unfit(error.to_string()))?;
        let (state, last) = self.apply(&log, &recovered, &history, state, applied)?;
        Ok(Loaded { state, history, log, last, voted, agreed })
    }

    /// What is certainly committed: only committed entries are in a snapshot or in the history.
    fn agreed(
        &self,
        history: &History,
        state: &State,
        applied: Option<(Term, Index)>,
    ) -> Result<(Index, Revision), SalvageError> {
        let (revision, _) = history.last();
        let applied = applied.map_or(Index(0), |(_, index)| index);
        if revision < state.revision() {
            let why = format!(
                "the snapshot is of revision {}, and the history ends at {revision}",
                state.revision()
            );
            return Err(self.unfit(why));
        }
        let record = history.read(revision, 1, READ_BYTES).or_else(|error| match error {
            HistoryError::Compacted { .. } => Ok(Vec::new()),
            other => Err(self.history(other)),
        })?;
        let index = record.first().map_or(Index(0), |record| record.index);
        Ok((index.max(applied), revision))
    }

    /// Applies every entry after the snapshot.
    fn apply(
        &self,
        log: &Wal,
        recovered: &Recovered,
        history: &History,
        mut state: State,
        applied: Option<(Term, Index)>,
    ) -> Result<(State, (Term, Index)), SalvageError> {
        let mut last = applied.unwrap_or((Term(0), Index(0)));
        let mut next = applied.map_or(0, |(_, index)| index.next().get());
        if recovered.first > next {
            let why =
                format!("the log begins at entry {}, the snapshot ends before", recovered.first);
            return Err(self.unfit(why));
        }
        let end = recovered.last.map_or(0, |last| last + 1);
        while next < end {
            let entries = log.read(next, end, READ_BYTES).map_err(|error| self.wal(error))?;
            let Some((read, _)) = entries.last() else { break };
            next = read + 1;
            for (index, bytes) in entries {
                let read = stored::commands(bytes);
                let (term, commands) = read.map_err(|error| self.unfit(error.to_string()))?;
                last = (term, Index(index));
                let Some(commands) = commands else { continue };
                let (_, records) = state.apply(Position { term, index: Index(index) }, &commands);
                // Records that the history already has must be equal.
                history.append(&records).map_err(|error| self.history(error))?;
            }
        }
        self.follow(history, &mut state, &mut last)?;
        Ok((state, last))
    }

    /// Applies records that are only in the history: an entry can be committed, and in the history, before the local
    /// log has it durably. If a power cut took the end of the log, the history may reach further.
    fn follow(
        &self,
        history: &History,
        state: &mut State,
        last: &mut (Term, Index),
    ) -> Result<(), SalvageError> {
        loop {
            let next = state.revision().next();
            let records =
                history.read(next, RECORDS_MAX, READ_BYTES).map_err(|error| self.history(error))?;
            if records.is_empty() {
                break;
            }
            for record in records {
                state.follow(&record).map_err(|error| self.unfit(error.to_string()))?;
                last.1 = last.1.max(record.index);
            }
        }
        if history.last() == (state.revision(), state.digest()) {
            return Ok(());
        }
        Err(self.unfit("history and log disagree".into()))
    }

    fn wal(&self, source: WalError) -> SalvageError {
        SalvageError::Wal { dir: self.dir.into(), source }
    }

    fn history(&self, source: HistoryError) -> SalvageError {
        SalvageError::History { dir: self.dir.into(), source }
    }

    fn unfit(&self, why: String) -> SalvageError {
        SalvageError::Unfit { dir: self.dir.into(), why }
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SalvageError {
    let path = path.to_owned();
    move |source| SalvageError::Io { action, path, source }
}

/// Ensures that no replica uses the directory, now or while it is read.
fn lock(dir: &Path) -> Result<Option<File>, SalvageError> {
    let path = dir.join("wal").join("LOCK");
    let file = match OpenOptions::new().read(true).open(&path) {
        Ok(file) => file,
        // Never started: there is no lock file.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open", &path)(error)),
    };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(SalvageError::InUse { dir: dir.into() }),
        Err(errno) => Err(failed("lock", &path)(errno.into())),
    }
}

/// Creates `to` with a copy of each file of `from` for which `copied` holds, and links to the others.
fn copy_all(from: &Path, to: &Path, copied: impl Fn(&Path) -> bool) -> Result<(), SalvageError> {
    fs::create_dir(to).map_err(failed("make", to))?;
    let from = match fs::canonicalize(from) {
        Ok(from) => from,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("find", from)(error)),
    };
    for entry in fs::read_dir(&from).map_err(failed("list", &from))? {
        let path = entry.map_err(failed("list", &from))?.path();
        if !path.is_file() {
            continue;
        }
        let copy = to.join(path.file_name().unwrap_or_default());
        let done =
            if copied(&path) { fs::copy(&path, &copy).map(|_| ()) } else { symlink(&path, &copy) };
        done.map_err(failed("copy", &path))?;
    }
    Ok(())
}
