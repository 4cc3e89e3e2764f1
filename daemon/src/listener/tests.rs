use std::net::SocketAddr;

use axum::Router;
use axum::routing::get;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::*;

const ASK: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

async fn listening(max: usize, router: Router) -> (Connections, SocketAddr, JoinHandle<()>) {
    let connections = Connections::new(max, plain_answers(), Counters::default());
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let service = TowerToHyperService::new(router);
    let accepting = tokio::spawn({
        let connections = connections.clone();
        async move { connections.accept(&listener, Plain, move |_| service.clone()).await }
    });
    (connections, address, accepting)
}

/// Reads until the text has arrived.
async fn read_until(stream: &mut (impl AsyncRead + Unpin), end: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(end) {
        let byte = stream.read_u8().await.unwrap_or_else(|error| panic!("{error} after {text}"));
        text.push(char::from(byte));
    }
    text
}

#[tokio::test]
async fn connections_beyond_the_bound_are_closed_and_counted() {
    let router = Router::new().route("/", get(|| async { "well" }));
    let (connections, address, accepting) = listening(1, router).await;
    let mut one = TcpStream::connect(address).await.unwrap();
    one.write_all(ASK).await.unwrap();
    read_until(&mut one, "well").await;
    let mut two = TcpStream::connect(address).await.unwrap();
    assert_eq!(two.read_to_end(&mut Vec::new()).await.unwrap(), 0);
    assert_eq!((connections.open(), connections.counters.refused.get()), (1, 1));
    assert_eq!(connections.counters.open.get(), 1);
    accepting.abort();
    // The connection is idle, so it is closed at once.
    connections.drain(HEAD_TIMEOUT).await;
    assert_eq!(one.read_to_end(&mut Vec::new()).await.unwrap(), 0);
    assert_eq!((connections.open(), connections.counters.open.get()), (0, 0));
}

#[tokio::test]
async fn requests_in_progress_end_before_the_drain_does() {
    let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell, wait) = (Arc::clone(&begun), Arc::clone(&go));
    let slow = move || {
        let (tell, wait) = (Arc::clone(&tell), Arc::clone(&wait));
        async move {
            tell.notify_one();
            wait.notified().await;
            "done"
        }
    };
    let (connections, address, _accepting) =
        listening(9, Router::new().route("/", get(slow))).await;
    let mut one = TcpStream::connect(address).await.unwrap();
    one.write_all(ASK).await.unwrap();
    begun.notified().await;
    let draining = tokio::spawn({
        let connections = connections.clone();
        async move { connections.drain(HEAD_TIMEOUT).await }
    });
    connections.finishing.cancelled().await;
    go.notify_one();
    read_until(&mut one, "done").await;
    draining.await.unwrap();

    let mut stuck = TcpStream::connect(address).await.unwrap();
    stuck.write_all(ASK).await.unwrap();
    // Connections accepted after this are closed soon.
    connections.cut();
    assert_eq!(stuck.read_to_end(&mut Vec::new()).await.unwrap_or(0), 0);
}

/// A stream other than TCP, such as one created by a handshake.
#[derive(Clone)]
struct Wrapped(Arc<tokio::sync::Mutex<Option<DuplexStream>>>);

impl Acceptor for Wrapped {
    type Stream = DuplexStream;

    async fn accept(&self, _: TcpStream) -> io::Result<DuplexStream> {
        self.0.lock().await.take().ok_or_else(|| io::Error::other("no handshake"))
    }
}

#[tokio::test]
async fn http_is_spoken_on_whatever_the_acceptor_makes() {
    let connections = Connections::new(9, plain_answers(), Counters::default());
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let (mut ours, theirs) = duplex(1024);
    let acceptor = Wrapped(Arc::new(tokio::sync::Mutex::new(Some(theirs))));
    let router = Router::new().route("/", get(|| async { "well" }));
    let accepting = tokio::spawn({
        let connections = connections.clone();
        let service = TowerToHyperService::new(router);
        async move { connections.accept(&listener, acceptor, move |_| service.clone()).await }
    });
    let _one = TcpStream::connect(address).await.unwrap();
    ours.write_all(b"nonsense\r\n\r\n").await.unwrap();
    let text = read_until(&mut ours, "no head of HTTP/1.1\n").await;
    assert!(text.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{text}");
    let mut refused = TcpStream::connect(address).await.unwrap();
    assert_eq!(refused.read_to_end(&mut Vec::new()).await.unwrap_or(0), 0);
    accepting.abort();
    drop(ours);
    connections.drain(HEAD_TIMEOUT).await;
}
