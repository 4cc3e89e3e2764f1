//! Connections of the replicas to a server, through which they can be cut off from it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Forwards connections until it is dropped. While it is cut, bytes are held, as by a network that loses every packet:
/// nobody is told, and what is still wanted after the repair arrives then.
#[derive(Debug)]
pub(super) struct Proxy {
    /// Where the replicas connect.
    pub(super) at: SocketAddr,
    open: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port of `from`, and forwards to `to`.
    pub(super) async fn start(from: Ipv4Addr, to: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((from, 0)).await.context("listen for the replicas")?;
        let at = listener.local_addr()?;
        let (open, opened) = watch::channel(true);
        let task = tokio::spawn(serve(listener, to, opened));
        Ok(Self { at, open, task })
    }

    /// Cuts all connections, or repairs them.
    pub(super) fn cut(&self, cut: bool) {
        self.open.send_replace(!cut);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, to: SocketAddr, open: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((client, _)) = accepted {
                    connections.spawn(carry(client, to, open.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// One connection. It ends when either side closes it.
async fn carry(client: TcpStream, to: SocketAddr, mut open: watch::Receiver<bool>) {
    if open.wait_for(|open| *open).await.is_err() {
        return;
    }
    let Ok(server) = TcpStream::connect(to).await else { return };
    for stream in [&client, &server] {
        // Without it a connection is only slower.
        _ = stream.set_nodelay(true);
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        _ = pump(from_client, to_server, open.clone()) => {}
        _ = pump(from_server, to_client, open) => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut open: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 || open.wait_for(|open| *open).await.is_err() {
            return Ok(());
        }
        to.write_all(&buffer[..read]).await?;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// Bytes pass, are held while it is cut, and arrive after the repair.
    #[tokio::test]
    async fn what_is_held_arrives_later() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let proxy = Proxy::start(Ipv4Addr::LOCALHOST, server.local_addr().unwrap()).await.unwrap();
        let mut client = TcpStream::connect(proxy.at).await.unwrap();
        let (mut served, _) = server.accept().await.unwrap();
        let mut byte = [0];
        client.write_all(b"a").await.unwrap();
        served.read_exact(&mut byte).await.unwrap();
        assert_eq!(byte, *b"a");
        proxy.cut(true);
        client.write_all(b"b").await.unwrap();
        let short = Duration::from_millis(100);
        timeout(short, served.read_exact(&mut byte)).await.unwrap_err();
        proxy.cut(false);
        served.read_exact(&mut byte).await.unwrap();
        assert_eq!(byte, *b"b");
    }
}
