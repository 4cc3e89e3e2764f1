//! Questions by TCP (RFC 7766): pipelined, answered as soon as each answer is known; bounded in number and time.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Server, Step};
use crate::metrics::{Dropped, Transport};

/// Time for a client to ask again (RFC 7766, 6.2.3), to send a question that it has begun, and to take an answer.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(5);
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Questions of one connection that are being answered; the next ones wait in the kernel.
const PIPELINE_MAX: usize = 64;
/// Part of all connections that one client may have.
const CLIENT_SHARE: usize = 4;
/// Pause after a failed accept, for example because there is no file descriptor left.
const PAUSE: Duration = Duration::from_millis(50);
/// Time for answers under way at the stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// The open connections: how many there may be, and of whom they are.
#[derive(Debug)]
pub struct Connections {
    max: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

impl Connections {
    /// Allows so many connections, a quarter of them to one client.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { max, open: Mutex::default() }
    }

    fn enter(self: &Arc<Self>, client: IpAddr) -> Option<Place> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = open.values().sum();
        let own = open.get(&client).copied().unwrap_or(0);
        if all >= self.max || own >= self.max.div_ceil(CLIENT_SHARE) {
            return None;
        }
        *open.entry(client).or_default() += 1;
        Some(Place { of: Arc::clone(self), client })
    }
}

/// A connection's place among those that may be open.
struct Place {
    of: Arc<Connections>,
    client: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.of.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = open.get_mut(&self.client) {
            *own -= 1;
            if *own == 0 {
                open.remove(&self.client);
            }
        }
    }
}

/// Answers on a listener until `stop`. `waiting` bounds the questions that wait for upstreams.
pub async fn serve(
    listener: TcpListener,
    server: Arc<Server>,
    connections: Arc<Connections>,
    waiting: Arc<Semaphore>,
    stop: CancellationToken,
) {
    let tracker = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, client) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Some(place) = connections.enter(client.ip().to_canonical()) else {
            server.metrics.dropped(Dropped::Connections);
            continue;
        };
        let connection = Connection {
            server: Arc::clone(&server),
            waiting: Arc::clone(&waiting),
            client,
            stop: stop.clone(),
        };
        tracker.spawn(async move {
            let _place = place;
            if let Err(error) = connection.run(stream).await {
                tracing::debug!(%client, %error, "connection ended");
            }
        });
    }
    drop(listener);
    tracker.close();
    // A client that does not read its answers does not delay the stop.
    _ = timeout(DRAIN_TIMEOUT, tracker.wait()).await;
}

struct Connection {
    server: Arc<Server>,
    waiting: Arc<Semaphore>,
    client: SocketAddr,
    stop: CancellationToken,
}

impl Connection {
    async fn run(self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        let (answers, to_write) = mpsc::channel(PIPELINE_MAX);
        // The writer ends when the reader and all questions under way have, or when the client does not read.
        let (read, written) = tokio::join!(self.read(reader, answers), write(writer, to_write));
        read.and(written)
    }

    async fn read(
        self,
        mut reader: OwnedReadHalf,
        answers: mpsc::Sender<Vec<u8>>,
    ) -> io::Result<()> {
        let under_way = Arc::new(Semaphore::new(PIPELINE_MAX));
        loop {
            let packet = tokio::select! {
                () = self.stop.cancelled() => return Ok(()),
                () = answers.closed() => return Ok(()),
                packet = next(&mut reader) => packet?,
            };
            let Some(packet) = packet else { return Ok(()) };
            let pending = match self.server.begin(&packet, self.client, Transport::Tcp) {
                Step::Reply(bytes) => {
                    if answers.send(bytes).await.is_err() {
                        return Ok(());
                    }
                    continue;
                }
                // A client that asks too much, or what is no question.
                Step::Nothing => return Ok(()),
                Step::Ask(pending) => pending,
            };
            let Ok(place) = Arc::clone(&under_way).acquire_owned().await else { return Ok(()) };
            let (server, answers) = (Arc::clone(&self.server), answers.clone());
            let waiting = Arc::clone(&self.waiting);
            tokio::spawn(async move {
                let _place = place;
                let step = match waiting.try_acquire() {
                    Ok(_permit) => server.finish(*pending).await,
                    Err(_) => server.give_up(*pending),
                };
                if let Step::Reply(bytes) = step {
                    // A send error means that the client is gone.
                    _ = answers.send(bytes).await;
                }
            });
        }
    }
}

/// The next message; `None` at the end, or if the client is silent for too long.
async fn next(reader: &mut OwnedReadHalf) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 2];
    let first = timeout(IDLE_TIMEOUT, reader.read(&mut length[..1])).await;
    if !matches!(first, Ok(Ok(1))) {
        return Ok(None);
    }
    let rest = async {
        reader.read_exact(&mut length[1..]).await?;
        let mut packet = vec![0; usize::from(u16::from_be_bytes(length))];
        reader.read_exact(&mut packet).await?;
        Ok(packet)
    };
    timeout(MESSAGE_TIMEOUT, rest).await.map_err(io::Error::from)?.map(Some)
}

async fn write(mut writer: OwnedWriteHalf, mut answers: mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
    while let Some(answer) = answers.recv().await {
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let framed = [&length.to_be_bytes()[..], &answer].concat();
        timeout(WRITE_TIMEOUT, writer.write_all(&framed)).await.map_err(io::Error::from)??;
    }
    writer.shutdown().await
}
