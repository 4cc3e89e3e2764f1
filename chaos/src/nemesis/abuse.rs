//! Clients that never read, read a byte at a time, or send half a body: the replica that they ask may refuse them, and
//! must not grow. The bound is on its memory, in bytes that do not depend on how fast this machine is.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::{Kind, Needs, Sort, nobody, one, victim};
use crate::bench::report::resident_bytes;

/// Clients of each way.
const CLIENTS: usize = 40;
/// How long they go on.
const DWELL: Duration = Duration::from_millis(1500);
/// Between two looks at the replica, and two bytes that are read.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// What they may cost together: the budgets of bodies and answers, and what the load takes meanwhile.
const GROWTH_BYTES_MAX: u64 = 300 << 20;
/// Bytes of a body that is not sent to its end.
const HALF_BYTES: usize = 1 << 20;

/// One replica, by many clients.
pub(super) const ABUSE: Kind = Kind {
    name: "abusive-clients",
    about: "many clients of a replica never read, read a byte at a time, or send half a body",
    sort: Sort::Hostile,
    needs: Needs::NOTHING,
    begin: |cluster, id, rng| {
        Box::pin(async move {
            // An older program has no budgets: that is why this fault is there.
            let Some(at) = victim(cluster, rng).await.filter(|_| cluster.outdated().is_none())
            else {
                return Ok(nobody(id));
            };
            let replica = &cluster.replicas()[at];
            let (api, Some(pid)) = (replica.api, replica.pid()) else { return Ok(nobody(id)) };
            let before = resident_bytes(Some(pid));
            let clients = crowd(api).await;
            let most = dwell(clients, pid).await;
            let grown = most.saturating_sub(before);
            ensure!(
                grown <= GROWTH_BYTES_MAX,
                "replica {} grew by {} MB for clients that do not read or do not finish",
                replica.id,
                grown >> 20
            );
            let mut hit = one(cluster, id, at);
            hit.told.push_str(&format!(", +{} MB", grown >> 20));
            Ok(hit)
        })
    },
    end: |_, _| Box::pin(async { Ok(()) }),
};

/// Connections with requests that are under way; those that could not be made are not there.
async fn crowd(api: SocketAddr) -> Vec<TcpStream> {
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: romana\r\n\r\n").into_bytes();
    let head = "POST /v1/batch HTTP/1.1\r\nHost: romana\r\nContent-Type: application/json\r\n\
                Content-Length: 8000000\r\n\r\n";
    let half = [head.as_bytes(), &vec![b' '; HALF_BYTES]].concat();
    let asked = [get("/v1/audit/export"), get("/v1/events?from=0"), get("/v1/audit/log"), half];
    let mut all = Vec::new();
    for request in asked.iter().flat_map(|request| std::iter::repeat_n(request, CLIENTS)) {
        let sent = async {
            let mut stream = TcpStream::connect(api).await?;
            stream.write_all(request).await?;
            Ok::<_, std::io::Error>(stream)
        };
        // One that is refused, or not read, is what is asked for.
        if let Ok(Ok(stream)) = timeout(LOOK_EVERY, sent).await {
            all.push(stream);
        }
    }
    all
}

/// Waits, with a byte read of every second one now and then; the most memory that the replica took.
async fn dwell(mut clients: Vec<TcpStream>, pid: u32) -> u64 {
    let (until, mut most) = (Instant::now() + DWELL, 0);
    while Instant::now() < until {
        for client in clients.iter_mut().step_by(2) {
            let mut byte = [0];
            _ = timeout(Duration::from_micros(100), client.read(&mut byte)).await;
        }
        most = most.max(resident_bytes(Some(pid)));
        sleep(LOOK_EVERY).await;
    }
    most
}
