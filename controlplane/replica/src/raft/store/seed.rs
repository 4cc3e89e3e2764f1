//! Seeds a restored cluster: the first snapshot covers everything up to the first entry, and the log continues after
//! it. To Raft this looks like a log whose first entry was purged.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::mpsc;

use bytes::Bytes;
use romana_statemachine::State;
use romana_storage::durable::{Disk, Failed, Files};
use romana_storage::wal::{Done, Wal, WalError, WalOptions};

use crate::identity::Identity;
use crate::raft::store::codec::pack;
use crate::raft::store::snapshot::SnapshotStore;
use crate::raft::store::types::{LogId, Member, Membership, Vote};

/// First index of the log: the first snapshot covers everything up to here.
const BEGIN: u64 = 1;
/// Term of that entry. The first election is in the next term.
const TERM: u64 = 1;

/// Why a directory cannot be seeded.
#[derive(Debug)]
pub(crate) enum SeedError {
    Io { what: String, source: io::Error },
    Wal(WalError),
}

impl From<Failed> for SeedError {
    fn from(Failed { action, path, source }: Failed) -> Self {
        Self::Io { what: format!("{action} {}", path.display()), source }
    }
}

fn io(what: &str) -> impl FnOnce(io::Error) -> SeedError {
    let what = what.to_owned();
    move |source| SeedError::Io { what, source }
}

/// Writes the initial snapshot and the log after it into a data directory that has neither.
pub(crate) fn seed(
    dir: &Path,
    segment_bytes: u64,
    identity: &Identity,
    state: &State,
) -> Result<(), SeedError> {
    let begin = LogId::new_term_index(TERM, BEGIN);
    let nodes: BTreeMap<u64, Member> = identity
        .initial_cluster
        .iter()
        .map(|(id, peer)| (*id, Member { peer: peer.clone() }))
        .collect();
    let voters: BTreeSet<u64> = nodes.keys().copied().collect();
    // Must be the same on all replicas: write it as if this voter had led the first term.
    let first = voters.first().copied().unwrap_or(identity.id);
    let membership = openraft::Membership::new(vec![voters], nodes)
        .map_err(|error| io("make the first membership")(io::Error::other(error)))?;
    let membership = Membership::new(Some(begin), membership);
    let snapshots = SnapshotStore::open(dir.join("snapshots"), identity.cluster_id.clone());
    snapshots
        .and_then(|snapshots| snapshots.write(state, Some(begin), membership))
        .map_err(|error| io("write the first snapshot")(error.into()))?;
    // The high-water mark is created at the first start; without one here, the log can be seeded again.
    let options = WalOptions { segment_bytes, mark: None, owner: None };
    let (wal, _) = Wal::open(&dir.join("wal"), options).map_err(SeedError::Wal)?;
    let vote = Bytes::from(pack(&Vote::new(TERM, first)));
    durable(|done| wal.save_vote(vote, done))?;
    durable(|done| wal.purge(BEGIN, Bytes::from(pack(&begin)), done))?;
    Ok(Disk.sync_parent(&dir.join("wal"))?)
}

/// Waits until a change of the log is durable.
fn durable(change: impl FnOnce(Done)) -> Result<(), SeedError> {
    let (send, done) = mpsc::channel();
    change(Box::new(move |result| _ = send.send(result)));
    let lost = || io::Error::other("the writer of the log has ended");
    done.recv().unwrap_or_else(|_| Err(lost())).map_err(io("write the log"))
}
