//! Bringing a replica that is too far behind up to date: first the records that its history lacks,
//! then the snapshot. Records come before, because a state without its history is not accepted.
//! Where the leader's history was purged past the end of the follower's, the follower's begins anew.

use std::io;
use std::time::Duration;

use romana_statemachine::{Digest, Record, Revision};
use tokio::time::timeout;

use super::codec::{pack, unpack};
use super::dial::Conn;
use super::machine::{Machine, chain};
use super::message::{SnapshotPart, SnapshotReply};
use super::snapshot::Incoming;
use super::types::{Raft, SnapshotMeta, SnapshotOf, Vote};
use crate::history::History;
use crate::platform;

const CHUNK_BYTES: usize = 1 << 20;
const RECORDS_MAX: usize = 4096;
/// A part that takes longer than this to pass ends the transfer.
const STALL_MAX: Duration = Duration::from_secs(10);
/// Reading a large snapshot and installing it.
const INSTALL_MAX: Duration = Duration::from_secs(120);

async fn put(conn: &mut Conn, part: &SnapshotPart) -> io::Result<()> {
    let stalled = || io::Error::new(io::ErrorKind::TimedOut, "the follower does not read");
    timeout(STALL_MAX, conn.writer.send(&pack(part))).await.map_err(|_| stalled())?
}

async fn get<T: for<'a> serde::Deserialize<'a>>(
    conn: &mut Conn,
    within: Duration,
) -> io::Result<T> {
    let stalled = || io::Error::new(io::ErrorKind::TimedOut, "the snapshot transfer stalled");
    let frame = timeout(within, conn.reader.expect()).await.map_err(|_| stalled())??;
    Ok(unpack("part of a snapshot transfer", &frame)?)
}

/// Sends a snapshot and the history before it. Returns the follower's vote.
pub(super) async fn send(
    mut conn: Conn,
    vote: Vote,
    snapshot: &SnapshotOf,
    history: &History,
) -> io::Result<Vote> {
    let file = snapshot.snapshot.clone();
    let revision = file.head().revision;
    let (meta, bytes) = (snapshot.meta.clone(), file.bytes());
    put(&mut conn, &SnapshotPart::Begin { vote, meta, revision, bytes }).await?;
    let has = match get(&mut conn, STALL_MAX).await? {
        SnapshotReply::History { revision, .. } => revision,
        SnapshotReply::Installed { vote } => return Ok(vote),
        SnapshotReply::Failed(why) => return Err(io::Error::other(why)),
    };
    let mut next = restart(&mut conn, history, has, revision).await?.unwrap_or(has) + 1;
    while next <= revision {
        let history = history.clone();
        let read = move || history.read(next, RECORDS_MAX, CHUNK_BYTES);
        let read = platform::blocking(read).await.map_err(io::Error::other)?;
        let mut records = read.map_err(io::Error::other)?;
        records.retain(|record| record.revision <= revision);
        let Some(last) = records.last() else {
            let why = format!("the history ends before revision {revision} of the snapshot");
            return Err(io::Error::other(why));
        };
        next = last.revision + 1;
        put(&mut conn, &SnapshotPart::Records(records)).await?;
    }
    let mut at = 0;
    while at < bytes {
        let file = file.clone();
        let read = platform::blocking(move || file.read_at(at, CHUNK_BYTES));
        let chunk = read.await.map_err(io::Error::other)??;
        at += chunk.len() as u64;
        put(&mut conn, &SnapshotPart::Chunk(chunk)).await?;
    }
    put(&mut conn, &SnapshotPart::End).await?;
    match get(&mut conn, INSTALL_MAX).await? {
        SnapshotReply::Installed { vote } => Ok(vote),
        SnapshotReply::Failed(why) => Err(io::Error::other(why)),
        SnapshotReply::History { .. } => Err(io::Error::other("the follower is out of step")),
    }
}

/// When the follower's history ends before what is kept here: tells it to begin anew after the record
/// before ours, whose revision is returned.
async fn restart(
    conn: &mut Conn,
    history: &History,
    has: Revision,
    snapshot: Revision,
) -> io::Result<Option<Revision>> {
    let (revision, digest) = history.start();
    if has >= revision {
        return Ok(None);
    }
    if revision > snapshot {
        let why = format!("the history after the snapshot of revision {snapshot} was purged");
        return Err(io::Error::other(why));
    }
    put(conn, &SnapshotPart::Restart { revision, digest }).await?;
    Ok(Some(revision))
}

/// Receives a snapshot on the follower's side, and hands it to Raft.
pub(super) async fn receive(mut conn: Conn, raft: &Raft, machine: &Machine) -> io::Result<()> {
    let SnapshotPart::Begin { vote, meta, revision, bytes } = get(&mut conn, STALL_MAX).await?
    else {
        return Err(io::Error::other("a snapshot transfer begins with its end"));
    };
    tracing::info!(revision, bytes, "a snapshot is coming");
    let reply = match install(&mut conn, raft, machine, vote, &meta).await {
        Ok(vote) => SnapshotReply::Installed { vote },
        Err(error) => {
            let why = chain(&error);
            tracing::warn!(%why, revision, "snapshot not installed");
            SnapshotReply::Failed(why)
        }
    };
    conn.writer.send(&pack(&reply)).await
}

async fn install(
    conn: &mut Conn,
    raft: &Raft,
    machine: &Machine,
    vote: Vote,
    meta: &SnapshotMeta,
) -> io::Result<Vote> {
    let (revision, digest) = machine.history().last();
    conn.writer.send(&pack(&SnapshotReply::History { revision, digest })).await?;
    let mut end = (revision, digest);
    let store = machine.snapshots().clone();
    let mut incoming = blocking(move || store.incoming().map_err(io::Error::from)).await?;
    loop {
        match get(conn, STALL_MAX).await? {
            SnapshotPart::Records(records) => {
                end = continues(end, &records)?;
                let history = machine.history().clone();
                blocking(move || history.append(&records).map_err(io::Error::other)).await?;
            }
            SnapshotPart::Restart { revision, digest } => {
                end = begin_anew(machine, end.0, (revision, digest)).await?;
            }
            SnapshotPart::Chunk(chunk) => {
                incoming = blocking(move || write(incoming, &chunk)).await?;
            }
            SnapshotPart::End => break,
            SnapshotPart::Begin { .. } => return Err(io::Error::other("it begins twice")),
        }
    }
    let file = blocking(move || incoming.finish().map_err(io::Error::from)).await?;
    if file.meta() != *meta {
        return Err(io::Error::other("the file is another snapshot than was announced"));
    }
    let snapshot = SnapshotOf { meta: meta.clone(), snapshot: file };
    let installed = raft.install_full_snapshot(vote, snapshot).await;
    installed.map(|response| response.vote).map_err(io::Error::other)
}

/// Gives up a history that ends before what the leader keeps begins. What comes must lead from
/// `start` to the snapshot's digest, or the snapshot is not installed.
async fn begin_anew(
    machine: &Machine,
    has: Revision,
    start: (Revision, Digest),
) -> io::Result<(Revision, Digest)> {
    if start.0 <= has {
        let why = format!("told to begin after {}, but the history here ends at {has}", start.0);
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    tracing::warn!(has, oldest = start.0 + 1, "the leader keeps no history so old: beginning anew");
    let history = machine.history().clone();
    blocking(move || history.reset(start.0, start.1).map_err(io::Error::other)).await?;
    Ok(start)
}

fn write(mut incoming: Incoming, chunk: &[u8]) -> io::Result<Incoming> {
    incoming.write(chunk)?;
    Ok(incoming)
}

/// Checks that records continue a history, and returns its new end.
fn continues(
    (mut revision, mut digest): (Revision, Digest),
    records: &[Record],
) -> io::Result<(Revision, Digest)> {
    for record in records {
        if record.revision != revision + 1 || !record.follows(&digest) {
            let why = format!("record {} does not continue the history", record.revision);
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        (revision, digest) = (record.revision, record.digest);
    }
    Ok((revision, digest))
}

/// An error of the work, or of the thread that did it.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    platform::blocking(work).await.map_err(io::Error::other)?
}
