//! Reads Raft's files of a replica that does not run, in terms that do not depend on openraft.

use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use openraft::EntryPayload;
use romana_statemachine::{Entry, Index, State, Term};

use crate::raft::store::codec::{read_entry, unpack};
use crate::raft::store::snapshot::SnapshotStore;
use crate::raft::store::types::{LogId, Vote};

/// A state and the last entry it covers; `None` for a new cluster.
pub(crate) type Stored = (State, Option<(Term, Index)>);

fn place(id: LogId) -> (Term, Index) {
    (Term(id.leader_id.term), Index(id.index))
}

/// The newest intact snapshot of a cluster in a directory.
pub(crate) fn newest_snapshot(dir: PathBuf, cluster: &str) -> io::Result<Option<Stored>> {
    let newest = SnapshotStore::open(dir, cluster.into())?.newest()?.newest;
    Ok(newest.map(|(file, state)| (state, file.head().last.map(place))))
}

/// The term of a vote.
pub(crate) fn voted(vote: &[u8]) -> io::Result<Term> {
    let vote: Vote = unpack("vote", vote)?;
    Ok(Term(vote.leader_id.term))
}

/// The term of a log entry, and its commands, unless it is one of Raft's own entries.
pub(crate) fn commands(entry: Bytes) -> io::Result<(Term, Option<Entry>)> {
    let entry = read_entry(entry)?;
    let commands = match &entry.payload {
        EntryPayload::Normal(payload) => Some(unpack("log entry", &payload.0)?),
        EntryPayload::Blank | EntryPayload::Membership(_) => None,
    };
    Ok((Term(entry.log_id.leader_id.term), commands))
}
