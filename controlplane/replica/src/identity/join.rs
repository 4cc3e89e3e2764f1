//! Joining an existing cluster: the cluster assigns the id before the replica starts.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::{Identity, IdentityError};

/// The owner of a data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub id: u64,
    /// The founding members that it knows; empty if it joined later.
    pub initial_cluster: BTreeMap<u64, String>,
}

/// The owner of a data directory, if it has one.
///
/// # Errors
/// [`IdentityError`]: this cannot be determined.
pub fn owner(dir: &Path) -> Result<Option<Owner>, IdentityError> {
    let owner = |Identity { id, initial_cluster, .. }| Owner { id, initial_cluster };
    Ok(Identity::load(dir)?.map(owner))
}

/// Initializes an empty data directory for a replica that joins a cluster.
///
/// # Errors
/// [`IdentityError`]: it already has an owner, is not empty, or cannot be written.
pub fn join(dir: &Path, cluster_id: String, id: u64) -> Result<(), IdentityError> {
    let io = |source| IdentityError::Io { path: dir.into(), source };
    fs::create_dir_all(dir).map_err(io)?;
    let has =
        |name: &str| fs::read_dir(dir.join(name)).is_ok_and(|mut entries| entries.next().is_some());
    let own = Identity::joining(cluster_id, id);
    if let Some(stored) = Identity::load(dir)? {
        return own.compare(&stored, dir);
    }
    if has("wal") || has("snapshots") {
        return Err(IdentityError::Nameless { dir: dir.into() });
    }
    own.write(dir).map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_given_once() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        assert_eq!(owner(&data).unwrap(), None);
        join(&data, "c".into(), 4).unwrap();
        let owned = Owner { id: 4, initial_cluster: BTreeMap::new() };
        assert_eq!(owner(&data).unwrap(), Some(owned));
        join(&data, "c".into(), 4).unwrap();
        let other = join(&data, "c".into(), 5).unwrap_err();
        assert!(matches!(other, IdentityError::OtherId { .. }), "{other}");
        let nameless = dir.path().join("nameless");
        fs::create_dir_all(nameless.join("wal/1")).unwrap();
        let refused = join(&nameless, "c".into(), 4).unwrap_err();
        assert!(matches!(refused, IdentityError::Nameless { .. }), "{refused}");
    }
}
