//! The peer listener: admission of connections, and the I/O on each. The requests are answered by `service`.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use openraft::raft::StreamAppendError;
use romana_statemachine::Printable;
use romana_storage::platform::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::identity::Identity;
use crate::metrics::PeerRefusal;
use crate::raft::known::positions::{self};
use crate::raft::peer::dial::Conn;
use crate::raft::peer::facts;
use crate::raft::peer::frame::FrameWriter;
use crate::raft::peer::message::{
    Appended, Handshake, HandshakeReply, PeerRequest, PeerResponse, Purpose,
};
use crate::raft::peer::service::PeerService;
use crate::raft::peer::transfer;
use crate::raft::store::codec::{pack, read_append, unpack};

/// Maximum connections after the handshake.
const CONNECTIONS_MAX: usize = 256;
/// Maximum connections before the handshake: above this, the oldest one is closed. Each buffers at most one
/// handshake frame.
const STRANGERS_MAX: usize = 128;
/// Requests of one connection that are answered concurrently.
const ASKS_MAX: usize = 4096;
/// Timeout of the handshake.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Append requests that are read but not yet handed to Raft.
const APPENDS_QUEUED: usize = 64;
/// Time for the peer to close a connection that is finished.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// Accepts connections until `stop`.
pub(in crate::raft) async fn serve(
    host: Arc<PeerService>,
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
            // For example out of file descriptors: pause instead of spinning.
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

/// Connections whose peers have not completed the handshake, oldest first.
#[derive(Clone, Debug, Default)]
struct Strangers(Arc<Mutex<(u64, BTreeMap<u64, CancellationToken>)>>);

/// One such connection; dropping it removes it from the set.
struct Stranger {
    all: Strangers,
    number: u64,
    over: CancellationToken,
}

impl Strangers {
    /// Adds a connection; if there are too many, cancels the oldest.
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

impl PeerService {
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
        let hello: Handshake = unpack("hello", &hello)?;
        let Identity { cluster_id, id, initial_cluster, .. } = &self.identity;
        // Members that joined later are in the membership; before there is one, the initial list applies. A replica
        // that joins has no membership yet and accepts every peer of its cluster.
        let joining = initial_cluster.is_empty() && self.view.knows_nobody();
        let member =
            |peer| joining || initial_cluster.contains_key(&peer) || self.view.is_member(peer);
        if let Some(why) = hello.refuse(cluster_id, *id, member) {
            self.complaints.refuse(PeerRefusal::Stranger, &from, &why);
            return conn.writer.send(&pack(&HandshakeReply::Refuse { why })).await;
        }
        let _slot = slots.try_acquire().map_err(io::Error::other)?;
        conn.reader.trust();
        self.directory.set(hello.from, hello.api);
        conn.writer.send(&pack(&HandshakeReply::Accept { api: self.api.clone() })).await?;
        match hello.purpose {
            Purpose::Append => self.appends(conn, hello.from).await,
            Purpose::Call => self.calls(conn, hello.from).await,
            Purpose::Snapshot => self.snapshot(conn, hello.from, false).await,
            Purpose::WatchedSnapshot => self.snapshot(conn, hello.from, true).await,
            Purpose::Clock => crate::raft::known::clocks::answer(conn, &self.clocks).await,
            Purpose::Position => positions::answer(conn, hello.from, self).await,
            Purpose::Facts => facts::answer(conn, self.machine.with_state(facts::Facts::own)).await,
        }
    }

    async fn snapshot(&self, conn: Conn, from: u64, watched: bool) -> io::Result<()> {
        self.gate.pass().await?;
        let leader = transfer::Leader { id: from, known: self.log.known(), watched };
        transfer::receive(conn, leader, &self.raft, &self.machine).await
    }

    /// Serves a stream of append requests, in order.
    async fn appends(&self, conn: Conn, from: u64) -> io::Result<()> {
        self.gate.pass().await?;
        let Conn { reader, mut writer } = conn;
        let (requests, queue) = mpsc::channel(APPENDS_QUEUED);
        let read = async move {
            let mut reader = reader;
            while let Some(frame) = reader.next().await? {
                // After the last result, keep reading requests: closing a connection with unread bytes could discard
                // that result.
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
                    // The rest of the stream depends on the refused request.
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

    /// Serves numbered requests, answered in any order.
    async fn calls(self: &Arc<Self>, conn: Conn, from: u64) -> io::Result<()> {
        let Conn { mut reader, writer } = conn;
        let (replies, queue) = mpsc::channel(ASKS_MAX);
        let write = write_replies(writer, queue);
        let host = Arc::clone(self);
        let read = async move {
            let slots = Arc::new(Semaphore::new(ASKS_MAX));
            let mut proving = None;
            while let Some(frame) = reader.next().await? {
                let (id, ask): (u64, PeerRequest) = unpack("question", &frame)?;
                host.plausible(from, &ask)?;
                let slot = Arc::clone(&slots).acquire_owned().await.map_err(io::Error::other)?;
                let (host, replies) = (Arc::clone(&host), replies.clone());
                let over = CancellationToken::new();
                if matches!(ask, PeerRequest::Prove(_)) {
                    // A replica runs one proof at a time: a new request cancels the previous one, and so does the end
                    // of the connection.
                    proving.replace(over.clone().drop_guard());
                }
                tokio::spawn(async move {
                    let answer = tokio::select! {
                        answer = host.answer(ask) => answer,
                        () = over.cancelled() => PeerResponse::Failed("another question took its place".into()),
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
}

/// Writes responses as they arrive, all queued ones before each flush.
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
