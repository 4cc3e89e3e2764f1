//! Clients that never read, read slowly, or send half a body: the replica may refuse them, but its memory
//! must stay bounded, and it must serve the others (the laws `memory` and `served`).

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{Kind, Needs, Sort, nobody, one, present_victim};

/// Clients of each type.
const CLIENTS: usize = 40;
/// Duration of the abuse.
const DWELL: Duration = Duration::from_secs(3);
/// Interval between bytes that are read.
const BYTE_EVERY: Duration = Duration::from_millis(50);
/// Announced size of a body, and the part that is sent: in total far more than the budget of bodies.
const BODY_BYTES: usize = 15 << 20;
const HALF_BYTES: usize = 12 << 20;

/// Many clients abuse one replica.
pub(crate) const ABUSE: Kind = Kind {
    name: "abusive-clients",
    about: "many clients of a replica never read, read a byte at a time, or send half a body",
    sort: Sort::Hostile,
    needs: Needs::NOTHING,
    begin: |cluster, id, rng| {
        Box::pin(async move {
            let Some(at) = present_victim(cluster, rng).await else { return Ok(nobody(id)) };
            let mut crowd = crowd(cluster.replicas()[at].api);
            sleep(DWELL).await;
            crowd.shutdown().await;
            Ok(one(cluster, id, at))
        })
    },
    end: |_, _| Box::pin(async { Ok(()) }),
};

/// Starts all clients. Every second one reads a byte now and then, the others never.
fn crowd(api: SocketAddr) -> JoinSet<std::io::Result<()>> {
    let get = |path: &str| (format!("GET {path} HTTP/1.1\r\nHost: romana\r\n\r\n"), 0);
    let half = format!(
        "POST /v1/batch HTTP/1.1\r\nHost: romana\r\nContent-Type: application/json\r\n\
         Content-Length: {BODY_BYTES}\r\n\r\n"
    );
    let asked = [
        get("/v1/audit/export"),
        get("/v1/events?from=0"),
        get("/v1/audit/log"),
        (half, HALF_BYTES),
    ];
    let mut all = JoinSet::new();
    for (head, more) in asked {
        for number in 0..CLIENTS {
            all.spawn(abuse(api, head.clone(), more, number % 2 == 0));
        }
    }
    all
}

/// One client. It is expected to be refused or not read.
async fn abuse(api: SocketAddr, head: String, more: usize, reads: bool) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(api).await?;
    stream.write_all(head.as_bytes()).await?;
    let piece = [b' '; 64 << 10];
    for _ in 0..more / piece.len() {
        stream.write_all(&piece).await?;
    }
    let mut byte = [0];
    while !reads || stream.read(&mut byte).await? > 0 {
        sleep(BYTE_EVERY).await;
    }
    Ok(())
}
