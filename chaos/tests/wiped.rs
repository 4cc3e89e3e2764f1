//! A founder whose disk was lost does not come back under its id: it has forgotten what it voted for.

use std::time::{Duration, Instant};

use hyper::Method;
use romana_chaos::cluster::{Cluster, ClusterOptions, find_romanad};
use romana_chaos::http::once;
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_founder_is_refused_and_the_others_go_on() {
    let options = ClusterOptions {
        replicas: 3,
        romanad: find_romanad(None).expect("cargo build --workspace --bins comes first"),
        previous: None,
        parent: None,
        power: None,
        lying_disk: false,
        users: false,
    };
    let mut cluster = Cluster::start(options).await.expect("three replicas");
    wait_claims(&cluster, 3).await;
    let leader = cluster.wait_leader(PATIENCE).await.expect("a leader");
    let at = (leader + 1) % 3;
    cluster.kill(at).expect("it dies");
    std::fs::remove_dir_all(cluster.data_dir(at)).expect("its disk is gone");
    cluster.start_replica(at).expect("it starts");

    let start = Instant::now();
    while cluster.crashes().is_empty() {
        assert!(start.elapsed() < PATIENCE, "it takes part\n{}", cluster.log_tails(20));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let log = std::fs::read_to_string(cluster.log_path(at)).expect("a log");
    let command = format!("romana cluster replace {}", cluster.replicas()[at].id);
    assert!(log.lines().any(|line| line.contains(&command)), "{log}");
    let api = cluster.replicas()[leader].api;
    let tenant = json!({"labels": {}});
    let put = once(api, Method::PUT, "/v1/tenants/t", Some(&tenant), PATIENCE).await;
    assert_eq!(put.expect("an answer").status, 201);
}

/// Waits until so many replicas have claimed their ids.
async fn wait_claims(cluster: &Cluster, count: usize) {
    let start = Instant::now();
    loop {
        let path = "/v1/snapshot?topics=cluster";
        let answer = once(cluster.apis()[0], Method::GET, path, None, PATIENCE).await;
        let claimed = answer.map(|answer| {
            let members = answer.body["members"].as_array().cloned().unwrap_or_default();
            members.iter().filter(|member| member["nonce"].is_string()).count()
        });
        if claimed.is_ok_and(|claimed| claimed == count) {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "not all have claimed their ids");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
