//! Members are added, removed and replaced under load: nothing acknowledged is lost.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hyper::Method;
use romana_chaos::cluster::{Cluster, ClusterOptions, find_romanad};
use romana_chaos::http::once;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(30);
const ASK: Duration = Duration::from_secs(3);

/// Creates tenants sequentially at any replica that accepts them. Returns those that were acknowledged.
async fn write(worker: usize, apis: Vec<SocketAddr>, stop: Arc<AtomicBool>) -> BTreeSet<String> {
    let mut acknowledged = BTreeSet::new();
    for turn in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("t{worker}-{turn}");
        let (path, api) = (format!("/v1/tenants/{name}"), apis[(worker + turn) % apis.len()]);
        let put = once(api, Method::PUT, &path, Some(&json!({"labels": {}})), ASK).await;
        if put.is_ok_and(|answer| matches!(answer.status, 200 | 201)) {
            acknowledged.insert(name);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    acknowledged
}

/// Sends a request to replicas that lead or know the leader, until it succeeds.
async fn ask(cluster: &Cluster, method: Method, path: &str, body: Option<Value>) -> Value {
    let start = Instant::now();
    loop {
        let mut last = String::from("nobody is up");
        for replica in cluster.replicas().iter().filter(|replica| replica.is_up()) {
            match once(replica.api, method.clone(), path, body.as_ref(), ASK).await {
                Ok(answer) if answer.status < 300 => return answer.body,
                Ok(answer) => last = answer.body.to_string(),
                Err(error) => last = error.to_string(),
            }
        }
        assert!(start.elapsed() < PATIENCE, "{method} {path}: {last}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until exactly these members vote and are healthy.
async fn wait_voters(cluster: &Cluster, ids: &[u64]) {
    let start = Instant::now();
    loop {
        let status = ask(cluster, Method::GET, "/v1/cluster", None).await;
        let members = status["members"].as_array().expect("members");
        let voters = members.iter().filter(|m| m["role"] != "learner" && m["healthy"] == true);
        let voters: Vec<u64> = voters.filter_map(|member| member["id"].as_u64()).collect();
        if voters == ids && members.len() == ids.len() {
            return;
        }
        let tails = || cluster.log_tails(30);
        assert!(start.elapsed() < PATIENCE, "not {ids:?}: {status:#}\n{}", tails());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn add(cluster: &mut Cluster, at: usize, replaces: Option<u64>) -> u64 {
    let peer = cluster.replicas()[at].peer.to_string();
    let body = json!({"peer": peer, "replaces": replaces});
    let added = ask(cluster, Method::POST, "/v1/cluster/members", Some(body)).await;
    let id = added["id"].as_u64().expect("an id");
    cluster.join_as(at, id).expect("an empty place");
    cluster.start_replica(at).expect("it starts");
    id
}

/// Removes a member, whose process must exit by itself.
async fn remove(cluster: &mut Cluster, at: usize) {
    let id = cluster.replicas()[at].id;
    ask(cluster, Method::DELETE, &format!("/v1/cluster/members/{id}"), None).await;
    let start = Instant::now();
    while cluster.replicas()[at].is_up() {
        let ended = cluster.crashes();
        assert!(ended.iter().all(|how| how.contains(&format!("replica {id} "))), "{ended:?}");
        assert!(start.elapsed() < PATIENCE, "{id} goes on\n{}", cluster.log_tails(30));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn digest(api: SocketAddr) -> Value {
    once(api, Method::GET, "/v1/digest", None, ASK).await.expect("an answer").body
}

#[tokio::test(flavor = "multi_thread")]
async fn members_come_and_go_under_load() {
    let options = ClusterOptions::new(
        find_romanad(None).expect("cargo build --workspace --bins comes first"),
    );
    let mut cluster = Cluster::start(options).await.expect("three replicas");
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..4)
        .map(|worker| tokio::spawn(write(worker, cluster.apis(), Arc::clone(&stop))))
        .collect();

    for _ in 0..2 {
        let at = cluster.add_place().expect("ports");
        add(&mut cluster, at, None).await;
    }
    wait_voters(&cluster, &[1, 2, 3, 4, 5]).await;

    // One of them is the leader, and transfers leadership first.
    let leader = cluster.wait_leader(PATIENCE).await.expect("a leader");
    remove(&mut cluster, leader).await;
    let next = (leader + 1) % 5;
    remove(&mut cluster, next).await;
    let left: Vec<usize> = (0..5).filter(|at| ![leader, next].contains(at)).collect();
    let ids = |cluster: &Cluster| {
        let mut ids: Vec<u64> = left.iter().map(|at| cluster.replicas()[*at].id).collect();
        ids.sort_unstable();
        ids
    };
    wait_voters(&cluster, &ids(&cluster)).await;

    // A replica loses its disk and returns at the same address with a new id.
    let lost = left[0];
    cluster.kill(lost).expect("it was up");
    let old = cluster.replicas()[lost].id;
    let id = add(&mut cluster, lost, Some(old)).await;
    assert_eq!(id, 6);
    wait_voters(&cluster, &ids(&cluster)).await;
    // Later starts need no answer of other replicas.
    cluster.stop(lost).await.expect("it stops");
    cluster.start_replica(lost).expect("it starts");
    cluster.wait_ready(PATIENCE).await.expect("ready again");

    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = BTreeSet::new();
    for writer in writers {
        acknowledged.append(&mut writer.await.expect("a writer"));
    }
    assert!(acknowledged.len() > 50, "{} writes", acknowledged.len());
    let mut digests = BTreeSet::new();
    for at in left {
        let api = cluster.replicas()[at].api;
        digests.insert(digest(api).await.to_string());
        let list = once(api, Method::GET, "/v1/tenants", None, ASK).await.expect("a list").body;
        let items = list["items"].as_array().expect("items");
        let there: BTreeSet<String> =
            items.iter().filter_map(|item| Some(item["id"].as_str()?.to_owned())).collect();
        let missing: Vec<&String> = acknowledged.difference(&there).collect();
        assert!(missing.is_empty(), "replica {at} misses {missing:?}");
    }
    assert_eq!(digests.len(), 1, "{digests:?}");
    assert!(cluster.crashes().is_empty());
}

/// The founders' cluster once more, with `--rejoin`: who has lost its data asks for a new place by itself, twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_founder_without_its_data_asks_for_a_new_place() {
    let romanad = find_romanad(None).expect("cargo build --workspace --bins comes first");
    // At the first start all data directories are empty.
    let options = ClusterOptions { rejoin: true, ..ClusterOptions::new(romanad) };
    let mut cluster = Cluster::start(options).await.expect("three replicas");
    wait_claimed(&cluster).await;
    wait_voters(&cluster, &[1, 2, 3]).await;
    let lost = cluster.wait_leader(PATIENCE).await.expect("a leader");
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(write(0, cluster.apis(), Arc::clone(&stop)));
    let mut left: BTreeSet<u64> = [1, 2, 3].into();
    let mut old = cluster.replicas()[lost].id;
    for id in [4, 5] {
        cluster.kill(lost).expect("it was up");
        std::fs::remove_dir_all(cluster.data_dir(lost)).expect("it had data");
        cluster.start_replica(lost).expect("it starts");
        left.remove(&old);
        left.insert(id);
        wait_voters(&cluster, &left.iter().copied().collect::<Vec<_>>()).await;
        wait_claimed(&cluster).await;
        old = id;
    }
    // With its data it needs no place.
    cluster.stop(lost).await.expect("it stops");
    cluster.start_replica(lost).expect("it starts");
    cluster.wait_ready(PATIENCE).await.expect("ready again");
    wait_voters(&cluster, &left.iter().copied().collect::<Vec<_>>()).await;
    stop.store(true, Ordering::Relaxed);
    let acknowledged = writer.await.expect("a writer");
    let list = ask(&cluster, Method::GET, "/v1/tenants", None).await;
    let there: BTreeSet<&str> =
        list["items"].as_array().expect("items").iter().filter_map(|t| t["id"].as_str()).collect();
    assert!(acknowledged.len() > 20, "{} writes", acknowledged.len());
    let missing: Vec<&String> =
        acknowledged.iter().filter(|name| !there.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// Waits until every member is healthy and has a data directory that the log knows.
async fn wait_claimed(cluster: &Cluster) {
    let start = Instant::now();
    loop {
        let status = ask(cluster, Method::GET, "/v1/cluster", None).await;
        let members = status["members"].as_array().expect("members");
        if members.iter().all(|m| m["claimed"] == true && m["healthy"] == true) {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "not claimed: {status:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A founder whose data directory was emptied is a new member with an old id: it is refused, and stops, since
/// it could break promises of its predecessor.
#[tokio::test(flavor = "multi_thread")]
async fn a_founder_without_its_data_is_refused() {
    let options = ClusterOptions::new(
        find_romanad(None).expect("cargo build --workspace --bins comes first"),
    );
    let mut cluster = Cluster::start(options).await.expect("three replicas");
    wait_claimed(&cluster).await;
    // The leader transfers leadership before it stops.
    let leader = cluster.wait_leader(PATIENCE).await.expect("a leader");
    cluster.stop(leader).await.expect("it stops");
    let tails = cluster.log_tails(100);
    assert!(tails.contains("leadership handed over"), "{tails}");
    std::fs::remove_dir_all(cluster.data_dir(leader)).expect("it had data");
    cluster.start_replica(leader).expect("it starts");
    let start = Instant::now();
    while cluster.crashes().is_empty() {
        assert!(start.elapsed() < PATIENCE, "it goes on\n{}", cluster.log_tails(30));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let hint = format!("romana cluster replace {}", cluster.replicas()[leader].id);
    assert!(cluster.log_tails(100).contains(&hint), "{}", cluster.log_tails(30));
}
