//! Snapshot transfer to a replica that is too far behind: first the records that its history lacks, then the
//! snapshot. The records come first because a state without its history is not accepted. If the leader's history
//! was purged past the end of the follower's, the follower's history restarts.

use std::io;
use std::time::Duration;

use romana_daemon::error::chain;
use romana_statemachine::{Digest, Record, Revision};
use romana_storage::history::History;
use romana_storage::platform;
use romana_storage::platform::net::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use crate::raft::peer::dial::{Conn, Dialer, is_unknown};
use crate::raft::peer::frame::{FrameReader, FrameWriter};
use crate::raft::peer::message::{Purpose, SnapshotPart, SnapshotReply};
use crate::raft::store::codec::{pack, unpack};
use crate::raft::store::log::Known;
use crate::raft::store::machine::Machine;
use crate::raft::store::machine::Raft;
use crate::raft::store::snapshot::Incoming;
use crate::raft::store::snapshot::SnapshotOf;
use crate::raft::store::types::{SnapshotMeta, Vote};

type Reader = FrameReader<OwnedReadHalf>;
type Writer = FrameWriter<OwnedWriteHalf>;

const CHUNK_BYTES: usize = 1 << 20;
const RECORDS_MAX: usize = 4096;
/// The transfer is aborted when sending one part takes longer.
const STALL_MAX: Duration = Duration::from_secs(10);
/// How often a working follower reports progress.
const WORKING_EVERY: Duration = Duration::from_secs(1);
/// A follower that is silent for longer counts as gone: its machine may have lost power without closing the
/// connection.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Timeout for reading and installing a large snapshot, for a follower that does not report progress.
const INSTALL_MAX: Duration = Duration::from_secs(120);

async fn put(conn: &mut Conn, part: &SnapshotPart) -> io::Result<()> {
    let stalled = || io::Error::new(io::ErrorKind::TimedOut, "the follower does not read");
    timeout(STALL_MAX, conn.writer.send(&pack(part))).await.map_err(|_| stalled())?
}

async fn get<T: for<'a> serde::Deserialize<'a>>(
    reader: &mut Reader,
    within: Duration,
) -> io::Result<T> {
    let stalled = || io::Error::new(io::ErrorKind::TimedOut, "the snapshot transfer stalled");
    let frame = timeout(within, reader.expect()).await.map_err(|_| stalled())??;
    Ok(unpack("part of a snapshot transfer", &frame)?)
}

/// Opens a connection for [`send`]; also returns whether the follower reports progress.
pub(in crate::raft) async fn dial(
    dialer: &Dialer,
    to: u64,
    peer: &str,
    within: Duration,
) -> io::Result<(Conn, bool)> {
    match dialer.dial(to, peer, Purpose::WatchedSnapshot, within).await {
        Ok(conn) => Ok((conn, true)),
        Err(error) if is_unknown(&error) => {
            Ok((dialer.dial(to, peer, Purpose::Snapshot, within).await?, false))
        }
        Err(error) => Err(error),
    }
}

/// Sends a snapshot and the history before it. Returns the follower's vote.
pub(in crate::raft) async fn send(
    (mut conn, watched): (Conn, bool),
    vote: Vote,
    snapshot: &SnapshotOf,
    history: &History,
    known: Known,
) -> io::Result<Vote> {
    let installed = |vote: Vote| known.installed(&vote).map(|()| vote).map_err(io::Error::from);
    let file = snapshot.snapshot.clone();
    let revision = file.head().revision;
    let (meta, bytes) = (snapshot.meta.clone(), file.bytes());
    put(&mut conn, &SnapshotPart::Begin { vote, meta, revision, bytes }).await?;
    let has = match get(&mut conn.reader, ANSWER_MAX).await? {
        SnapshotReply::History { revision, .. } => revision,
        SnapshotReply::Installed { vote } => return installed(vote),
        SnapshotReply::Failed(why) => return Err(io::Error::other(why)),
        SnapshotReply::Working => return Err(out_of_step()),
    };
    known.revision(has)?;
    let mut next = restart(&mut conn, history, has, revision).await?.unwrap_or(has).next();
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
        next = last.revision.next();
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
    let patience = if watched { ANSWER_MAX } else { INSTALL_MAX };
    loop {
        match get(&mut conn.reader, patience).await? {
            SnapshotReply::Installed { vote } => return installed(vote),
            SnapshotReply::Failed(why) => return Err(io::Error::other(why)),
            SnapshotReply::History { .. } => return Err(out_of_step()),
            SnapshotReply::Working => {}
        }
    }
}

fn out_of_step() -> io::Error {
    io::Error::other("the follower is out of step")
}

/// If the follower's history ends before this replica's begins, tells the follower to restart it after the record
/// before the first one kept here, and returns that record's revision.
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

/// The sender of a snapshot.
#[derive(Clone, Copy, Debug)]
pub(in crate::raft) struct Leader {
    pub(in crate::raft) id: u64,
    /// What this replica knows, for plausibility checks.
    pub(in crate::raft) known: Known,
    /// It expects progress reports.
    pub(in crate::raft) watched: bool,
}

/// Receives a snapshot on the follower, and hands it to Raft.
pub(in crate::raft) async fn receive(
    conn: Conn,
    leader: Leader,
    raft: &Raft,
    machine: &Machine,
) -> io::Result<()> {
    let Conn { mut reader, mut writer } = conn;
    let begin = get(&mut reader, STALL_MAX).await?;
    let SnapshotPart::Begin { vote, meta, revision, bytes } = begin else {
        return Err(io::Error::other("a snapshot transfer begins with its end"));
    };
    leader.known.snapshot(leader.id, &vote, &meta, revision)?;
    tracing::info!(revision = revision.get(), bytes, "receiving a snapshot");
    let end = machine.history().last();
    let (has, digest) = end;
    writer.send(&pack(&SnapshotReply::History { revision: has, digest })).await?;
    let announced = Announced { vote, meta: &meta, revision, bytes };
    let install = install(&mut reader, (raft, machine), end, announced);
    let installed =
        if leader.watched { at_work(&mut writer, install).await? } else { install.await };
    let reply = match installed {
        Ok(vote) => SnapshotReply::Installed { vote },
        Err(error) => {
            let why = chain(&error);
            tracing::warn!(%why, revision = revision.get(), "cannot install the snapshot");
            SnapshotReply::Failed(why)
        }
    };
    writer.send(&pack(&reply)).await
}

/// Runs the work, and reports progress until it is done.
async fn at_work<T>(writer: &mut Writer, work: impl Future<Output = T>) -> io::Result<T> {
    tokio::pin!(work);
    loop {
        match timeout(WORKING_EVERY, &mut work).await {
            Ok(done) => return Ok(done),
            Err(_) => writer.send(&pack(&SnapshotReply::Working)).await?,
        }
    }
}

/// The sender's announcement.
struct Announced<'a> {
    vote: Vote,
    meta: &'a SnapshotMeta,
    /// Revision of the snapshot.
    revision: Revision,
    /// Length of the snapshot, in bytes.
    bytes: u64,
}

async fn install(
    reader: &mut Reader,
    (raft, machine): (&Raft, &Machine),
    mut end: (Revision, Digest),
    Announced { vote, meta, revision: upto, bytes }: Announced<'_>,
) -> io::Result<Vote> {
    let mut left = bytes;
    let store = machine.snapshots().clone();
    let mut incoming = blocking(move || store.incoming().map_err(io::Error::from)).await?;
    loop {
        match get(reader, STALL_MAX).await? {
            SnapshotPart::Records(records) => {
                end = continues(end, &records)?;
                if end.0 > upto {
                    return Err(beyond("records"));
                }
                let history = machine.history().clone();
                blocking(move || history.append(&records).map_err(io::Error::other)).await?;
            }
            SnapshotPart::Restart { revision, .. } if revision > upto => {
                return Err(beyond("a history that begins"));
            }
            SnapshotPart::Restart { revision, digest } => {
                end = begin_anew(machine, end.0, (revision, digest)).await?;
            }
            SnapshotPart::Chunk(chunk) => {
                let rest = left.checked_sub(chunk.len() as u64);
                left = rest.ok_or_else(|| beyond("bytes"))?;
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

fn beyond(what: &str) -> io::Error {
    let why = format!("the leader sends {what} beyond the end of the snapshot that it announced");
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Discards a history that ends before the leader's begins. The records that follow must lead from `start` to the
/// snapshot's digest, otherwise the snapshot is not installed.
async fn begin_anew(
    machine: &Machine,
    has: Revision,
    start: (Revision, Digest),
) -> io::Result<(Revision, Digest)> {
    if start.0 <= has {
        let why = format!("told to begin after {}, but the history here ends at {has}", start.0);
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    tracing::warn!(
        has = has.get(),
        oldest = start.0.next().get(),
        "the leader no longer keeps history that old: restarting the local history"
    );
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
        if record.revision != revision.next() || !record.follows(&digest) {
            let why = format!("record {} does not continue the history", record.revision);
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        (revision, digest) = (record.revision, record.digest);
    }
    Ok((revision, digest))
}

/// Runs blocking work on another thread; an error of the work or of that thread.
pub(in crate::raft) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    platform::blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::oneshot;

    use super::*;
    use crate::raft::peer::dial::Directory;
    use crate::raft::peer::message::{Handshake, HandshakeReply};

    async fn pair() -> (Conn, Conn) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (there, _) = listener.accept().await.unwrap();
        (Conn::new(here).unwrap(), Conn::new(there).unwrap())
    }

    #[tokio::test]
    async fn who_works_says_so() {
        let (mut leader, mut follower) = pair().await;
        let (finish, work) = oneshot::channel();
        let listen = async {
            for _ in 0..2 {
                let reply = get(&mut leader.reader, ANSWER_MAX).await.unwrap();
                assert!(matches!(reply, SnapshotReply::Working));
            }
            finish.send(7).unwrap();
        };
        let (done, ()) = tokio::join!(at_work(&mut follower.writer, work), listen);
        assert_eq!(done.unwrap(), Ok(7));
    }

    /// An older release closes a connection with an unknown purpose.
    #[tokio::test]
    async fn an_older_follower_is_not_watched() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = listener.local_addr().unwrap().to_string();
        let follower = tokio::spawn(async move {
            loop {
                let mut conn = Conn::new(listener.accept().await.unwrap().0).unwrap();
                let hello = conn.reader.expect().await.unwrap();
                let hello: Handshake = unpack("hello", &hello).unwrap();
                if hello.purpose != Purpose::WatchedSnapshot {
                    let welcome = HandshakeReply::Accept { api: String::new() };
                    conn.writer.send(&pack(&welcome)).await.unwrap();
                    return hello.purpose;
                }
            }
        });
        let dialer = Dialer::new("c".into(), 1, String::new(), Directory::default());
        let (_, watched) = dial(&dialer, 2, &peer, Duration::from_secs(5)).await.unwrap();
        assert!(!watched);
        assert_eq!(follower.await.unwrap(), Purpose::Snapshot);
    }
}
