//! Who a data directory belongs to: one replica of one cluster, for ever.
//!
//! A Raft replica that comes back under another id, or among other peers than those it voted with,
//! can undo what was agreed. So the first start writes down who it is, and later starts that say
//! something else are refused.
//!
//! The cluster's id is derived from the initial peers and an optional token, so that replicas agree
//! on it in any order of starting, without talking. Set a new token to make a new cluster at the
//! addresses of an old one. A cluster that is restored from a backup has the backup's digest in its id
//! besides, so that replicas that were restored from different files, or not at all, refuse each other.

mod join;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use romana_statemachine::Digest;
use romana_storage::durable;
use romana_storage::platform::fs;
use romana_storage::platform::random;
use romana_storage::wal;
use serde::{Deserialize, Serialize};

pub use join::{Owner, join, owner};

const FILE: &str = "identity.json";
const NONCE: &str = "nonce";
/// Longest that a directory calls itself.
const NONCE_BYTES_MAX: usize = 64;

/// Who a replica is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    pub(crate) cluster_id: String,
    pub(crate) id: u64,
    pub(crate) initial_cluster: BTreeMap<u64, String>,
    /// Digest of the backup that the cluster was restored from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) restored: Option<Digest>,
    /// What this data directory calls itself: made at random when it is new, so that a replica that
    /// lost its data is told from the one that had the id before. In a file of its own, which
    /// programs before version 2 leave alone.
    #[serde(skip)]
    pub(crate) nonce: Option<String>,
}

/// The file that is there while a directory is being filled from a backup.
pub(crate) const RESTORING: &str = "restoring";

/// Why a data directory is refused.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file cannot be read or written.
    #[error("{}", .path.display())]
    Io { path: PathBuf, source: io::Error },
    /// The file is there and is not ours.
    #[error("{} does not parse: it is damaged, or of a later version; restore it from a backup", .path.display())]
    Damaged { path: PathBuf, source: serde_json::Error },
    /// The name of the data directory is none.
    #[error("{} should hold what this data directory calls itself, a word that was made when it was new: {why}", .path.display())]
    Nonce { path: PathBuf, why: &'static str },
    /// `--id` and the data differ.
    #[error(
        "{} holds the data of replica {theirs}, and this is replica {ours}: start it with \
         --id {theirs}, or give replica {ours} a data directory of its own", .dir.display()
    )]
    OtherId {
        /// The data directory.
        dir: PathBuf,
        /// Id in the data.
        theirs: u64,
        /// Id asked for.
        ours: u64,
    },
    /// `--initial-cluster` and the data differ.
    #[error(
        "{} holds the data of a cluster that began with {theirs}, and --initial-cluster says \
         {ours}: put the old list back (members that came later are in the data)", .dir.display()
    )]
    OtherPeers {
        /// The data directory.
        dir: PathBuf,
        /// List in the data.
        theirs: String,
        /// List asked for.
        ours: String,
    },
    /// The cluster token and the data differ.
    #[error(
        "{} holds the data of cluster {theirs}, and this is cluster {ours}: put the old \
         --cluster-token back, or start the new cluster with empty data directories", .dir.display()
    )]
    OtherCluster {
        /// The data directory.
        dir: PathBuf,
        /// Cluster in the data.
        theirs: String,
        /// Cluster asked for.
        ours: String,
    },
    /// The replica is not in its own list.
    #[error("replica {id} is not in --initial-cluster {peers}: add it, with its peer address")]
    NotInitial {
        /// Id asked for.
        id: u64,
        /// List asked for.
        peers: String,
    },
    /// A restore was interrupted.
    #[error(
        "{} is half filled from a backup: start again with --restore FILE, which begins anew, or \
         empty the directory", .dir.display()
    )]
    HalfRestored {
        /// The data directory.
        dir: PathBuf,
    },
    /// There is data without a name.
    #[error(
        "{} has a log or snapshots, and no {FILE}: restore that file, or empty the directory \
         if this replica is new", .dir.display()
    )]
    Nameless {
        /// The data directory.
        dir: PathBuf,
    },
}

/// What a directory calls itself, by its file; or what is wrong with that.
fn nonce_of(bytes: &[u8]) -> Result<String, &'static str> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is no text")?.trim();
    match text {
        "" => Err("it is empty"),
        _ if text.len() > NONCE_BYTES_MAX => Err("it is too long"),
        _ if !text.bytes().all(|byte| byte.is_ascii_graphic()) => Err("it is more than one word"),
        _ => Ok(text.to_owned()),
    }
}

/// A peer list as it is written on a command line.
pub(crate) fn list(peers: &BTreeMap<u64, String>) -> String {
    let peers: Vec<String> = peers.iter().map(|(id, peer)| format!("{id}={peer}")).collect();
    peers.join(",")
}

impl Identity {
    pub(crate) fn new(id: u64, initial_cluster: BTreeMap<u64, String>, token: &str) -> Self {
        let seed = format!("romana cluster\n{token}\n{}", list(&initial_cluster));
        let cluster_id = short(&seed);
        Self { cluster_id, id, initial_cluster, restored: None, nonce: None }
    }

    /// A replica that joins a cluster, under the id that it was given there.
    pub(crate) fn joining(cluster_id: String, id: u64) -> Self {
        let initial_cluster = BTreeMap::new();
        Self { cluster_id, id, initial_cluster, restored: None, nonce: None }
    }

    /// With the name that the data directory has for itself, which is made if there is none.
    pub(crate) fn named(mut self, dir: &Path) -> Result<Self, IdentityError> {
        let path = dir.join(NONCE);
        let nonce = match fs::read(&path) {
            Ok(bytes) => nonce_of(&bytes).map_err(|why| IdentityError::Nonce { path, why })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let nonce = format!("{:032x}", random::<u128>());
                let written = durable::put(&path, nonce.as_bytes());
                written.map_err(|failed| IdentityError::Io { path, source: failed.source })?;
                nonce
            }
            Err(source) => return Err(IdentityError::Io { path, source }),
        };
        self.nonce = Some(nonce);
        Ok(self)
    }

    /// Whose its log is, once the data directory has a name.
    pub(crate) fn owner(&self) -> Option<wal::Owner> {
        let nonce = self.nonce.as_ref()?;
        let digest = Digest::of(format!("romana log\n{}\n{nonce}", self.cluster_id).as_bytes());
        let tag = *digest.0.first_chunk()?;
        Some(wal::Owner { member: self.id, tag })
    }

    /// The same replica, of the cluster that is restored from a backup.
    pub(crate) fn restored_from(mut self, backup: Digest) -> Self {
        self.cluster_id = short(&format!("romana restore\n{}\n{backup}", self.cluster_id));
        self.restored = Some(backup);
        self
    }

    /// Who the data directory belongs to, if anybody.
    pub(crate) fn load(dir: &Path) -> Result<Option<Self>, IdentityError> {
        let path = dir.join(FILE);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|source| IdentityError::Damaged { path, source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(IdentityError::Io { path, source }),
        }
    }

    pub(crate) fn check_initial(&self) -> Result<(), IdentityError> {
        if self.initial_cluster.contains_key(&self.id) {
            return Ok(());
        }
        Err(IdentityError::NotInitial { id: self.id, peers: list(&self.initial_cluster) })
    }

    /// Compares with what the data directory says, or writes it there on the first start.
    /// `has_data` says whether there is a log or a snapshot. Returns the whole identity: that a
    /// cluster was restored is known to its data alone.
    pub(crate) fn claim(self, dir: &Path, has_data: bool) -> Result<Self, IdentityError> {
        self.check_initial()?;
        match Self::load(dir)? {
            Some(stored) => {
                let own = match stored.restored {
                    Some(backup) => self.restored_from(backup),
                    None => self,
                };
                own.compare(&stored, dir)?;
                stored.named(dir)
            }
            None if fs::exists(dir.join(RESTORING)).unwrap_or(false) => {
                Err(IdentityError::HalfRestored { dir: dir.into() })
            }
            None if has_data => Err(IdentityError::Nameless { dir: dir.into() }),
            None => {
                let path = dir.join(FILE);
                self.write(dir).map_err(|source| IdentityError::Io { path, source })?;
                self.named(dir)
            }
        }
    }

    pub(crate) fn compare(&self, stored: &Self, dir: &Path) -> Result<(), IdentityError> {
        let dir = dir.to_path_buf();
        if stored.id != self.id {
            return Err(IdentityError::OtherId { dir, theirs: stored.id, ours: self.id });
        }
        if stored.initial_cluster != self.initial_cluster {
            let (theirs, ours) = (list(&stored.initial_cluster), list(&self.initial_cluster));
            return Err(IdentityError::OtherPeers { dir, theirs, ours });
        }
        if stored.cluster_id != self.cluster_id {
            let (theirs, ours) = (stored.cluster_id.clone(), self.cluster_id.clone());
            return Err(IdentityError::OtherCluster { dir, theirs, ours });
        }
        Ok(())
    }

    pub(crate) fn write(&self, dir: &Path) -> io::Result<()> {
        Ok(durable::put(&dir.join(FILE), &serde_json::to_vec_pretty(self)?)?)
    }
}

/// The first 16 digits of the digest of a text.
fn short(seed: &str) -> String {
    let mut id = Digest::of(seed.as_bytes()).to_string();
    id.truncate(16);
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(text: &[&str]) -> BTreeMap<u64, String> {
        (1..).zip(text.iter().map(ToString::to_string)).collect()
    }

    #[test]
    fn data_belongs_to_one_replica_of_one_cluster() {
        let dir = tempfile::tempdir().unwrap();
        let claim = |id, list: &[&str], token| {
            Identity::new(id, peers(list), token).claim(dir.path(), false)
        };
        claim(1, &["a:1", "b:1"], "").unwrap();
        claim(1, &["a:1", "b:1"], "").unwrap();
        assert!(matches!(claim(2, &["a:1", "b:1"], ""), Err(IdentityError::OtherId { .. })));
        assert!(matches!(claim(1, &["a:1", "c:1"], ""), Err(IdentityError::OtherPeers { .. })));
        let other = claim(1, &["a:1", "b:1"], "new").unwrap_err();
        assert!(matches!(other, IdentityError::OtherCluster { .. }));
        assert!(matches!(claim(3, &["a:1", "b:1"], ""), Err(IdentityError::NotInitial { .. })));
    }

    #[test]
    fn a_restored_replica_is_known_by_its_data() {
        let dir = tempfile::tempdir().unwrap();
        let new = || Identity::new(1, peers(&["a:1"]), "t");
        let restored = new().restored_from(Digest::of(b"backup"));
        assert_ne!(restored.cluster_id, new().cluster_id);
        assert_ne!(restored.cluster_id, new().restored_from(Digest::of(b"other")).cluster_id);
        restored.write(dir.path()).unwrap();
        let claimed = new().claim(dir.path(), true).unwrap();
        assert_eq!(new().claim(dir.path(), true).unwrap(), claimed);
        assert!(claimed.nonce.is_some());
        assert_eq!(Identity { nonce: None, ..claimed }, restored);
        let other = Identity::new(1, peers(&["a:1"]), "u").claim(dir.path(), true).unwrap_err();
        assert!(matches!(other, IdentityError::OtherCluster { .. }));
    }

    #[test]
    fn data_without_a_name_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let claimed = Identity::new(1, peers(&["a:1"]), "").claim(dir.path(), true);
        assert!(matches!(claimed, Err(IdentityError::Nameless { .. })));
    }
}
