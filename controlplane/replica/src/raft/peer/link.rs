//! Multiplexes requests to one replica over one connection.
//!
//! For each failed call the client says whether the request can have reached the peer: this is the difference
//! between "nothing happened" and "unknown".

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::raft::peer::dial::{Conn, Dialer};
use crate::raft::peer::message::{PeerRequest, PeerResponse, Purpose};
use crate::raft::store::codec::{pack, unpack};

/// Calls that may wait for the connection.
const QUEUE: usize = 4096;
/// Calls written before a flush.
const WRITES_MAX: usize = 256;
const CONNECT_TIMEOUT: Duration = Duration::from_millis(250);
/// A peer with outstanding calls is pinged this often,
const PING_EVERY: Duration = Duration::from_millis(250);
/// and the connection is closed when nothing was received for this long.
const SILENCE_MAX: Duration = Duration::from_millis(1000);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(in crate::raft) enum CallError {
    /// The request was never sent.
    #[error("{0}")]
    NotSent(String),
    /// The request may have arrived.
    #[error("{0}")]
    Lost(String),
}

struct Call {
    ask: PeerRequest,
    reply: oneshot::Sender<Result<PeerResponse, CallError>>,
}

/// A client for one replica. Clones share the connection, which is opened on demand.
#[derive(Clone)]
pub(in crate::raft) struct PeerClient {
    calls: mpsc::Sender<Call>,
}

impl PeerClient {
    /// A client for replica `to` at `peer`. Its task ends when the last clone is dropped.
    pub(in crate::raft) fn new(dialer: Dialer, to: u64, peer: String) -> Self {
        let (calls, queue) = mpsc::channel(QUEUE);
        tokio::spawn(Worker { dialer, to, peer, queue, next_id: 0 }.run());
        Self { calls }
    }

    /// Sends a request, and waits for the response until `deadline`.
    pub(in crate::raft) async fn call(
        &self,
        ask: PeerRequest,
        deadline: Instant,
    ) -> Result<PeerResponse, CallError> {
        let (reply, answer) = oneshot::channel();
        let full = |_| CallError::NotSent("too many calls wait for the connection".into());
        self.calls.try_send(Call { ask, reply }).map_err(full)?;
        let stopped = || CallError::Lost("the connection's task has stopped".into());
        match tokio::time::timeout_at(deadline, answer).await {
            Ok(answer) => answer.map_err(|_| stopped())?,
            Err(_) => Err(CallError::Lost("no answer in time".into())),
        }
    }
}

struct Worker {
    dialer: Dialer,
    to: u64,
    peer: String,
    queue: mpsc::Receiver<Call>,
    next_id: u64,
}

/// In the order of sending, so that calls also fail in that order.
type Pending = BTreeMap<u64, oneshot::Sender<Result<PeerResponse, CallError>>>;

impl Worker {
    async fn run(mut self) {
        while let Some(call) = self.queue.recv().await {
            let dialed =
                self.dialer.dial(self.to, &self.peer, Purpose::Call, CONNECT_TIMEOUT).await;
            match dialed {
                Ok(conn) => {
                    let mut pending = Pending::new();
                    let why = match self.converse(conn, call, &mut pending).await {
                        Ok(()) => "the connection was closed".into(),
                        Err(error) => {
                            self.dialer.refuse_error(&self.peer, &error);
                            format!("the connection was lost: {error}")
                        }
                    };
                    for (_, reply) in pending {
                        _ = reply.send(Err(CallError::Lost(why.clone())));
                    }
                }
                Err(error) => {
                    // All calls that waited for this attempt fail; the next call connects again.
                    let why = error.to_string();
                    let mut failed = Some(call);
                    while let Some(call) = failed {
                        _ = call.reply.send(Err(CallError::NotSent(why.clone())));
                        failed = self.queue.try_recv().ok();
                    }
                }
            }
        }
    }

    /// Sends calls and dispatches responses until the connection ends.
    async fn converse(
        &mut self,
        mut conn: Conn,
        first: Call,
        pending: &mut Pending,
    ) -> io::Result<()> {
        let mut heard = Instant::now();
        let mut ping = interval(PING_EVERY);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ping.reset();
        self.send(&mut conn, first, pending).await?;
        loop {
            tokio::select! {
                // Check first whether the peer closed the connection: a call that is not sent yet then fails as
                // `NotSent`.
                biased;
                frame = conn.reader.next() => {
                    let Some(frame) = frame? else { return Ok(()) };
                    heard = Instant::now();
                    let (id, reply): (u64, PeerResponse) = unpack("reply", &frame)?;
                    if let Some(waiting) = pending.remove(&id) {
                        _ = waiting.send(Ok(reply));
                    }
                }
                _ = ping.tick(), if !pending.is_empty() => {
                    if heard.elapsed() > SILENCE_MAX {
                        return Err(io::Error::new(io::ErrorKind::TimedOut, "the peer is silent"));
                    }
                    // Number 0 belongs to no call: the response only shows that the peer is alive.
                    conn.writer.push(|out| out.extend_from_slice(&pack(&(0u64, &PeerRequest::Ping))))?;
                    flush(&mut conn).await?;
                }
                call = self.queue.recv() => match call {
                    Some(call) => {
                        if pending.is_empty() {
                            heard = Instant::now();
                        }
                        self.send(&mut conn, call, pending).await?;
                    }
                    None => return Ok(()),
                },
            }
        }
    }

    /// Sends a call and the queued ones behind it.
    async fn send(
        &mut self,
        conn: &mut Conn,
        first: Call,
        pending: &mut Pending,
    ) -> io::Result<()> {
        let (mut next, mut calls) = (Some(first), 0);
        while let Some(Call { ask, reply }) = next {
            calls += 1;
            if !reply.is_closed() {
                self.next_id += 1;
                let question = pack(&(self.next_id, &ask));
                match conn.writer.push(|out| out.extend_from_slice(&question)) {
                    Ok(()) => _ = pending.insert(self.next_id, reply),
                    Err(error) => _ = reply.send(Err(CallError::NotSent(error.to_string()))),
                }
            }
            next = if calls < WRITES_MAX { self.queue.try_recv().ok() } else { None };
        }
        flush(conn).await
    }
}

async fn flush(conn: &mut Conn) -> io::Result<()> {
    let stuck = || io::Error::new(io::ErrorKind::TimedOut, "the peer does not read");
    timeout(SILENCE_MAX, conn.writer.flush()).await.map_err(|_| stuck())?
}
