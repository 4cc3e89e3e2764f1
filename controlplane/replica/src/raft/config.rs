//! Configuration of a replica, and the errors that prevent its start.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use openraft::SnapshotPolicy;
use romana_statemachine::Proposal;

use crate::identity::IdentityError;
use crate::raft::known::clocks::WallClock;
use crate::raft::remedy::reseed;

/// Configuration of a replica.
#[derive(Clone, Debug)]
pub struct ReplicaConfig {
    /// Replica id, from 1. Never reused: neither for another replica, nor for this one after it lost its data.
    pub id: u64,
    /// Data directory: `identity.json`, `nonce`, `wal/`, `history/`, `snapshots/`. Created if missing.
    pub data_dir: PathBuf,
    /// Address on which it listens for other replicas.
    pub peer_listen: SocketAddr,
    /// `host:port` at which other replicas reach `peer_listen`: the entry for `id` in `initial_cluster`.
    pub advertise_peer: String,
    /// URL of its API; other replicas hand it to clients.
    pub advertise_api: String,
    /// Founding replicas: id → peer address. Must be the same on all of them.
    pub initial_cluster: BTreeMap<u64, String>,
    /// Whether it joined an existing cluster; its identity was then written to the data directory before.
    pub joined: bool,
    /// Distinguishes clusters with the same `initial_cluster`. Must be the same on all replicas.
    pub cluster_token: String,
    /// Proposed once, by the first leader, while the state is empty.
    pub initial: Vec<Proposal>,
    /// This machine's wall clock.
    pub wall: WallClock,
    pub tuning: Tuning,
}

impl ReplicaConfig {
    /// A configuration with default tunables. `advertise_peer` is taken from `initial_cluster`.
    #[must_use]
    pub fn new(
        id: u64,
        data_dir: PathBuf,
        peer_listen: SocketAddr,
        initial_cluster: BTreeMap<u64, String>,
    ) -> Self {
        let own = initial_cluster.get(&id).cloned();
        Self {
            id,
            data_dir,
            peer_listen,
            advertise_peer: own.unwrap_or_else(|| peer_listen.to_string()),
            advertise_api: String::new(),
            initial_cluster,
            joined: false,
            cluster_token: String::new(),
            initial: Vec::new(),
            wall: WallClock::default(),
            tuning: Tuning::default(),
        }
    }
}

/// Tunables. The defaults suit a local network.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// Heartbeat interval of a leader.
    pub heartbeat: Duration,
    /// Minimum election timeout: a follower without a leader campaigns after a random time from this …
    pub election_min: Duration,
    /// … to this. At least twice `heartbeat`.
    pub election_max: Duration,
    /// A snapshot is written after this many log entries,
    pub snapshot_entries: u64,
    /// or after this many bytes of entries (the size of the previous snapshot if that is larger): a starting replica
    /// then replays about as much log as it loads from the snapshot.
    pub snapshot_bytes: u64,
    /// Entries kept before a snapshot, for followers that lag slightly.
    pub keep_entries: u64,
    /// Upper bound of the bytes of these entries.
    pub keep_bytes: usize,
    /// Memory for the tail of the log, in bytes.
    pub log_tail_bytes: usize,
    /// Segment size of the write-ahead log, in bytes.
    pub wal_segment_bytes: u64,
    /// Segment size of the history, in bytes.
    pub history_segment_bytes: u64,
    /// Memory for recent records of the feed, in bytes.
    pub feed_bytes: usize,
    /// A checkpoint of the state is due after this many records or more ([`crate::audit::Audit::start`]).
    /// Must be the same on all replicas, because they compare checkpoints.
    pub checkpoint_records: u64,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(50),
            election_min: Duration::from_millis(150),
            election_max: Duration::from_millis(300),
            snapshot_entries: 200_000,
            snapshot_bytes: 12 << 20,
            keep_entries: 10_000,
            keep_bytes: 16 << 20,
            log_tail_bytes: 64 << 20,
            wal_segment_bytes: 64 << 20,
            history_segment_bytes: 16 << 20,
            feed_bytes: 64 << 20,
            checkpoint_records: 65_536,
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Tuning {
    /// Configuration of openraft. `elects`: whether it starts elections at once, or only when enabled later.
    pub(super) fn raft(&self, elects: bool) -> Result<openraft::Config, openraft::ConfigError> {
        let config = openraft::Config {
            cluster_name: "romana".into(),
            heartbeat_interval: millis(self.heartbeat),
            election_timeout_min: millis(self.election_min),
            election_timeout_max: millis(self.election_max),
            max_payload_entries: 1024,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_entries),
            max_in_snapshot_log_to_keep: self.keep_entries,
            purge_batch_size: (self.snapshot_entries / 8).clamp(1, 1024),
            // The snapshot transfer has its own stall detection.
            install_snapshot_timeout: 300_000,
            enable_pre_vote: Some(true),
            enable_elect: elects,
            // Two leases: a leader that has heard no quorum for this long probes its followers.
            quorum_loss_probe_interval: Some(2 * millis(self.election_max)),
            backoff: "100ms".into(),
            ..openraft::Config::default()
        };
        config.validate()
    }
}

impl StartError {
    /// What the operator of replica `id` can do about it, where the error does not say so itself.
    #[must_use]
    pub fn advice(&self, id: u64) -> Option<String> {
        use romana_storage::history::HistoryError;
        use romana_storage::wal::WalError;

        match self {
            Self::Wal(WalError::Damaged { .. } | WalError::Foreign { .. })
            | Self::History(HistoryError::Damaged { .. })
            | Self::State(_)
            | Self::Gap { .. }
            | Self::Identity(IdentityError::Damaged { .. } | IdentityError::Nameless { .. }) => {
                Some(reseed(id))
            }
            Self::Identity(IdentityError::Nonce { .. }) => Some(reseed(id)),
            Self::Listen { .. } => None,
            other if is_misplaced(other) => Some(misplaced(id)),
            _ => None,
        }
    }
}

/// Whether the cause is a file or directory of an unexpected kind, or one that cannot be accessed.
fn is_misplaced(error: &StartError) -> bool {
    use io::ErrorKind::{
        AlreadyExists, InvalidData, InvalidInput, IsADirectory, NotADirectory, NotFound,
        PermissionDenied, UnexpectedEof,
    };

    let first: &(dyn std::error::Error + 'static) = error;
    let mut causes = std::iter::successors(Some(first), |error| error.source());
    causes.any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| {
            let linked = error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error());
            linked
                || matches!(
                    error.kind(),
                    AlreadyExists
                        | InvalidData
                        | InvalidInput
                        | IsADirectory
                        | NotADirectory
                        | NotFound
                        | PermissionDenied
                        | UnexpectedEof
                )
        })
    })
}

/// What the operator does about it.
fn misplaced(id: u64) -> String {
    format!(
        "what stands there is not what this program wrote, or it may not read it: look at it with `ls -l`, and put \
         the file back, or give it back to the user that runs romanad; if it is lost: {}",
        reseed(id)
    )
}

/// Why a replica cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data belongs to another replica or cluster.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The peer listener cannot be bound.
    #[error("cannot listen for other replicas on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    /// A file operation failed.
    #[error("{what}")]
    Io {
        /// The operation.
        what: String,
        source: io::Error,
    },
    /// The write-ahead log cannot be opened.
    #[error("the write-ahead log does not open")]
    Wal(#[from] romana_storage::wal::WalError),
    /// The history cannot be opened.
    #[error("the history does not open")]
    History(#[from] romana_storage::history::HistoryError),
    /// State and history do not match.
    #[error("the stored state cannot be used")]
    State(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The log begins after the newest usable snapshot.
    #[error(
        "a snapshot is missing in {}: the log begins at entry {first}, and the newest whole \
         snapshot ends at {snapshot}{damaged}", dir.display()
    )]
    Gap {
        dir: PathBuf,
        first: u64,
        snapshot: u64,
        /// Why newer snapshots cannot be used.
        damaged: String,
    },
    /// A term or index that no cluster can reach: a forged message was accepted earlier.
    #[error(
        "the log in {} is at term {term} and entry {index}, which no cluster reaches: a forged message was \
         believed by an earlier release. Nothing is lost, but no leader can be elected from it: stop all \
         replicas, run `romanad recover --data-dir {} --out FILE` on the one that is furthest, and begin \
         a new cluster in empty directories with --restore FILE", dir.display(), dir.display()
    )]
    Exhausted { dir: PathBuf, term: u64, index: u64 },
    /// Inconsistent tunables.
    #[error("the tunables of Raft do not fit together")]
    Tuning(#[source] Box<openraft::ConfigError>),
    /// The directory is empty, and other members know a different data directory for this id.
    #[error(
        "{} is empty, and replica {id} has had another data directory: its disk was lost, or this is \
         the wrong one. Put the old one back, or run `romana cluster replace {id}` and start with an \
         empty directory and --join", .dir.display()
    )]
    Wiped { id: u64, dir: PathBuf },
    /// `advertise_peer` and `initial_cluster` differ.
    #[error(
        "the peer address is {advertised}, and replica {id} is to found the cluster as {listed}: give \
         --advertise-peer the address that it has in --initial-cluster; with --dev, that of --peer-listen"
    )]
    Advertise {
        id: u64,
        advertised: String,
        /// Address in `initial_cluster`.
        listed: String,
    },
    #[error("Raft does not start: {why}")]
    Raft { why: String },
}
