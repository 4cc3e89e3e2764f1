//! Questions by UDP.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{Server, Step};
use crate::metrics::Transport;

/// Largest request that is read: an EDNS request with options is far smaller.
const REQUEST_BYTES_MAX: usize = 4_096;
/// Pause after an error of the socket, which does not concern one client.
const PAUSE: Duration = Duration::from_millis(50);

/// Answers on a socket until `stop`. `waiting` bounds the questions that wait for upstreams.
pub async fn serve(
    socket: Arc<UdpSocket>,
    server: Arc<Server>,
    waiting: Arc<Semaphore>,
    stop: CancellationToken,
) {
    let mut buffer = vec![0; REQUEST_BYTES_MAX];
    loop {
        let received = tokio::select! {
            () = stop.cancelled() => return,
            received = socket.recv_from(&mut buffer) => received,
        };
        let (length, client) = match received {
            Ok(received) => received,
            // An ICMP error for an earlier answer.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => {
                tracing::warn!(%error, "receiving by UDP failed");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        match server.begin(&buffer[..length], client, Transport::Udp) {
            Step::Reply(bytes) => send(&socket, &bytes, client).await,
            Step::Nothing => {}
            Step::Ask(pending) => match Arc::clone(&waiting).try_acquire_owned() {
                Ok(permit) => {
                    let (socket, server) = (Arc::clone(&socket), Arc::clone(&server));
                    tokio::spawn(async move {
                        let _permit = permit;
                        if let Step::Reply(bytes) = server.finish(*pending).await {
                            send(&socket, &bytes, client).await;
                        }
                    });
                }
                Err(_) => {
                    if let Step::Reply(bytes) = server.give_up(*pending) {
                        send(&socket, &bytes, client).await;
                    }
                }
            },
        }
    }
}

async fn send(socket: &UdpSocket, bytes: &[u8], client: SocketAddr) {
    if let Err(error) = socket.send_to(bytes, client).await {
        tracing::debug!(%client, %error, "sending an answer failed");
    }
}
