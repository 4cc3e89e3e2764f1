//! Restore: fills an empty data directory from a backup, for one replica of a new cluster.
//!
//! ```text
//!   marker ─► history (records, Restored) ─► snapshot at entry 1 ─► log, purged up to 1
//!                                                        ─► identity.json ─► no marker
//! ```
//! All replicas that are given the same file and founders start identically: same state, same history, same
//! cluster id. Raft sees a log whose first entry was purged and a snapshot that includes it. So the cluster needs no
//! founding, and a replica that joins later gets the snapshot.
//!
//! The identity is written last: a directory with the marker but without an identity was filled only partly. It does
//! not start, and the next restore starts over.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use romana_api::backup::Restoration;
use romana_statemachine::backup::{BackupError, Part};
use romana_statemachine::event::Restored;
use romana_statemachine::{Digest, State};
use romana_storage::history::{History, HistoryError, HistoryOptions};
use romana_storage::wal::WalError;
use rustix::fs::FlockOperation;

use super::file::{self, FileError, sync_dir};
use crate::identity::{Identity, IdentityError, RESTORING};
use crate::raft::seed;
use crate::raft::{ReplicaConfig, SeedError};

/// Files that a restore creates in a data directory, and that an upload leaves there.
const OURS: [&str; 5] = ["wal", "history", "snapshots", "identity.json.tmp", UPLOAD];
/// File in which an uploaded backup is kept until it is restored.
pub const UPLOAD: &str = "restore.upload";

/// Why a restore failed.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The directory belongs to another replica or cluster.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The backup file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The directory holds a replica that was not restored from this backup.
    #[error(
        "{} holds the data of replica {id} of cluster {cluster}, which was {}: a backup is restored \
         into empty directories, for a new cluster; leave --restore out to start this replica as it is",
        dir.display(),
        how(restored.as_ref())
    )]
    Taken { dir: PathBuf, id: u64, cluster: String, restored: Option<Digest> },
    /// The directory is not empty.
    #[error(
        "{} is not empty ({name} is in it): a backup is restored into an empty directory", dir.display()
    )]
    NotEmpty {
        dir: PathBuf,
        /// One of its entries.
        name: String,
    },
    /// Another process is restoring into it.
    #[error("{} is being restored by another process", dir.display())]
    Locked { dir: PathBuf },
    /// The history cannot be written.
    #[error("the history cannot be written")]
    History(#[from] HistoryError),
    /// The log cannot be written.
    #[error("the log cannot be written")]
    Wal(#[from] WalError),
    /// Another file operation failed.
    #[error("cannot {what}")]
    Io { what: String, source: io::Error },
}

impl From<SeedError> for RestoreError {
    fn from(error: SeedError) -> Self {
        match error {
            SeedError::Io { what, source } => Self::Io { what, source },
            SeedError::Wal(error) => Self::Wal(error),
        }
    }
}

fn how(restored: Option<&Digest>) -> String {
    restored
        .map_or_else(|| "not restored".into(), |backup| format!("restored from backup {backup}"))
}

fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> RestoreError {
    let what = what.into();
    move |source| RestoreError::Io { what, source }
}

/// Whether a data directory already belongs to a replica.
///
/// # Errors
/// [`IdentityError`]: this cannot be determined.
pub fn is_claimed(dir: &Path) -> Result<bool, IdentityError> {
    Identity::load(dir).map(|identity| identity.is_some())
}

/// Fills the data directory of a replica from a backup file. `None`: it was filled from that backup
/// earlier, and there is nothing to do. Blocks.
///
/// # Errors
/// [`RestoreError`]. Partial results are removed if possible.
pub fn restore(config: &ReplicaConfig, file: &Path) -> Result<Option<Restoration>, RestoreError> {
    let dir = &config.data_dir;
    let own = Identity::new(config.id, config.initial_cluster.clone(), &config.cluster_token);
    own.check_initial()?;
    if let Some(stored) = Identity::load(dir)? {
        already(own, stored, dir, file)?;
        return Ok(None);
    }
    fs::create_dir_all(dir).map_err(io(format!("make {}", dir.display())))?;
    let marker = Marker::take(dir, file)?;
    let filled = fill(config, own, file);
    if filled.is_err() {
        marker.withdraw();
        return filled.map(Some);
    }
    marker.remove()?;
    filled.map(Some)
}

/// Whether a directory with data was restored from this file.
fn already(own: Identity, stored: Identity, dir: &Path, file: &Path) -> Result<(), RestoreError> {
    let given = match file::end(file) {
        Ok(end) => end.map(|end| end.digest),
        // The file may be gone after the restore.
        Err(FileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            stored.restored
        }
        Err(error) => return Err(error.into()),
    };
    if stored.restored.is_none() || given != stored.restored {
        let Identity { id, cluster_id: cluster, restored, .. } = stored;
        return Err(RestoreError::Taken { dir: dir.into(), id, cluster, restored });
    }
    match stored.restored {
        Some(backup) => Ok(own.restored_from(backup).compare(&stored, dir)?),
        None => Ok(()),
    }
}

/// The marker file of a directory that is being filled. Locked during the restore.
struct Marker {
    dir: PathBuf,
    file: File,
}

impl Marker {
    /// Creates the marker in an empty directory, or clears a directory in which a restore was interrupted.
    fn take(dir: &Path, source: &Path) -> Result<Self, RestoreError> {
        let path = dir.join(RESTORING);
        let begun = path.exists();
        let refuse = |name: String| RestoreError::NotEmpty { dir: dir.into(), name };
        let list = || format!("list {}", dir.display());
        for entry in fs::read_dir(dir).map_err(io(list()))? {
            let name = entry.map_err(io(list()))?.file_name();
            let expected = name == RESTORING
                || name == "lost+found"
                || dir.join(&name) == source
                || OURS.iter().any(|ours| name == *ours && (begun || name == UPLOAD));
            if !expected {
                return Err(refuse(name.to_string_lossy().into_owned()));
            }
        }
        let opened = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = opened.map_err(io(format!("make {}", path.display())))?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| RestoreError::Locked { dir: dir.into() })?;
        file.sync_all().map_err(io(format!("sync {}", path.display())))?;
        sync_dir(&path)?;
        let marker = Self { dir: dir.into(), file };
        marker.empty(source)?;
        Ok(marker)
    }

    /// Removes the files that a restore creates, except the backup itself.
    fn empty(&self, source: &Path) -> Result<(), RestoreError> {
        for name in OURS {
            let path = self.dir.join(name);
            if path == source {
                continue;
            }
            let removed =
                if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(io(format!("remove {}", path.display()))(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// After a failure: restores the directory to its previous contents; the marker stays if that fails.
    fn withdraw(self) {
        let emptied = self.empty(&self.dir.join(UPLOAD)).and_then(|()| self.remove());
        if let Err(error) = emptied {
            tracing::warn!(%error, "cannot remove the mark of an unfinished restore");
        }
    }

    fn remove(self) -> Result<(), RestoreError> {
        let path = self.dir.join(RESTORING);
        fs::remove_file(&path).map_err(io(format!("remove {}", path.display())))?;
        drop(self.file);
        Ok(sync_dir(&path)?)
    }
}

/// Fills an empty directory.
fn fill(config: &ReplicaConfig, own: Identity, file: &Path) -> Result<Restoration, RestoreError> {
    let dir = &config.data_dir;
    let options = HistoryOptions { segment_bytes: config.tuning.history_segment_bytes };
    let history = History::open(&dir.join("history"), options)?;
    let checked = file::read(file, |part| {
        match part {
            Part::Header(header) if header.oldest > 1 => {
                history.reset(header.oldest.minus(1), header.previous)?;
            }
            Part::Records(records) => history.append(records)?,
            Part::Header(_) | Part::State(_) | Part::End(_) => {}
        }
        Ok::<_, RestoreError>(())
    })?;
    let (header, backup) = (checked.header, checked.end.digest);
    let identity = own.restored_from(backup);
    let restored = Restored {
        source: header.cluster.clone(),
        cluster: identity.cluster_id.clone(),
        revision: header.revision,
        digest: header.digest,
        backup,
    };
    let (state, record) = checked.state.restored(restored);
    check_restored(&state, file)?;
    history.append(&[record])?;
    history.sync()?;
    let segment_bytes = config.tuning.wal_segment_bytes;
    seed(dir, segment_bytes, &identity, &state)?;
    identity.write(dir).map_err(io(format!("write the identity in {}", dir.display())))?;
    Ok(Restoration {
        cluster_id: identity.cluster_id,
        source: header.cluster,
        from_revision: header.revision,
        revision: state.revision(),
        digest: state.digest(),
        backup,
        addresses: state.ipam().address_count() as u64,
        waiting: state.held().map_or(0, |held| held.waiting.len() as u64),
    })
}

/// Checks that the initial state of the new cluster is as consistent as the one in the backup.
fn check_restored(state: &State, file: &Path) -> Result<(), RestoreError> {
    state.validate().map_err(|what| {
        let why = format!("after the restore: {}", what.join("; "));
        let source = BackupError::Inconsistent { why };
        FileError::Backup { path: file.into(), source }.into()
    })
}
