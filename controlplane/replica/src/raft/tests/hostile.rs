//! A hostile peer: forged numbers, entries that are not consecutive, frames of any length, arbitrary bytes; as a
//! client and as a server.

use bytes::Bytes;
use openraft::EntryPayload;
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest, VoteResponse};
use romana_statemachine::{Digest, Revision, Term};
use romana_storage::wal::{Wal, WalOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::*;
use crate::backup::Salvage;
use crate::metrics::PeerRefusal;
use crate::raft::peer::dial::{Conn, Dialer, Directory};
use crate::raft::peer::message::{
    Appended, Handshake, HandshakeReply, PeerRequest, PeerResponse, PeerStatus, Purpose,
    SnapshotPart,
};
use crate::raft::store::codec::{pack, put_append, unpack};
use crate::raft::store::types::{LogEntry, LogId, Membership, SnapshotMeta, TypeConfig, Vote};

const TIME: Duration = Duration::from_secs(5);
const MAX: u64 = u64::MAX;
/// Just beyond what is plausible for a new cluster.
const FAR: u64 = (1 << 32) + 1_000_000;

/// Opens a connection to replica `to` as `from`.
async fn connect(cluster: &Cluster, from: u64, to: u64, purpose: Purpose) -> Conn {
    let id = cluster.on(to).cluster_id();
    let dialer = Dialer::new(id, from, "http://forged".into(), Directory::default());
    dialer.dial(to, &cluster.peers()[&to], purpose, TIME).await.unwrap()
}

fn id(term: u64, index: u64) -> LogId {
    LogId::new_term_index(term, index)
}

fn append(vote: Vote, prev: LogId, commit: Option<LogId>, ids: &[LogId]) -> Vec<u8> {
    let entry = |id: &LogId| LogEntry { log_id: *id, payload: EntryPayload::Blank };
    let request = AppendEntriesRequest::<TypeConfig> {
        vote,
        prev_log_id: Some(prev),
        entries: ids.iter().map(entry).collect(),
        leader_commit: commit,
    };
    let mut out = bytes::BytesMut::new();
    put_append(&request, &mut out);
    out.to_vec()
}

/// Whether the other side has closed the connection without answering.
async fn is_closed(conn: &mut Conn) -> bool {
    let read =
        tokio::time::timeout(TIME, conn.reader.next()).await.expect("an end of the connection");
    !matches!(read, Ok(Some(_)))
}

/// Waits until the refusal is counted, which happens when its connection has ended.
async fn counted(cluster: &Cluster, on: u64, refused: u64) {
    let refusals = || cluster.on(on).peer_refusals().counted(PeerRefusal::Implausible);
    eventually("a refusal", || (refusals() >= refused).then_some(())).await;
    assert_eq!(refusals(), refused);
}

/// Checks that the cluster still works, in a plausible term.
async fn goes_on(cluster: &Cluster, name: &str) {
    for replica in cluster.running.values() {
        create(replica, &format!("{name}-{}", replica.id())).await;
        replica.reads().linearize(soon()).await.unwrap();
        let term = replica.members().status().term;
        assert!(term < 1_000, "{name}: replica {} is in term {term}", replica.id());
        assert_eq!(replica.health().fault(), None, "{name}");
    }
}

fn questions(to: u64) -> Vec<(&'static str, PeerRequest)> {
    let vote = |term, committed| Vote { committed, ..Vote::new(term, 2) };
    let request = |vote, last| VoteRequest::<TypeConfig>::new(vote, Some(last));
    let transfer = |vote, last| TransferLeaderRequest::new(vote, to, Some(last));
    let forced = VoteRequest { leadership_transfer: true, ..request(vote(MAX, false), id(1, 1)) };
    vec![
        ("vote: term", PeerRequest::Vote(request(vote(MAX, false), id(9, 9_999)))),
        ("vote: a term far ahead", PeerRequest::Vote(request(vote(FAR, false), id(9, 9_999)))),
        ("vote: handed over", PeerRequest::Vote(forced)),
        ("vote: last term", PeerRequest::Vote(request(vote(9, false), id(MAX, 9)))),
        ("vote: last index", PeerRequest::Vote(request(vote(9, false), id(9, MAX)))),
        ("vote: of a leader", PeerRequest::Vote(request(vote(9, true), id(9, 9_999)))),
        ("vote: for another", PeerRequest::Vote(request(Vote::new(9, 3), id(9, 9_999)))),
        ("vote before the vote", PeerRequest::PreVote(request(vote(MAX, false), id(9, 9_999)))),
        ("transfer: term", PeerRequest::Transfer(transfer(vote(MAX, true), id(1, 1)))),
        ("transfer: index", PeerRequest::Transfer(transfer(vote(1, true), id(1, MAX)))),
        ("digest", PeerRequest::DigestAt(Revision(MAX))),
        ("checkpoint", PeerRequest::CheckpointAt(Revision(MAX))),
        ("standing", PeerRequest::StandingAt(Revision(MAX))),
        ("proof", PeerRequest::Prove(Revision(MAX))),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_questions_are_refused_and_said() {
    let cluster = Cluster::started(3).await;
    let mut refused = 0;
    for (what, ask) in questions(1) {
        let mut conn = connect(&cluster, 2, 1, Purpose::Call).await;
        conn.writer.send(&pack(&(1u64, &ask))).await.unwrap();
        assert!(is_closed(&mut conn).await, "{what} was answered");
        refused += 1;
        counted(&cluster, 1, refused).await;
    }
    goes_on(&cluster, "questions").await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_appends_are_refused_and_said() {
    let cluster = Cluster::started(3).await;
    let to = cluster.follower().await;
    let from = 1 + to % 3;
    let vote = |term| Vote::new_committed(term, from);
    let mut refused = 0;
    for (what, request) in [
        ("term", append(vote(MAX), id(1, 1), None, &[])),
        ("a term far ahead", append(vote(FAR), id(1, 1), None, &[])),
        ("not leading", append(Vote::new(9, from), id(1, 1), None, &[])),
        ("in another's name", append(Vote::new_committed(9, to), id(1, 1), None, &[])),
        ("term before", append(vote(9), id(MAX, 1), None, &[])),
        ("index before", append(vote(9), id(1, MAX), None, &[])),
        ("commit", append(vote(9), id(1, 1), Some(id(9, MAX)), &[])),
        ("entry", append(vote(9), id(1, MAX - 1), None, &[id(9, MAX)])),
        ("a hole", append(vote(9), id(1, 1), None, &[id(9, 2), id(9, 4)])),
        ("twice the same", append(vote(9), id(1, 1), None, &[id(9, 2), id(9, 2)])),
        ("terms go back", append(vote(9), id(1, 1), None, &[id(9, 2), id(8, 3)])),
        ("of a later term", append(vote(9), id(1, 1), None, &[id(10, 2)])),
    ] {
        let mut conn = connect(&cluster, from, to, Purpose::Append).await;
        conn.writer.send(&request).await.unwrap();
        assert!(is_closed(&mut conn).await, "{what} was answered");
        refused += 1;
        counted(&cluster, to, refused).await;
    }
    goes_on(&cluster, "appends").await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_snapshots_are_refused_and_said() {
    let cluster = Cluster::started(3).await;
    let to = cluster.follower().await;
    let from = 1 + to % 3;
    let begin = |term, last: LogId, revision| {
        let last_membership = Membership::new(Some(last), openraft::Membership::default());
        let meta = SnapshotMeta { last_log_id: Some(last), last_membership };
        let vote = Vote::new_committed(term, from);
        SnapshotPart::Begin { vote, meta, revision, bytes: 10 }
    };
    let mut refused = 0;
    for (what, part) in [
        ("term", begin(MAX, id(1, 9), Revision(9))),
        ("index", begin(9, id(9, MAX), Revision(9))),
        ("revision", begin(9, id(9, 9_999), Revision(MAX))),
    ] {
        let mut conn = connect(&cluster, from, to, Purpose::WatchedSnapshot).await;
        conn.writer.send(&pack(&part)).await.unwrap();
        assert!(is_closed(&mut conn).await, "{what} was answered");
        refused += 1;
        counted(&cluster, to, refused).await;
    }
    // More than was announced: neither the disk nor the history may grow without limit.
    for part in [
        SnapshotPart::Chunk(Bytes::from_static(&[0; 11])),
        SnapshotPart::Restart { revision: Revision(MAX), digest: Digest([0; 32]) },
    ] {
        let mut conn = connect(&cluster, from, to, Purpose::Snapshot).await;
        let term = cluster.on(to).members().status().term.get();
        let begun = begin(term, id(1, 9_999), Revision(9_999));
        conn.writer.send(&pack(&begun)).await.unwrap();
        conn.reader.expect().await.unwrap();
        conn.writer.send(&pack(&part)).await.unwrap();
        let reply = conn.reader.expect().await.unwrap();
        let reply: crate::raft::peer::message::SnapshotReply = unpack("reply", &reply).unwrap();
        assert!(format!("{reply:?}").contains("beyond the end"), "{reply:?}");
    }
    goes_on(&cluster, "snapshots").await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_is_refused_and_said() {
    let cluster = Cluster::started(3).await;
    let framed = |payload: &[u8]| {
        let mut frame = u32::try_from(payload.len()).unwrap().to_le_bytes().to_vec();
        frame.extend_from_slice(&crc32fast::hash(payload).to_le_bytes());
        frame.extend_from_slice(payload);
        frame
    };
    let hello = |purpose| {
        let hello = Handshake::new(cluster.on(1).cluster_id(), 2, 1, String::new(), purpose);
        framed(&pack(&hello))
    };
    let with = |purpose, more: &[u8]| [hello(purpose), more.to_vec()].concat();
    let sent = [
        ("another protocol", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("a giant before the introduction", [0xff; 64].to_vec()),
        ("no introduction", framed(&[7; 100])),
        ("a giant", with(Purpose::Call, &[0xff; 64])),
        ("a wrong checksum", with(Purpose::Call, &[1, 0, 0, 0, 9, 9, 9, 9, 5])),
        ("no question", with(Purpose::Call, &framed(&[0xff; 100]))),
        ("an empty question", with(Purpose::Call, &framed(&[]))),
        ("no request", with(Purpose::Append, &framed(&[0xff; 100]))),
        ("an empty request", with(Purpose::Append, &framed(&[]))),
        ("no snapshot", with(Purpose::WatchedSnapshot, &framed(&[0xff; 100]))),
    ];
    for (refused, (what, bytes)) in (1..).zip(sent) {
        let mut stream = TcpStream::connect(&cluster.peers()[&1]).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut rest = Vec::new();
        let read = tokio::time::timeout(TIME, stream.read_to_end(&mut rest)).await;
        // A reset counts as closed as well.
        assert!(read.is_ok(), "{what} keeps its connection");
        eventually(what, || {
            let counted = cluster.on(1).peer_refusals().counted(PeerRefusal::Garbage);
            (counted == refused).then_some(())
        })
        .await;
    }
    goes_on(&cluster, "garbage").await;
    cluster.end().await;
}

/// Answers every request with implausible numbers, until it is dropped.
struct Liar(tokio::task::JoinHandle<()>);

impl Liar {
    fn start(listener: TcpListener) -> Self {
        Self(tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    // The connection ends as soon as the lie is detected.
                    _ = lie(Conn::new(stream).unwrap()).await;
                });
            }
        }))
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn lie(mut conn: Conn) -> std::io::Result<()> {
    let hello: Handshake = unpack("hello", &conn.reader.expect().await?)?;
    conn.reader.trust();
    conn.writer.send(&pack(&HandshakeReply::Accept { api: String::new() })).await?;
    let mut lies = [
        Appended::HigherVote(Vote::new(MAX, 3)),
        Appended::Upto(Some(id(1, MAX))),
        Appended::Conflict(id(MAX, 1)),
    ]
    .into_iter()
    .cycle();
    loop {
        let frame = conn.reader.expect().await?;
        if hello.purpose == Purpose::Append {
            conn.writer.send(&pack(&lies.next().unwrap())).await?;
            continue;
        }
        let (number, ask): (u64, PeerRequest) = unpack("question", &frame)?;
        let reply = match ask {
            PeerRequest::Vote(_) | PeerRequest::PreVote(_) => {
                PeerResponse::Vote(VoteResponse::new(Vote::new(MAX, 3), Some(id(MAX, MAX)), false))
            }
            PeerRequest::ReadIndex => PeerResponse::ReadIndex(Ok(MAX)),
            PeerRequest::Status => PeerResponse::Status(PeerStatus {
                api: String::new(),
                term: Term(MAX),
                leader: Some(3),
                revision: Revision(MAX),
                applied: MAX,
                digest: Digest([0; 32]),
                ready: true,
                fault: None,
            }),
            _ => PeerResponse::Pong,
        };
        conn.writer.send(&pack(&(number, reply))).await?;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_answers_are_refused_and_said() {
    let mut cluster = Cluster::new(3).await;
    let liar = Liar::start(cluster.listeners.remove(&3).unwrap());
    cluster.start(1).await;
    cluster.start(2).await;
    cluster.ready().await;
    goes_on(&cluster, "answers").await;
    eventually("a refusal of each", || {
        let refusals = |id| cluster.on(id).peer_refusals().counted(PeerRefusal::Implausible);
        (refusals(1) > 1 && refusals(2) > 1).then_some(())
    })
    .await;
    let status = cluster.on(1).members().status();
    assert!(status.members.iter().all(|member| member.lag < 1_000), "{status:?}");
    // Elections work as well.
    for id in [1, 2] {
        cluster.stop(id).await;
        cluster.start(id).await;
    }
    cluster.ready().await;
    goes_on(&cluster, "answers after a restart").await;
    drop(liar);
    cluster.end().await;
}

/// An earlier release accepted and stored it: the replica reports this, and the data can be recovered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_at_the_last_term_is_refused_with_the_way_out() {
    let mut cluster = Cluster::started(1).await;
    create(cluster.on(1), "kept").await;
    cluster.stop(1).await;
    let dir = cluster.data(1);
    let options =
        WalOptions { segment_bytes: 1 << 20, mark: Some(dir.join("wal.mark")), owner: None };
    let wal = eventually("the log", || Wal::open(&dir.join("wal"), options.clone()).ok()).await.0;
    let (send, saved) = oneshot::channel();
    let vote = pack(&Vote::new(MAX, 2));
    wal.save_vote(vote.into(), Box::new(move |result| _ = send.send(result)));
    saved.await.unwrap().unwrap();
    drop(wal);
    let refused = cluster.try_start(cluster.config(1)).await.err().expect("it does not start");
    assert!(matches!(refused, StartError::Exhausted { term: MAX, .. }), "{refused}");
    assert!(refused.to_string().contains("romanad recover --data-dir"), "{refused}");
    let salvage = eventually("the data", || Salvage::read(&dir, cluster.dir.path()).ok()).await;
    assert!(salvage.state.tenant(&"kept".into()).is_some());
}
