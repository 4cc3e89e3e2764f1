//! Opens a replica's files, after checking that it may use them.

use std::path::{Path, PathBuf};

use romana_storage::history::{History, HistoryOptions};
use romana_storage::platform::fs;
use romana_storage::wal::{Wal, WalOptions};

use crate::audit::Audit;
use crate::feed::Feed;
use crate::identity::Identity;
use crate::raft::config::{ReplicaConfig, StartError, Tuning};
use crate::raft::fault::Fault;
use crate::raft::peer::bounds::NUMBER_MAX;
use crate::raft::peer::dial::{Dialer, Directory};
use crate::raft::peer::facts;
use crate::raft::store::log::LogStore;
use crate::raft::store::machine::Machine;
use crate::raft::store::snapshot::{Found, SnapshotError, SnapshotStore};

/// The opened files of a replica.
pub(in crate::raft) struct Stores {
    pub(in crate::raft) identity: Identity,
    pub(in crate::raft) log: LogStore,
    pub(in crate::raft) machine: Machine,
    /// Files that were missing, and without which the loss of others is not noticed.
    pub(in crate::raft) missing: Vec<PathBuf>,
}

/// A founder that lost its disk must not come back under its old id, because it has forgotten its vote. A founder
/// with an empty directory asks the other members whether they know a data directory with its id. If none answers,
/// this counts as a first start. A directory that has data but no identity is refused by [`open`], with the file's name.
pub(in crate::raft) async fn check_wiped(
    config: &ReplicaConfig,
    identity: &Identity,
) -> Result<(), StartError> {
    let dir = &config.data_dir;
    if config.joined || has_data(dir) || Identity::load(dir)?.is_some() {
        return Ok(());
    }
    let cluster = identity.cluster_id.clone();
    let (api, directory) = (config.advertise_api.clone(), Directory::default());
    let dialer = Dialer::new(cluster, config.id, api, directory);
    if facts::is_taken(&dialer, config.id, &config.initial_cluster).await {
        let (id, dir) = (config.id, config.data_dir.clone());
        return Err(StartError::Wiped { id, dir });
    }
    Ok(())
}

/// Whether a data directory has more than an identity.
fn has_data(dir: &Path) -> bool {
    ["wal", "snapshots", "history"].iter().any(|part| has_files(&dir.join(part)))
}

/// Checks that the advertised address is the one in `initial_cluster`.
pub(in crate::raft) fn check_advertised(config: &ReplicaConfig) -> Result<(), StartError> {
    let (id, advertised) = (config.id, config.advertise_peer.clone());
    match config.initial_cluster.get(&id) {
        Some(listed) if *listed != advertised => {
            Err(StartError::Advertise { id, advertised, listed: listed.clone() })
        }
        _ => Ok(()),
    }
}

/// Opens all files, after checking which replica they belong to. Blocks.
pub(in crate::raft) fn open(
    config: &ReplicaConfig,
    identity: Identity,
    fault: Fault,
) -> Result<Stores, StartError> {
    let dir = &config.data_dir;
    fs::create_dir_all(dir).map_err(|source| {
        let what = format!("cannot make the data directory {}", dir.display());
        StartError::Io { what, source }
    })?;
    let has_data = has_data(dir);
    let identity = match Identity::load(dir)?.filter(|_| config.joined) {
        Some(stored) => stored.named(dir)?,
        None => identity.claim(dir, has_data)?,
    };
    let Tuning { wal_segment_bytes, history_segment_bytes, log_tail_bytes, feed_bytes, .. } =
        config.tuning;
    // The high-water mark is stored outside `wal/`, so that the loss of the whole log is detected.
    let (segment_bytes, owner) = (wal_segment_bytes, identity.owner());
    let options = WalOptions { segment_bytes, mark: Some(dir.join("wal.mark")), owner };
    let (wal, recovered) = Wal::open(&dir.join("wal"), options)?;
    let options = HistoryOptions { segment_bytes: history_segment_bytes };
    let history = History::open(&dir.join("history"), options)?;
    let missing = missing(&wal, &history);
    let feed = Feed::new(history.clone(), feed_bytes);
    let unusable = |error: SnapshotError| StartError::State(Box::new(error));
    let snapshots = dir.join("snapshots");
    let store = SnapshotStore::open(snapshots.clone(), identity.cluster_id.clone());
    let store = store.map_err(unusable)?;
    let Found { newest, damaged } = store.newest().map_err(unusable)?;
    let applied = newest.as_ref().and_then(|(file, _)| file.head().last).map_or(0, |id| id.index);
    if let Some((purged, _)) = &recovered.purged
        && *purged > applied
    {
        let damaged = damaged.iter().map(|(_, error)| format!("; {error}")).collect();
        let (dir, first, snapshot) = (snapshots, purged + 1, applied);
        return Err(StartError::Gap { dir, first, snapshot, damaged });
    }
    let audit = Audit::start(history.clone(), dir, config.tuning.checkpoint_records);
    let audit = audit.map_err(|source| {
        let what = format!("cannot use {} for the audit", dir.display());
        StartError::Io { what, source }
    })?;
    let machine = Machine::open(store.clone(), newest, history, feed, audit, fault)
        .map_err(|error| StartError::State(Box::new(error)))?;
    let log = LogStore::open(wal, &recovered, log_tail_bytes)
        .map_err(|source| StartError::Io { what: "the log does not parse".into(), source })?;
    let log = log.joining(config.joined);
    let (term, index) = (log.known().term, log.known().index);
    if term > NUMBER_MAX || index > NUMBER_MAX {
        return Err(StartError::Exhausted { dir: dir.clone(), term, index });
    }
    store.set_aside(&damaged).map_err(unusable)?;
    Ok(Stores { identity, log, machine, missing })
}

/// Files that were missing beside existing data.
fn missing(wal: &Wal, history: &History) -> Vec<PathBuf> {
    let missing = [wal.missing_mark(), history.missing_origin()].into_iter().flatten();
    let missing: Vec<PathBuf> = missing.map(Path::to_owned).collect();
    for file in &missing {
        tracing::warn!(
            file = %file.display(),
            "missing or damaged beside existing data: a loss of other files would not be noticed; written again"
        );
    }
    missing
}

fn has_files(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
}
