//! The peer listener: what other replicas ask of this one.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use openraft::ReadPolicy;
use openraft::raft::StreamAppendError;
use romana_api::audit::Proof;
use romana_daemon::error::chain;
use romana_statemachine::{Printable, Revision};
use romana_storage::platform::blocking;
use romana_storage::platform::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::bounds::Implausible;
use super::clocks::Clocks;
use super::codec::{pack, read_append, unpack};
use super::dial::{Complaints, Conn, Directory};
use super::facts;
use super::fault::Fault;
use super::frame::FrameWriter;
use super::held::{self, Gate, Positions};
use super::log::LogStore;
use super::machine::Machine;
use super::message::{Appended, Ask, Declined, Hello, PeerStatus, Purpose, Reply, Welcome};
use super::problems::Problems;
use super::proposer::Proposer;
use super::pulse::Pulse;
use super::reads::ROUND_MAX;
use super::transfer;
use super::types::Raft;
use super::view::View;
use crate::Cancel;
use crate::identity::Identity;
use crate::metrics::PeerRefusal;
use crate::retention::{Beginning, Checkpoints, Standing};

/// Connections at once of those who have introduced themselves.
const CONNECTIONS_MAX: usize = 256;
/// Connections at once of those who have not: of more, the one that has waited longest is closed. Each
/// may have sent no more than the longest introduction.
const STRANGERS_MAX: usize = 128;
/// Questions of one connection being answered at once.
const ASKS_MAX: usize = 4096;
/// Time to introduce oneself.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Append requests read and not yet with Raft.
const APPENDS_QUEUED: usize = 64;
/// Time for the peer to close a connection that is at its end.
const FAREWELL_MAX: Duration = Duration::from_secs(1);
/// Longest a forwarded proposal may ask to wait.
const WITHIN_MAX: Duration = Duration::from_secs(60);

/// One reading of a whole history at a time.
static PROVING: Semaphore = Semaphore::const_new(1);

/// What answering needs.
pub(super) struct Host {
    pub(super) identity: Identity,
    pub(super) api: String,
    pub(super) raft: Raft,
    pub(super) log: LogStore,
    pub(super) machine: Machine,
    pub(super) proposer: Proposer,
    pub(super) view: View,
    pub(super) fault: Fault,
    pub(super) directory: Directory,
    pub(super) complaints: Complaints,
    /// Who keeps states of the past, once there is somebody.
    pub(super) checkpoints: OnceLock<Arc<dyn Checkpoints>>,
    /// Of the leader's tasks that run here.
    pub(super) problems: Problems,
    /// What agents have said.
    pub(super) pulse: Pulse,
    pub(super) clocks: Clocks,
    /// How far the others have come.
    pub(super) positions: Positions,
    /// Whether this replica may vote and take entries.
    pub(super) gate: Gate,
}

/// Accepts connections until `stop`.
pub(super) async fn serve(
    host: Arc<Host>,
    listener: TcpListener,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let strangers = Strangers::default();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, from)) = accepted else {
            // Out of file descriptors, for example: breathe, rather than spin.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (host, stop, slots) = (Arc::clone(&host), stop.clone(), Arc::clone(&slots));
        let stranger = strangers.admit();
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                served = host.connection(stream, from, stranger, &slots) => {
                    if let Err(error) = served {
                        host.complaints.refuse_error(&from.ip().to_string(), &error);
                        let error = Printable(error);
                        tracing::debug!(%from, %error, "peer connection ended");
                    }
                }
            }
        });
    }
}

/// Connections whose peers have not said yet who they are, oldest first.
#[derive(Clone, Debug, Default)]
struct Strangers(Arc<Mutex<(u64, BTreeMap<u64, CancellationToken>)>>);

/// One of them, until it is dropped.
struct Stranger {
    all: Strangers,
    number: u64,
    over: CancellationToken,
}

impl Strangers {
    /// One more; if there are too many, the oldest goes.
    fn admit(&self) -> Stranger {
        let over = CancellationToken::new();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.0 += 1;
        let number = all.0;
        all.1.insert(number, over.clone());
        if all.1.len() > STRANGERS_MAX
            && let Some((_, oldest)) = all.1.pop_first()
        {
            oldest.cancel();
        }
        Stranger { all: self.clone(), number, over }
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let mut all = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.1.remove(&self.number);
    }
}

impl Host {
    async fn connection(
        self: &Arc<Self>,
        stream: TcpStream,
        from: SocketAddr,
        stranger: Stranger,
        slots: &Semaphore,
    ) -> io::Result<()> {
        let mut conn = Conn::new(stream)?;
        let hello = tokio::select! {
            hello = timeout(HELLO_TIMEOUT, conn.reader.expect()) => hello??,
            () = stranger.over.cancelled() => {
                return Err(io::Error::other("too many connections that say nothing"));
            }
        };
        drop(stranger);
        let from = from.ip().to_string();
        let hello: Hello = unpack("hello", &hello)?;
        let Identity { cluster_id, id, initial_cluster, .. } = &self.identity;
        // Members that came later are in the membership; before there is one, in the initial list.
        // A replica that joins knows nobody yet: who is of its cluster may talk to it.
        let joining = initial_cluster.is_empty() && self.view.knows_nobody();
        let member =
            |peer| joining || initial_cluster.contains_key(&peer) || self.view.is_member(peer);
        if let Some(why) = hello.refuse(cluster_id, *id, member) {
            self.complaints.refuse(PeerRefusal::Stranger, &from, &why);
            return conn.writer.send(&pack(&Welcome::Refuse { why })).await;
        }
        let _slot = slots.try_acquire().map_err(io::Error::other)?;
        conn.reader.trust();
        self.directory.set(hello.from, hello.api);
        conn.writer.send(&pack(&Welcome::Accept { api: self.api.clone() })).await?;
        match hello.purpose {
            Purpose::Append => self.appends(conn, hello.from).await,
            Purpose::Call => self.calls(conn, hello.from).await,
            Purpose::Snapshot => self.snapshot(conn, hello.from, false).await,
            Purpose::WatchedSnapshot => self.snapshot(conn, hello.from, true).await,
            Purpose::Clock => super::clocks::answer(conn, &self.clocks).await,
            Purpose::Position => held::answer(conn, hello.from, self).await,
            Purpose::Facts => facts::answer(conn, self.machine.with_state(facts::Facts::own)).await,
        }
    }

    async fn snapshot(&self, conn: Conn, from: u64, watched: bool) -> io::Result<()> {
        self.gate.pass().await?;
        let leader = transfer::Leader { id: from, known: self.log.known(), watched };
        transfer::receive(conn, leader, &self.raft, &self.machine).await
    }

    /// Append requests in, results out, both in order.
    async fn appends(&self, conn: Conn, from: u64) -> io::Result<()> {
        self.gate.pass().await?;
        let Conn { reader, mut writer } = conn;
        let (requests, queue) = mpsc::channel(APPENDS_QUEUED);
        let read = async move {
            let mut reader = reader;
            while let Some(frame) = reader.next().await? {
                // After the last result, requests are still read: closing a connection that has
                // unread bytes could take that result with it.
                let request = read_append(frame)?;
                self.log.known().append(from, &request)?;
                _ = requests.send(request).await;
            }
            Ok::<(), io::Error>(())
        };
        let answer = async move {
            let queue = stream::unfold(queue, |mut queue| async move {
                queue.recv().await.map(|request| (request, queue))
            });
            let mut results = Box::pin(self.raft.stream_append(queue));
            while let Some(result) = results.next().await {
                let (appended, last) = match result.map_err(io::Error::other)? {
                    Ok(upto) => (Appended::Upto(upto), false),
                    Err(StreamAppendError::Conflict(id)) => (Appended::Conflict(id), true),
                    Err(StreamAppendError::HigherVote(vote)) => (Appended::HigherVote(vote), true),
                };
                writer.send(&pack(&appended)).await?;
                if last {
                    // What follows in the stream rests on what was refused.
                    break;
                }
            }
            Ok::<(), io::Error>(())
        };
        tokio::pin!(read, answer);
        tokio::select! {
            read = &mut read => {
                read?;
                answer.await
            }
            answered = &mut answer => {
                answered?;
                timeout(FAREWELL_MAX, read).await.unwrap_or(Ok(()))
            }
        }
    }

    /// Numbered questions, answered in any order.
    async fn calls(self: &Arc<Self>, conn: Conn, from: u64) -> io::Result<()> {
        let Conn { mut reader, writer } = conn;
        let (replies, queue) = mpsc::channel(ASKS_MAX);
        let write = write_replies(writer, queue);
        let host = Arc::clone(self);
        let read = async move {
            let slots = Arc::new(Semaphore::new(ASKS_MAX));
            let mut proving = None;
            while let Some(frame) = reader.next().await? {
                let (id, ask): (u64, Ask) = unpack("question", &frame)?;
                host.plausible(from, &ask)?;
                let slot = Arc::clone(&slots).acquire_owned().await.map_err(io::Error::other)?;
                let (host, replies) = (Arc::clone(&host), replies.clone());
                let over = CancellationToken::new();
                if matches!(ask, Ask::Prove(_)) {
                    // A replica asks for one proof at a time: it does not wait for the one before,
                    // nor for any when it has gone.
                    proving.replace(over.clone().drop_guard());
                }
                tokio::spawn(async move {
                    let answer = tokio::select! {
                        answer = host.answer(ask) => answer,
                        () = over.cancelled() => Reply::Failed("another question took its place".into()),
                    };
                    let reply = pack(&(id, answer));
                    _ = replies.send(Bytes::from(reply)).await;
                    drop(slot);
                });
            }
            Ok::<(), io::Error>(())
        };
        tokio::select! {
            read = read => read,
            written = write => written,
        }
    }

    /// Whether the numbers in a question can be right.
    fn plausible(&self, from: u64, ask: &Ask) -> Result<(), Implausible> {
        let known = self.log.known();
        match ask {
            Ask::Vote(request) | Ask::PreVote(request) => known.vote_request(from, request),
            Ask::Transfer(request) => known.transfer(request),
            Ask::DigestAt(revision)
            | Ask::CheckpointAt(revision)
            | Ask::Prove(revision)
            | Ask::StandingAt(revision) => known.revision(*revision),
            Ask::Ping
            | Ask::Propose { .. }
            | Ask::ReadIndex
            | Ask::Status
            | Ask::HandOver(_)
            | Ask::Heartbeats(_)
            | Ask::Heard
            | Ask::Refused(_)
            | Ask::RefusedAgents
            | Ask::Beginning => Ok(()),
        }
    }

    pub(super) async fn answer(&self, ask: Ask) -> Reply {
        if matches!(ask, Ask::Vote(_) | Ask::PreVote(_) | Ask::Transfer(_))
            && let Err(error) = self.gate.pass().await
        {
            return Reply::Failed(error.to_string());
        }
        match ask {
            Ask::Ping => Reply::Pong,
            Ask::Vote(request) => match self.raft.vote(request).await {
                Ok(response) => Reply::Vote(response),
                Err(error) => Reply::Failed(error.to_string()),
            },
            Ask::PreVote(request) => match self.raft.pre_vote(request).await {
                Ok(response) => Reply::Vote(response),
                Err(error) => Reply::Failed(error.to_string()),
            },
            Ask::Transfer(request) => match self.raft.handle_transfer_leader(request).await {
                Ok(response) => Reply::Transferred(response),
                Err(error) => Reply::Failed(error.to_string()),
            },
            Ask::Propose { batch, within_ms } => {
                if !batch.check() {
                    let why = "the leader cannot read the commands: it may be of another version";
                    return Reply::Proposed(Err(Declined::Unavailable(why.into())));
                }
                let within = Duration::from_millis(within_ms).min(WITHIN_MAX);
                Reply::Proposed(self.proposer.propose(batch, Instant::now() + within).await)
            }
            Ask::ReadIndex => Reply::ReadIndex(self.read_index().await),
            Ask::Status => Reply::Status(self.status()),
            Ask::HandOver(to) => Reply::HandedOver(self.hand_over(to).await),
            Ask::DigestAt(revision) => {
                let machine = self.machine.clone();
                let read = move || super::peers::digest_at(&machine, revision);
                Reply::DigestAt(blocking(read).await.ok().flatten())
            }
            Ask::CheckpointAt(revision) => Reply::CheckpointAt(self.checkpoint_at(revision).await),
            Ask::Prove(revision) => Reply::Proved(self.prove(revision).await),
            Ask::StandingAt(revision) => {
                Reply::StandingAt(self.machine.audit().checkpoints().standing(revision))
            }
            Ask::Heartbeats(heartbeats) => {
                self.pulse.hear(heartbeats);
                Reply::Pong
            }
            Ask::Heard => Reply::Heard(self.view.get().leads.map(|_| self.pulse.heard())),
            Ask::Refused(agents) => {
                self.pulse.refuse(agents);
                Reply::Pong
            }
            Ask::RefusedAgents => {
                Reply::RefusedAgents(self.view.get().leads.map(|_| self.pulse.refused()))
            }
            Ask::Beginning => Reply::Beginning(self.beginning().await),
        }
    }

    /// Reads and folds this replica's whole history; the digests told are those at a revision. Whoever
    /// asks meanwhile waits his turn; who does not wait any more has it ended.
    pub(super) async fn prove(&self, at: Revision) -> Result<Proof, String> {
        // Nobody waits for his turn behind one who waits for a revision that may never come.
        let mut applied = self.machine.applied();
        while self.machine.with_state(|state| state.revision()) < at {
            applied.changed().await.map_err(|error| error.to_string())?;
        }
        let turn = PROVING.acquire().await.map_err(|error| error.to_string())?;
        let machine = self.machine.clone();
        let cancel = Cancel::default();
        let _guard = cancel.on_drop();
        let prove = move || {
            let _turn = turn;
            let live = machine.with_state(romana_statemachine::State::clone);
            machine.audit().prove(&live, at, &cancel).map_err(|error| chain(&error))
        };
        blocking(prove).await.map_err(|error| error.to_string())?
    }

    /// Where this replica's history begins.
    pub(super) async fn beginning(&self) -> Result<Beginning, String> {
        let retention = self.machine.with_state(|state| state.retention().clone());
        let history = self.machine.history().clone();
        let read = move || Ok(Beginning::of(&history.segments()?, &retention));
        let read = blocking(read).await.map_err(|error| error.to_string())?;
        read.map_err(|error: romana_storage::history::HistoryError| chain(&error))
    }

    /// The digests of this replica's checkpoint at a revision, which it makes if it can; or why not.
    pub(super) async fn checkpoint_at(&self, revision: Revision) -> Result<Standing, String> {
        let checkpoints = self.checkpoints.get().ok_or("this replica keeps no checkpoints")?;
        let checkpoints = Arc::clone(checkpoints);
        let hold = move || checkpoints.hold(revision);
        blocking(hold).await.map_err(|error| error.to_string())?
    }

    /// Starts handing leadership to `to`, if this replica leads.
    pub(super) async fn hand_over(&self, to: u64) -> Result<(), String> {
        if self.view.get().leads.is_none() {
            return Err("this replica does not lead any more".into());
        }
        self.raft.trigger().transfer_leader(to).await.map_err(|error| error.to_string())
    }

    /// The read index, if this replica leads.
    pub(super) async fn read_index(&self) -> Result<u64, String> {
        // Right after a restart a leader may know less than it acknowledged before.
        if !self.view.recovered() {
            return Err("this replica has not yet caught up with its own log".into());
        }
        let asked = self.raft.get_read_linearizer(ReadPolicy::ReadIndex);
        match timeout(ROUND_MAX, asked).await {
            Ok(Ok(linearizer)) => Ok(linearizer.read_log_id().index()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no quorum answers".into()),
        }
    }

    pub(super) fn status(&self) -> PeerStatus {
        let seen = self.view.get();
        let (revision, digest) =
            self.machine.with_state(|state| (state.revision(), state.digest()));
        PeerStatus {
            api: self.api.clone(),
            term: seen.term,
            leader: seen.leader,
            revision,
            applied: self.machine.last_applied().map_or(0, |id| id.index),
            digest,
            ready: self.view.recovered() && self.fault.get().is_none(),
            fault: self.fault.get(),
        }
    }
}

/// Writes replies as they come, all that wait before one flush.
async fn write_replies<W>(
    mut writer: FrameWriter<W>,
    mut queue: mpsc::Receiver<Bytes>,
) -> io::Result<()>
where
    W: tokio::io::AsyncWrite + Unpin,
{
    while let Some(first) = queue.recv().await {
        let mut next = Some(first);
        let mut bytes = 0;
        while let Some(reply) = next {
            writer.push(|out| out.extend_from_slice(&reply))?;
            bytes += reply.len();
            next = if bytes < 1 << 20 { queue.try_recv().ok() } else { None };
        }
        writer.flush().await?;
    }
    Ok(())
}
