//! Clients that never read, read a byte now and then, send half of a request, or send garbage: the
//! others are served, and the resources are released afterwards.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};

use super::world::{World, allocation};

/// Longer than any step of these tests may take.
const LONG: Duration = Duration::from_secs(60);
/// Much longer than an answer takes that waits for nothing.
const SOON: Duration = Duration::from_secs(5);

/// A connection with a minimal receive buffer.
async fn lazy(world: &World) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(2048).unwrap();
    socket.connect(world.address).await.unwrap()
}

async fn say(world: &World, text: &[u8]) -> TcpStream {
    let mut stream = lazy(world).await;
    stream.write_all(text).await.unwrap();
    stream
}

async fn ask(world: &World, target: &str) -> TcpStream {
    say(world, format!("GET {target} HTTP/1.1\r\nhost: romana\r\n\r\n").as_bytes()).await
}

/// Reads the head of an answer.
async fn head(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\r\n\r\n") {
        match timeout(LONG, stream.read(&mut byte)).await.unwrap().unwrap() {
            0 => break,
            _ => text.push(byte[0]),
        }
    }
    String::from_utf8(text).unwrap()
}

async fn status(stream: &mut TcpStream) -> String {
    head(stream).await.split(' ').nth(1).unwrap_or("nothing").to_owned()
}

/// Reads everything until the end.
async fn whole(mut stream: TcpStream) -> String {
    let mut text = String::new();
    timeout(SOON, stream.read_to_string(&mut text)).await.unwrap().unwrap();
    text
}

/// Creates many records.
async fn history(world: &World) {
    for round in 0..12 {
        let tenant = |n: u32| {
            let labels = json!({"about": "x".repeat(200)});
            json!({"CreateTenant": {"id": format!("t{round}-{n}"), "labels": labels}})
        };
        let batch: Vec<Value> = (0..2000).map(tenant).collect();
        assert_eq!(world.post("/v1/batch", &json!(batch)).await.status, 200);
    }
}

/// Checks that other clients are served.
async fn others(world: &World) {
    let started = Instant::now();
    for (n, target) in
        ["/v1/hosts", "/v1/audit/who?ip=10.111.0.0", "/v1/ipam/check", "/v1/audit/state?at=3"]
            .into_iter()
            .enumerate()
    {
        assert_eq!(world.get(target).await.status, 200, "{target}");
        let name = format!("other-{n}");
        assert!(world.post("/v1/addresses", &allocation(&name, "h1")).await.status.is_success());
    }
    assert!(started.elapsed() < SOON, "it took {:?}", started.elapsed());
}

/// Repeats a request until it gets this answer.
async fn becomes(world: &World, target: &str, wanted: &str) {
    let until = Instant::now() + LONG;
    loop {
        let got = status(&mut ask(world, target).await).await;
        if got == wanted {
            return;
        }
        assert!(Instant::now() < until, "{target} is still {got}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_request_is_answered_whatever_follows() {
    let world = World::furnished().await;
    for tail in ["", "\r\n", "\n", "x", "GET /he", "\0\0\0\0"] {
        let text = format!("GET /healthz HTTP/1.1\r\nhost: romana\r\n\r\n{tail}");
        let mut stream = say(&world, text.as_bytes()).await;
        let status = timeout(SOON, status(&mut stream)).await;
        assert_eq!(status.as_deref(), Ok("200"), "{tail:?}");
    }
    let two = "GET /healthz HTTP/1.1\r\nhost: romana\r\n\r\n".repeat(2);
    let mut stream = say(&world, two.as_bytes()).await;
    let first = head(&mut stream).await;
    let length = first.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).await.unwrap();
    assert_eq!(status(&mut stream).await, "200");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_is_none_gets_a_status_and_a_body() {
    let world = World::furnished().await;
    let many: String = (0..65).map(|n| format!("h{n}: x\r\n")).collect();
    let long = "x".repeat(200_000);
    let cases = [
        (format!("GET /healthz HTTP/1.1\r\nhost: r\r\n{many}\r\n"), 431, "HeadTooLarge"),
        (format!("GET /healthz HTTP/1.1\r\nhost: {long}\r\n\r\n"), 431, "HeadTooLarge"),
        (format!("GET /{long} HTTP/1.1\r\nhost: r\r\n\r\n"), 414, "UriTooLong"),
        ("POST /v1/hosts HTTP/1.1\r\nhost: r\r\ncontent-length: x\r\n\r\n".into(), 400, ""),
        ("POST /v1/hosts HTTP/1.1\r\nhost: r\r\ncontent-length: -1\r\n\r\n".into(), 400, ""),
        (
            "POST /v1/hosts HTTP/1.1\r\nhost: r\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx"
                .into(),
            400,
            "",
        ),
        ("POST /v1/hosts HTTP/1.1\r\nhost: r\r\ntransfer-encoding: zip\r\n\r\n".into(), 400, ""),
        ("GET /healthz HTTP/9.9\r\n\r\n".into(), 400, ""),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), 400, ""),
        ("hello\r\n\r\n".into(), 400, ""),
        ("\0\u{1}\u{2}\r\n\r\n".into(), 400, ""),
    ];
    for (text, status, code) in cases {
        let shown = text.get(..60).unwrap_or(&text).to_owned();
        let answer = whole(say(&world, text.as_bytes()).await).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{shown:?}"));
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{shown:?}: {head}");
        assert!(head.contains("x-romana-revision: "), "{head}");
        let body: Value = serde_json::from_str(body).unwrap();
        let code = if code.is_empty() { "MalformedHead" } else { code };
        assert_eq!(body["error"]["code"], code, "{shown:?}");
        assert!(!body["error"]["hint"].as_str().unwrap().is_empty());
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_sent_bodies_take_no_more_than_their_budget() {
    let world = World::furnished().await;
    let size = 15 << 20;
    let head = format!(
        "POST /v1/batch HTTP/1.1\r\nhost: r\r\ncontent-type: application/json\r\n\
         x-romana-timeout-ms: 60000\r\ncontent-length: {size}\r\n\r\n"
    );
    let half = vec![b' '; 4 << 20];
    let mut senders = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let mut stream = TcpStream::connect(world.address).await.unwrap();
        let (head, half) = (head.clone(), half.clone());
        senders.spawn(async move {
            stream.write_all(head.as_bytes()).await.unwrap();
            // Some are refused before they have sent their half.
            _ = stream.write_all(&half).await;
            status(&mut stream).await
        });
    }
    others(&world).await;
    let mut said = std::collections::BTreeMap::new();
    while let Some(status) = timeout(LONG, senders.join_next()).await.unwrap() {
        *said.entry(status.unwrap()).or_insert(0) += 1;
    }
    let known = said.keys().all(|status| ["408", "429"].contains(&status.as_str()));
    assert!(known && said.contains_key("408") && said.contains_key("429"), "{said:?}");
    // Their budget was released: a large body is accepted again.
    let large = format!("[{}]", " ".repeat(12 << 20));
    let headers = [("content-type", "application/json")];
    assert_eq!(world.ask("POST", "/v1/batch", &headers, large).await.status, 200);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_exports_hold_nobody_up() {
    let world = World::furnished().await;
    history(&world).await;
    let mut unread = Vec::new();
    let mut refused = 0;
    for _ in 0..8 {
        let mut stream = ask(&world, "/v1/audit/export").await;
        let head = head(&mut stream).await;
        if head.starts_with("HTTP/1.1 429 ") {
            assert!(head.contains("retry-after: "), "{head}");
            refused += 1;
        } else {
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
            unread.push(stream);
        }
    }
    assert_eq!((unread.len(), refused), (4, 4));
    others(&world).await;
    drop(unread);
    becomes(&world, "/v1/audit/export", "200").await;
    let export = world.get("/v1/audit/export").await;
    assert!(String::from_utf8_lossy(&export.body).ends_with("}}\n"));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_that_never_read_cost_nobody_anything() {
    let world = World::furnished().await;
    history(&world).await;
    let mut unread = Vec::new();
    for _ in 0..150 {
        unread.push(ask(&world, "/v1/events?from=0").await);
    }
    others(&world).await;
    // A follower that reads gets everything.
    let mut reader = ask(&world, "/v1/events?from=0").await;
    let last = world.replica.state().revision();
    let wanted = format!("\"bookmark\":{{\"revision\":{last}}}");
    let reading = async {
        let (mut text, mut piece) = (Vec::new(), vec![0; 64 << 10]);
        while !String::from_utf8_lossy(&text).contains(&wanted) {
            let read = reader.read(&mut piece).await.unwrap();
            assert_ne!(read, 0);
            text.drain(..text.len().saturating_sub(wanted.len() + 64));
            text.extend_from_slice(&piece[..read]);
        }
    };
    timeout(LONG, reading).await.unwrap();
    drop(unread);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proofs_and_plans_that_nobody_waits_for_end() {
    let world = World::furnished().await;
    history(&world).await;
    for _ in 0..60 {
        drop(ask(&world, "/v1/audit/verify").await);
    }
    let document = super::world::topology().to_string();
    for target in ["/v1/topology/plan", "/v1/policies/check"] {
        let length = document.len();
        let text = format!(
            "POST {target} HTTP/1.1\r\nhost: r\r\ncontent-length: {length}\r\n\r\n{document}"
        );
        for _ in 0..30 {
            drop(say(&world, text.as_bytes()).await);
        }
    }
    others(&world).await;
    becomes(&world, "/v1/audit/verify", "200").await;
    let plan = world.post("/v1/topology/plan", &super::world::topology()).await;
    assert_eq!(plan.status, 200);
    world.end().await;
}
