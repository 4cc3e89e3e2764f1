//! Where a cluster begins that was restored: everything up to its first entry is in a snapshot, and the log goes on
//! after it. To Raft it looks like any log whose first entry was purged.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::mpsc;

use bytes::Bytes;
use romana_statemachine::State;
use romana_storage::durable::{Failed, sync_parent};
use romana_storage::wal::{Done, Wal, WalError, WalOptions};

use crate::identity::Identity;
use crate::raft::store::codec::pack;
use crate::raft::store::snapshot::SnapshotStore;
use crate::raft::store::types::{LogId, Member, Membership, Vote};

/// Where the log begins: everything up to here is in the first snapshot.
const BEGIN: u64 = 1;
/// The term in which it begins. The first election is of the next one.
const TERM: u64 = 1;

/// Why a directory cannot be made to begin like this.
#[derive(Debug)]
pub(crate) enum SeedError {
    /// A file cannot be written.
    Io { what: String, source: io::Error },
    /// The log cannot be written.
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

/// Writes the snapshot that the cluster begins with, and the log after it, into a data directory that has neither.
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
    // All replicas say the same: as if this one had led the term in which the log begins.
    let first = voters.first().copied().unwrap_or(identity.id);
    let membership = openraft::Membership::new(vec![voters], nodes)
        .map_err(|error| io("make the first membership")(io::Error::other(error)))?;
    let membership = Membership::new(Some(begin), membership);
    let snapshots = SnapshotStore::open(dir.join("snapshots"), identity.cluster_id.clone());
    snapshots
        .and_then(|snapshots| snapshots.write(state, Some(begin), membership))
        .map_err(|error| io("write the first snapshot")(error.into()))?;
    // A start makes the mark where it belongs; here it goes with the log if this is done again.
    let options = WalOptions { segment_bytes, mark: None, owner: None };
    let (wal, _) = Wal::open(&dir.join("wal"), options).map_err(SeedError::Wal)?;
    let vote = Bytes::from(pack(&Vote::new(TERM, first)));
    durable(|done| wal.save_vote(vote, done))?;
    durable(|done| wal.purge(BEGIN, Bytes::from(pack(&begin)), done))?;
    Ok(sync_parent(&dir.join("wal"))?)
}

/// Waits until a change of the log is durable.
fn durable(change: impl FnOnce(Done)) -> Result<(), SeedError> {
    let (send, done) = mpsc::channel();
    change(Box::new(move |result| _ = send.send(result)));
    let lost = || io::Error::other("the writer of the log has ended");
    done.recv().unwrap_or_else(|_| Err(lost())).map_err(io("write the log"))
}
