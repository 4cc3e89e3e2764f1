//! Identity of a data directory: it belongs to one replica of one cluster, permanently.
//!
//! A Raft replica that comes back under another id, or among peers other than those it voted with, can undo what was
//! committed. So the first start records the identity, and later starts with a different one are refused.
//!
//! The cluster id is derived from the initial peers and an optional token, so that replicas agree on it in any order
//! of starting, without communication. To create a new cluster at the addresses of an old one, set a new token. The
//! id of a restored cluster also includes the digest of the backup, so that replicas that were restored from
//! different files, or not at all, refuse each other.

mod join;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use romana_statemachine::Digest;
use romana_storage::durable::{Disk, Files};
use romana_storage::platform::fs;
use romana_storage::platform::random;
use romana_storage::wal;
use serde::{Deserialize, Serialize};

pub use join::{Owner, join, owner};

const FILE: &str = "identity.json";
const NONCE: &str = "nonce";
/// Maximum length of a nonce.
const NONCE_BYTES_MAX: usize = 64;

/// Identity of a replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    pub(crate) cluster_id: String,
    pub(crate) id: u64,
    pub(crate) initial_cluster: BTreeMap<u64, String>,
    /// Digest of the backup from which the cluster was restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) restored: Option<Digest>,
    /// Random id of this data directory, chosen when it is new: it distinguishes a replica that lost its data from
    /// the previous one with the same id. Stored in a separate file, which programs before version 2 ignore.
    #[serde(skip)]
    pub(crate) nonce: Option<String>,
}

/// Marker file that exists while a directory is being filled from a backup.
pub(crate) const RESTORING: &str = "restoring";

/// Why a data directory is refused.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file cannot be read or written.
    #[error("{}", .path.display())]
    Io { path: PathBuf, source: io::Error },
    /// The file exists but does not parse.
    #[error("{} does not parse: it is damaged, or of a later version; restore it from a backup", .path.display())]
    Damaged { path: PathBuf, source: serde_json::Error },
    /// The nonce is invalid.
    #[error("{} should hold what this data directory calls itself, a word that was made when it was new: {why}", .path.display())]
    Nonce { path: PathBuf, why: &'static str },
    /// `--id` and the data differ.
    #[error(
        "{} holds the data of replica {theirs}, and this is replica {ours}: start it with \
         --id {theirs}, or give replica {ours} a data directory of its own", .dir.display()
    )]
    OtherId {
        dir: PathBuf,
        /// Id in the data directory.
        theirs: u64,
        /// Configured id.
        ours: u64,
    },
    /// The founders, by `--initial-cluster` or `--dev`, and the data differ.
    #[error(
        "{} holds the data of a cluster that began with {theirs}, and this replica is told that it \
         began with {ours}: put the old list back, which is --initial-cluster or, with --dev, the address \
         of --peer-listen (members that came later are in the data)", .dir.display()
    )]
    OtherPeers {
        dir: PathBuf,
        /// List in the data directory.
        theirs: String,
        /// Configured list.
        ours: String,
    },
    /// The cluster token and the data differ.
    #[error(
        "{} holds the data of cluster {theirs}, and this is cluster {ours}: put the old \
         --cluster-token back, or start the new cluster with empty data directories", .dir.display()
    )]
    OtherCluster {
        dir: PathBuf,
        /// Cluster in the data directory.
        theirs: String,
        /// Configured cluster.
        ours: String,
    },
    /// The replica is not in its own list.
    #[error("replica {id} is not in --initial-cluster {peers}: add it, with its peer address")]
    NotInitial {
        /// Configured id.
        id: u64,
        /// Configured list.
        peers: String,
    },
    /// A restore was interrupted.
    #[error(
        "{} is half filled from a backup: start again with --restore FILE, which begins anew, or \
         empty the directory", .dir.display()
    )]
    HalfRestored { dir: PathBuf },
    /// There is data without an identity.
    #[error(
        "{} has a log or snapshots, and no {FILE}: restore that file, or empty the directory \
         if this replica is new", .dir.display()
    )]
    Nameless { dir: PathBuf },
}

/// Parses a nonce file; an error says what is wrong with it.
fn nonce_of(bytes: &[u8]) -> Result<String, &'static str> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is no text")?.trim();
    match text {
        "" => Err("it is empty"),
        _ if text.len() > NONCE_BYTES_MAX => Err("it is too long"),
        _ if !text.bytes().all(|byte| byte.is_ascii_graphic()) => Err("it is more than one word"),
        _ => Ok(text.to_owned()),
    }
}

/// Formats a peer list as on the command line.
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

    /// Identity of a replica that joins a cluster, with the id it was assigned there.
    pub(crate) fn joining(cluster_id: String, id: u64) -> Self {
        let initial_cluster = BTreeMap::new();
        Self { cluster_id, id, initial_cluster, restored: None, nonce: None }
    }

    /// Adds the nonce of the data directory, which is created if it is missing.
    pub(crate) fn named(mut self, dir: &Path) -> Result<Self, IdentityError> {
        let path = dir.join(NONCE);
        let nonce = match fs::read(&path) {
            Ok(bytes) => nonce_of(&bytes).map_err(|why| IdentityError::Nonce { path, why })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let nonce = format!("{:032x}", random::<u128>());
                let written = Disk.put(&path, nonce.as_bytes());
                written.map_err(|failed| IdentityError::Io { path, source: failed.source })?;
                nonce
            }
            Err(source) => return Err(IdentityError::Io { path, source }),
        };
        self.nonce = Some(nonce);
        Ok(self)
    }

    /// The owner recorded in the log, once the data directory has a nonce.
    pub(crate) fn owner(&self) -> Option<wal::Owner> {
        let nonce = self.nonce.as_ref()?;
        let digest = Digest::of(format!("romana log\n{}\n{nonce}", self.cluster_id).as_bytes());
        let tag = *digest.0.first_chunk()?;
        Some(wal::Owner { member: self.id, tag })
    }

    /// The identity of the same replica in the cluster restored from a backup.
    pub(crate) fn restored_from(mut self, backup: Digest) -> Self {
        self.cluster_id = short(&format!("romana restore\n{}\n{backup}", self.cluster_id));
        self.restored = Some(backup);
        self
    }

    /// The stored identity of a data directory, if there is one.
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

    /// Compares with the stored identity, or stores this one on the first start. `has_data`: whether there is a log
    /// or a snapshot. Returns the full identity: only the stored one says that a cluster was restored.
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
        Ok(Disk.put(&dir.join(FILE), &serde_json::to_vec_pretty(self)?)?)
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
