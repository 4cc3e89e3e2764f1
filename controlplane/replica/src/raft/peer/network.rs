//! openraft's network: how Raft reaches the other replicas.
//!
//! Each stream of append requests has a connection that is kept while it works. Heartbeats have a dedicated
//! connection, so that they never wait behind entries, and so has each snapshot. Votes use the [`PeerClient`] that
//! also carries proposals.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError,
    StreamAppendResult, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{AnyError, OptionalSend};
use romana_storage::history::History;
use tokio::time::{Instant, timeout};

use crate::raft::known::positions::{self, Positions};
use crate::raft::peer::bounds::Implausible;
use crate::raft::peer::dial::{Conn, Dialer};
use crate::raft::peer::link::{CallError, PeerClient};
use crate::raft::peer::message::{Appended, PeerRequest, PeerResponse, Purpose};
use crate::raft::peer::transfer;
use crate::raft::store::codec::{put_append, unpack};
use crate::raft::store::log::LogStore;
use crate::raft::store::snapshot::SnapshotFile;
use crate::raft::store::snapshot::SnapshotOf;
use crate::raft::store::types::{LogId, Member, TypeConfig, Vote};

/// The connection is closed when a peer takes longer to answer an append request. Longer than an fsync on a slow
/// disk takes.
const APPEND_TIMEOUT: Duration = Duration::from_secs(1);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(250);
/// Append requests in flight.
const PIPELINE: usize = 64;

type Error = RPCError<TypeConfig>;

fn unreachable(error: &io::Error) -> Error {
    RPCError::Unreachable(Unreachable::new(error))
}

fn broken(error: &io::Error) -> Error {
    RPCError::Network(NetworkError::new(error))
}

/// The clients for all peers, created on first use.
#[derive(Clone)]
pub(in crate::raft) struct PeerPool {
    dialer: Dialer,
    links: Arc<Mutex<BTreeMap<u64, (String, PeerClient)>>>,
}

impl PeerPool {
    pub(in crate::raft) fn new(dialer: Dialer) -> Self {
        Self { dialer, links: Arc::default() }
    }

    /// The client for a peer at its address.
    pub(in crate::raft) fn to(&self, id: u64, peer: &str) -> PeerClient {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        match links.get(&id) {
            Some((known, link)) if known == peer => link.clone(),
            _ => {
                let link = PeerClient::new(self.dialer.clone(), id, peer.into());
                links.insert(id, (peer.into(), link.clone()));
                link
            }
        }
    }

    /// Opens connections to peers.
    pub(in crate::raft) fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    /// Drops all clients.
    pub(in crate::raft) fn clear(&self) {
        self.links.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Makes clients for openraft.
pub(in crate::raft) struct Network {
    pub(in crate::raft) dialer: Dialer,
    pub(in crate::raft) links: PeerPool,
    pub(in crate::raft) history: History,
    pub(in crate::raft) log: LogStore,
    pub(in crate::raft) positions: Positions,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: u64, node: &Member) -> Client {
        Client {
            dialer: self.dialer.clone(),
            link: self.links.to(target, &node.peer),
            history: self.history.clone(),
            log: self.log.clone(),
            positions: self.positions.clone(),
            target,
            peer: node.peer.clone(),
            conn: None,
        }
    }
}

/// One use of a peer by openraft: a replication stream, heartbeats, an election, or a snapshot.
pub(in crate::raft) struct Client {
    dialer: Dialer,
    link: PeerClient,
    history: History,
    log: LogStore,
    positions: Positions,
    target: u64,
    peer: String,
    /// The append connection, while no stream uses it and no request is outstanding on it.
    conn: Option<Conn>,
}

impl Client {
    async fn dial(&self) -> Result<Conn, Error> {
        let conn = self.dialer.dial(self.target, &self.peer, Purpose::Append, CONNECT_TIMEOUT);
        conn.await.map_err(|error| unreachable(&error))
    }

    async fn ask(&self, ask: PeerRequest, option: &RPCOption) -> Result<PeerResponse, Error> {
        let deadline = Instant::now() + option.soft_ttl();
        match self.link.call(ask, deadline).await {
            Ok(PeerResponse::Failed(why)) => Err(broken(&io::Error::other(why))),
            Ok(reply) => Ok(reply),
            Err(CallError::NotSent(why)) => Err(unreachable(&io::Error::other(why))),
            Err(CallError::Lost(why)) => Err(broken(&io::Error::other(why))),
        }
    }
}

impl Client {
    /// A vote response, if it is plausible.
    fn voted(&self, reply: PeerResponse) -> Result<VoteResponse<TypeConfig>, Error> {
        match reply {
            PeerResponse::Vote(response) => {
                self.plausible(self.log.known().vote_response(&response)).map(|()| response)
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Handles a follower that lacks an entry. Openraft assumes that a follower keeps what it has acknowledged; for a
    /// follower that did not, it would wait forever.
    fn lacked(&self, vote: Vote, id: LogId) -> Option<Error> {
        if !self.positions.lacks(self.target, vote, id.index) {
            return None;
        }
        let why = format!("replica {}: {}", self.target, positions::older_text(self.target));
        self.dialer.complain(&self.peer, &why);
        Some(unreachable(&io::Error::other(why)))
    }

    /// Turns an implausible response into an error.
    fn plausible(&self, checked: Result<(), Implausible>) -> Result<(), Error> {
        checked.map_err(|implausible| {
            let error = io::Error::from(implausible);
            self.dialer.refuse_error(&self.peer, &error);
            broken(&error)
        })
    }
}

fn unexpected(reply: &PeerResponse) -> Error {
    broken(&io::Error::other(reply.misfit()))
}

impl RaftNetworkV2<TypeConfig> for Client {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, Error> {
        let once = Box::pin(stream::once(async move { request }));
        let mut results = self.stream_append(once, option).await?;
        match results.next().await {
            Some(Ok(result)) => Ok(result.into()),
            Some(Err(error)) => Err(error),
            None => Err(broken(&io::ErrorKind::UnexpectedEof.into())),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        _: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, Error>>, Error>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            // openraft waits between attempts inside `input`: poll it before connecting.
            let Some(first) = input.next().await else {
                let none: BoxStream<'s, _> = Box::pin(stream::empty());
                return Ok(none);
            };
            let mut conn = match self.conn.take() {
                Some(conn) => conn,
                None => self.dial().await?,
            };
            let sent = send(&mut conn, &mut VecDeque::new(), &first).await;
            if let Err(error) = sent {
                // The idle connection was closed; retry once with a new one.
                tracing::debug!(peer = %self.peer, %error, "append connection lost");
                conn = self.dial().await?;
                let mut none = VecDeque::new();
                send(&mut conn, &mut none, &first).await.map_err(|error| broken(&error))?;
            }
            let sent = VecDeque::from([Instant::now()]);
            let (vote, committed) = (first.vote, first.leader_commit.map(|id| id.index));
            let told = Told { vote, committed, last: last_index(&first) };
            let pipe = Pipe { client: self, conn, input: Some(input), sent, told };
            let results: BoxStream<'s, _> = Box::pin(stream::unfold(Some(pipe), Pipe::step));
            Ok(results)
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, Error> {
        let asked = request.vote;
        let reply = self.ask(PeerRequest::Vote(request), &option).await?;
        let response = self.voted(reply)?;
        if response.vote_granted && response.vote == asked {
            self.positions.voted(self.target, asked.leader_id.term);
        }
        Ok(response)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, Error> {
        let reply = self.ask(PeerRequest::PreVote(request), &option).await?;
        self.voted(reply)
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, Error> {
        match self.ask(PeerRequest::Transfer(request), &option).await? {
            PeerResponse::Transferred(response) => Ok(response),
            other => Err(unexpected(&other)),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let dialed = transfer::dial(&self.dialer, self.target, &self.peer, CONNECT_TIMEOUT);
        let send = async {
            let conn = dialed.await.map_err(|error| unreachable(&error))?;
            let known = self.log.known();
            let sent = transfer::send(conn, vote, &snapshot, &self.history, known).await;
            sent.map_err(|error| {
                self.dialer.refuse_error(&self.peer, &error);
                let replica = self.target;
                tracing::warn!(replica, error = %AnyError::new(&error), "cannot send a snapshot");
                RPCError::Unreachable(Unreachable::new(&error))
            })
        };
        tokio::select! {
            sent = send => Ok(SnapshotResponse::new(sent?)),
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }
}

/// Writes one append request.
async fn send(
    conn: &mut Conn,
    sent: &mut VecDeque<Instant>,
    request: &AppendEntriesRequest<TypeConfig>,
) -> io::Result<()> {
    sent.push_back(Instant::now());
    conn.writer.push(|out| put_append(request, out))?;
    let stuck = || io::Error::new(io::ErrorKind::TimedOut, "the peer does not read");
    timeout(APPEND_TIMEOUT, conn.writer.flush()).await.map_err(|_| stuck())?
}

/// A pipelined stream of append requests: requests are sent while results arrive.
struct Pipe<'s, S> {
    client: &'s mut Client,
    conn: Conn,
    /// `None` when openraft has no more requests.
    input: Option<S>,
    /// Send times of the unanswered requests, oldest first.
    sent: VecDeque<Instant>,
    told: Told,
}

/// What the peer was sent.
struct Told {
    /// The leader's vote.
    vote: Vote,
    /// Index of the last committed entry.
    committed: Option<u64>,
    /// Index of the last entry sent.
    last: u64,
}

type Step<'s, S> = Option<(Result<StreamAppendResult<TypeConfig>, Error>, Option<Pipe<'s, S>>)>;

impl<'s, S> Pipe<'s, S>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
{
    /// The next result. After an error the stream ends and the connection is dropped; after the last result the
    /// connection is kept.
    async fn step(pipe: Option<Self>) -> Step<'s, S> {
        let mut pipe = pipe?;
        loop {
            if pipe.input.is_none() && pipe.sent.is_empty() {
                pipe.client.conn = Some(pipe.conn);
                return None;
            }
            let overdue = pipe.sent.front().map(|at| *at + APPEND_TIMEOUT);
            let more = pipe.input.is_some() && pipe.sent.len() < PIPELINE;
            tokio::select! {
                request = next(&mut pipe.input), if more => match request {
                    None => pipe.input = None,
                    Some(request) => {
                        pipe.told.add(&request);
                        if let Err(error) = send(&mut pipe.conn, &mut pipe.sent, &request).await {
                            return Some((Err(broken(&error)), None));
                        }
                    }
                },
                frame = pipe.conn.reader.expect() => {
                    pipe.sent.pop_front();
                    let result = frame.and_then(|frame| pipe.read(&frame));
                    return Some(match result {
                        Ok(Appended::Upto(upto)) => {
                            pipe.acknowledged(upto);
                            (Ok(Ok(upto)), Some(pipe))
                        }
                        Ok(Appended::Conflict(id)) => {
                            let lacked = pipe.client.lacked(pipe.told.vote, id);
                            (lacked.map_or(Ok(Err(StreamAppendError::Conflict(id))), Err), None)
                        }
                        Ok(Appended::HigherVote(vote)) => {
                            (Ok(Err(StreamAppendError::HigherVote(vote))), None)
                        }
                        Err(error) => {
                            pipe.client.dialer.refuse_error(&pipe.client.peer, &error);
                            (Err(broken(&error)), None)
                        }
                    });
                }
                () = until(overdue) => {
                    let error = io::Error::new(io::ErrorKind::TimedOut, "no append result in time");
                    return Some((Err(broken(&error)), None));
                }
            }
        }
    }
}

impl<S> Pipe<'_, S> {
    /// Parses an append result and checks that it is plausible.
    fn read(&self, frame: &[u8]) -> io::Result<Appended> {
        let appended = unpack("append result", frame)?;
        self.client.log.known().appended(self.told.last, &appended)?;
        Ok(appended)
    }

    fn acknowledged(&self, upto: Option<LogId>) {
        if let Some(upto) = upto {
            let Told { vote, committed, .. } = self.told;
            self.client.positions.acknowledged(self.client.target, vote, upto.index, committed);
        }
    }
}

impl Told {
    fn add(&mut self, request: &AppendEntriesRequest<TypeConfig>) {
        self.vote = request.vote;
        self.committed = self.committed.max(request.leader_commit.map(|id| id.index));
        self.last = self.last.max(last_index(request));
    }
}

/// Index of the last entry that a request covers.
fn last_index(request: &AppendEntriesRequest<TypeConfig>) -> u64 {
    let last = request.entries.last().map(|entry| entry.log_id);
    last.or(request.prev_log_id).map_or(0, |id| id.index)
}

async fn next<S: Stream + Unpin>(input: &mut Option<S>) -> Option<S::Item> {
    match input {
        Some(input) => input.next().await,
        None => None,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
