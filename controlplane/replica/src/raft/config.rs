//! How a replica is configured, and why it may not start.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use openraft::SnapshotPolicy;
use romana_statemachine::Proposal;

use crate::identity::IdentityError;
use crate::raft::known::clocks::WallClock;

/// What a replica must be told.
#[derive(Clone, Debug)]
pub struct ReplicaConfig {
    /// Its id, from 1. Never given to another replica, or to this one after its data is lost.
    pub id: u64,
    /// Where its data is: `identity.json`, `nonce`, `wal/`, `history/`, `snapshots/`. Made if missing.
    pub data_dir: PathBuf,
    /// Where it listens for other replicas.
    pub peer_listen: SocketAddr,
    /// `host:port` under which others reach `peer_listen`: what `initial_cluster` says for `id`.
    pub advertise_peer: String,
    /// URL of its API, for others to tell clients.
    pub advertise_api: String,
    /// The replicas with which the cluster begins: id → peer address. The same for all of them.
    pub initial_cluster: BTreeMap<u64, String>,
    /// Whether it joined a cluster: who it is was written into the data directory before.
    pub joined: bool,
    /// Tells apart clusters that begin with the same `initial_cluster`. The same for all replicas.
    pub cluster_token: String,
    /// Proposed once, by the first leader, while the state is empty.
    pub initial: Vec<Proposal>,
    /// This machine's wall clock.
    pub wall: WallClock,
    /// The rest.
    pub tuning: Tuning,
}

impl ReplicaConfig {
    /// A configuration with the usual tunables. `advertise_peer` is taken from `initial_cluster`.
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

/// What can be tuned. The defaults are for a local network.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// How often a leader shows that it leads.
    pub heartbeat: Duration,
    /// A follower that hears no leader campaigns after between one and two of …
    pub election_min: Duration,
    /// … these. At least twice `heartbeat`.
    pub election_max: Duration,
    /// A snapshot is written after this many log entries,
    pub snapshot_entries: u64,
    /// or this many bytes of them, or as many as the snapshot before has, whichever is more: what a
    /// replica reads again when it starts is about what it reads of the snapshot.
    pub snapshot_bytes: u64,
    /// Entries kept behind a snapshot, for followers that are a little behind.
    pub keep_entries: u64,
    /// But not more bytes of them than this.
    pub keep_bytes: usize,
    /// Memory for the tail of the log, bytes.
    pub log_tail_bytes: usize,
    /// Size of a segment of the write-ahead log, bytes.
    pub wal_segment_bytes: u64,
    /// Size of a segment of the history, bytes.
    pub history_segment_bytes: u64,
    /// Memory for recent records of the feed, bytes.
    pub feed_bytes: usize,
    /// A checkpoint of the state is kept each so many records, or more ([`crate::audit::Audit::start`]).
    /// The same for all replicas, or they cannot compare.
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
    /// What openraft is told. `elects`: from the beginning, not only when it is told to.
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
            // The transfer has its own limits on stalling.
            install_snapshot_timeout: 300_000,
            enable_pre_vote: Some(true),
            enable_elect: elects,
            // Two leases: a leader that hears no quorum for so long asks who is there.
            quorum_loss_probe_interval: Some(2 * millis(self.election_max)),
            backoff: "100ms".into(),
            ..openraft::Config::default()
        };
        config.validate()
    }
}

/// What to do about a replica whose data is damaged: the one sentence about it.
#[must_use]
pub fn reseed(id: u64) -> String {
    format!(
        "nothing was changed; what this replica had acknowledged is on the others: seed it anew \
         from them with `romana cluster replace {id}`, which says how to start it with an empty \
         data directory"
    )
}

impl StartError {
    /// What to do about it, where the error does not say so itself: for replica `id`.
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

/// Whether what failed is that something in the data directory is not what it should be, or not to be had.
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

/// What to do about that.
fn misplaced(id: u64) -> String {
    format!(
        "what stands there is not what this program wrote, or it may not read it: look at it with `ls -l`, and put \
         the file back, or give it back to the user that runs romanad; if it is lost: {}",
        reseed(id)
    )
}

/// Why a replica does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data belongs to somebody else.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The peer listener.
    #[error("cannot listen for other replicas on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    /// A file or a directory.
    #[error("{what}")]
    Io {
        /// What failed.
        what: String,
        source: io::Error,
    },
    /// The write-ahead log does not open.
    #[error("the write-ahead log does not open")]
    Wal(#[from] romana_storage::wal::WalError),
    /// The history does not open.
    #[error("the history does not open")]
    History(#[from] romana_storage::history::HistoryError),
    /// State and history cannot be used together.
    #[error("the stored state cannot be used")]
    State(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The log begins after the newest usable snapshot.
    #[error(
        "a snapshot is missing in {}: the log begins at entry {first}, and the newest whole \
         snapshot ends at {snapshot}{damaged}", dir.display()
    )]
    Gap {
        /// Directory of the snapshots.
        dir: PathBuf,
        /// First entry of the log.
        first: u64,
        /// Last entry in the snapshot.
        snapshot: u64,
        /// What is wrong with newer snapshots.
        damaged: String,
    },
    /// A term or an index that no cluster reaches: a forged message was taken for true, once.
    #[error(
        "the log in {} is at term {term} and entry {index}, which no cluster reaches: a forged message was \
         believed by an earlier release. Nothing is lost, but no leader can be elected from it: stop all \
         replicas, run `romanad recover --data-dir {} --out FILE` on the one that is furthest, and begin \
         a new cluster in empty directories with --restore FILE", dir.display(), dir.display()
    )]
    Exhausted {
        /// The data directory.
        dir: PathBuf,
        /// Highest term.
        term: u64,
        /// Last entry.
        index: u64,
    },
    /// Tunables that do not fit together.
    #[error("the tunables of Raft do not fit together")]
    Tuning(#[source] Box<openraft::ConfigError>),
    /// The directory is empty, and the others know another one of this id.
    #[error(
        "{} is empty, and replica {id} has had another data directory: its disk was lost, or this is \
         the wrong one. Put the old one back, or run `romana cluster replace {id}` and start with an \
         empty directory and --join", .dir.display()
    )]
    Wiped { id: u64, dir: PathBuf },
    /// `advertise_peer` and `initial_cluster` differ.
    #[error(
        "the peer address is {advertised}, and --initial-cluster says {listed} for replica {id}"
    )]
    Advertise {
        id: u64,
        /// Advertised address.
        advertised: String,
        /// Address in the list.
        listed: String,
    },
    #[error("Raft does not start: {why}")]
    Raft { why: String },
}
