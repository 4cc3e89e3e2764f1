//! Sends forged peer messages to real replicas: all are refused and counted, and the cluster is unchanged
//! afterwards, also after a restart.

use std::time::Duration;

use anyhow::Context;
use hyper::Method;
use romana_chaos::cluster::{Cluster, ClusterOptions, find_romanad};
use romana_chaos::forger::{Forgery, Target};
use romana_chaos::http::once;
use romana_chaos::wait::until;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(30);
const ASK: Duration = Duration::from_secs(3);

/// The number of messages that a replica has refused for a reason.
async fn refused(cluster: &Cluster, at: usize, reason: &str) -> u64 {
    let wanted = format!("romanad_peer_messages_refused_total{{reason=\"{reason}\"}} ");
    let mut stream = TcpStream::connect(cluster.replicas()[at].api).await.expect("it listens");
    let ask = b"GET /metrics HTTP/1.1\r\nHost: romana\r\nConnection: close\r\n\r\n";
    stream.write_all(ask).await.expect("it reads");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("metrics");
    text.lines().find_map(|line| line.strip_prefix(&wanted)?.parse().ok()).unwrap_or(0)
}

/// Writes at each replica, and checks that the term is one that elections can have reached.
async fn goes_on(cluster: &mut Cluster, name: &str) {
    cluster.wait_ready(PATIENCE).await.expect("three replicas");
    for (at, api) in cluster.apis().into_iter().enumerate() {
        let path = format!("/v1/tenants/{name}-{at}");
        let labels = json!({"labels": {}});
        let written = until("a write", PATIENCE, async || {
            let put = once(api, Method::PUT, &path, Some(&labels), ASK).await;
            put.is_ok_and(|answer| answer.status < 300)
        });
        let logs = || format!("{name}\n{}", cluster.log_tails(30));
        written.await.with_context(logs).expect("a cluster that goes on");
        let status = once(api, Method::GET, "/v1/cluster", None, ASK).await.expect("a status").body;
        assert!(status["term"].as_u64().is_some_and(|term| term < 10_000), "{name}: {status}");
    }
    assert_eq!(cluster.crashes(), Vec::<String>::new(), "{name}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_forged_is_believed() {
    let romanad = find_romanad(None).expect("cargo build --workspace --bins comes first");
    let mut cluster = Cluster::start(ClusterOptions::new(romanad)).await.expect("three replicas");
    goes_on(&mut cluster, "before").await;
    let api = cluster.apis()[0];
    let status = once(api, Method::GET, "/v1/cluster", None, ASK).await.expect("a status").body;
    let name = status["cluster_id"].as_str().expect("an id").to_owned();
    for at in 0..3 {
        let replica = &cluster.replicas()[at];
        let from = 1 + replica.id % 3;
        let target = Target { peer: replica.peer, id: replica.id, from, cluster: name.clone() };
        for forgery in Forgery::ALL {
            // Each is counted under the right reason, which shows that the forgery was parsed.
            let reason = match forgery {
                Forgery::Garbage | Forgery::Giant => "Garbage",
                _ => "Implausible",
            };
            let before = refused(&cluster, at, reason).await;
            let answered = target.send(forgery).await.expect("it listens");
            assert!(!answered, "replica {} answered {forgery:?}", target.id);
            let what = format!("{forgery:?} is counted as {reason}");
            let counted = until(&what, PATIENCE, async || {
                forgery == Forgery::Half || refused(&cluster, at, reason).await > before
            });
            counted.await.expect("a count");
        }
    }
    goes_on(&mut cluster, "after").await;
    for at in 0..3 {
        cluster.kill(at).expect("it ran");
    }
    for at in 0..3 {
        cluster.start_replica(at).expect("it starts");
    }
    goes_on(&mut cluster, "again").await;
}
