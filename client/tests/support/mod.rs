//! A small HTTP server that misbehaves as configured.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use romana_client::{Client, ClientConfig, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Waits until a condition holds.
pub(crate) async fn until(what: &str, patience: Duration, mut so: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + patience;
    while !so().await {
        assert!(tokio::time::Instant::now() < deadline, "not within {patience:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The server's reaction to a request.
pub(crate) enum Act {
    /// Status, further header lines, body.
    Reply(u16, &'static str, String),
    /// Closes the connection without a response.
    Cut,
    /// Sends this and closes the connection.
    Raw(String),
    /// Sends nothing until the client closes the connection.
    Stall,
    /// Sends the pieces of a body, with this delay before each.
    Slowly(Vec<String>, Duration),
    /// Sends pieces of an endless body, then closes the connection (`true`) or stays silent.
    Pieces(Vec<String>, bool),
}

impl Act {
    pub(crate) fn ok(body: impl Into<String>) -> Self {
        Self::Reply(200, "", body.into())
    }

    pub(crate) fn status(status: u16, body: &str) -> Self {
        Self::Reply(status, "", body.into())
    }
}

/// A received request.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) line: String,
    pub(crate) head: String,
    pub(crate) body: String,
}

type Handler = dyn Fn(usize, &Seen) -> Act + Send + Sync;

/// The server. Stops with its runtime.
pub(crate) struct Fake {
    pub(crate) port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Fake {
    /// The handler gets the number of the request (0, 1, …) and the request. Requests for the cluster status are not
    /// counted; `cluster` is their response, if set.
    pub(crate) async fn start(
        cluster: Option<String>,
        handler: impl Fn(usize, &Seen) -> Act + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let handler: Arc<Handler> = Arc::new(handler);
        let log = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(
                    stream,
                    cluster.clone(),
                    Arc::clone(&handler),
                    Arc::clone(&log),
                ));
            }
        });
        Self { port, seen }
    }

    pub(crate) fn server(&self) -> Server {
        Server::parse("127.0.0.1", self.port).unwrap()
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn client(&self) -> Client {
        client(vec![self.server()])
    }
}

/// A client with short timeouts.
pub(crate) fn client(servers: Vec<Server>) -> Client {
    Client::new(ClientConfig {
        timeout: Duration::from_secs(5),
        attempt_timeout: Duration::from_millis(300),
        actor: "tester".into(),
        ..ClientConfig::new(servers)
    })
    .unwrap()
}

async fn serve(
    mut stream: TcpStream,
    cluster: Option<String>,
    handler: Arc<Handler>,
    log: Arc<Mutex<Vec<Seen>>>,
) -> Option<()> {
    let mut buffer = Vec::new();
    loop {
        let seen = read(&mut stream, &mut buffer).await?;
        let act = if seen.line.starts_with("GET /v1/cluster ") {
            let none = || Act::status(404, "{}");
            cluster.clone().map_or_else(none, Act::ok)
        } else {
            let number = {
                let mut log = log.lock().unwrap();
                log.push(seen.clone());
                log.len() - 1
            };
            handler(number, &seen)
        };
        match act {
            Act::Reply(status, headers, body) => {
                let length = body.len();
                let head =
                    format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: {length}\r\n\r\n");
                stream.write_all(format!("{head}{body}").as_bytes()).await.ok()?;
            }
            Act::Cut => return None,
            Act::Raw(text) => {
                stream.write_all(text.as_bytes()).await.ok()?;
                return None;
            }
            Act::Stall => {
                // Waits until the client closes the connection.
                while stream.read(&mut [0; 64]).await.ok()? > 0 {}
                return None;
            }
            Act::Slowly(pieces, pace) => {
                let length: usize = pieces.iter().map(String::len).sum();
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
                stream.write_all(head.as_bytes()).await.ok()?;
                let mut clock = tokio::time::interval(pace);
                for piece in pieces {
                    clock.tick().await;
                    stream.write_all(piece.as_bytes()).await.ok()?;
                }
            }
            Act::Pieces(pieces, close) => {
                let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                stream.write_all(head.as_bytes()).await.ok()?;
                for piece in pieces {
                    let chunk = format!("{:x}\r\n{piece}\r\n", piece.len());
                    stream.write_all(chunk.as_bytes()).await.ok()?;
                    stream.flush().await.ok()?;
                }
                if close {
                    return None;
                }
                while stream.read(&mut [0; 64]).await.ok()? > 0 {}
                return None;
            }
        }
    }
}

async fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Seen> {
    loop {
        let text = String::from_utf8_lossy(buffer).into_owned();
        if let Some((head, rest)) = text.split_once("\r\n\r\n") {
            let head = head.to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.map_or(0, |text| text.parse().unwrap());
            if rest.len() >= length {
                let body = rest[..length].to_owned();
                buffer.drain(..head.len() + 4 + length);
                let line = text.lines().next().unwrap().to_owned();
                return Some(Seen { line, head, body });
            }
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}
