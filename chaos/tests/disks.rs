//! Disk faults on real `romanad` processes: failing, slow, full, damaged.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hyper::Method;
use romana_chaos::cluster::{Cluster, ClusterOptions, Disk, SmallDisk, find_romanad};
use romana_chaos::http::{self, Answer};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(60);
const ASK: Duration = Duration::from_secs(6);

fn options(shim: bool) -> ClusterOptions {
    let romanad = find_romanad(None).expect("cargo build --workspace --bins comes first");
    ClusterOptions { shim: shim.then_some(7), ..ClusterOptions::new(romanad) }
}

async fn get(cluster: &Cluster, at: usize, path: &str) -> Option<Answer> {
    http::once(cluster.replicas()[at].api, Method::GET, path, None, ASK).await.ok()
}

/// Creates a tenant at a replica. Returns whether that was acknowledged.
async fn create(cluster: &Cluster, at: usize, name: &str) -> bool {
    let (path, body) = (format!("/v1/tenants/{name}"), json!({}));
    let api = cluster.replicas()[at].api;
    let answer = http::once(api, Method::PUT, &path, Some(&body), ASK).await;
    answer.is_ok_and(|answer| (200..300).contains(&answer.status))
}

/// Creates tenants, with retries as by a client.
async fn create_all(cluster: &Cluster, at: usize, prefix: &str, count: usize) -> Vec<String> {
    let start = Instant::now();
    let names: Vec<String> = (0..count).map(|number| format!("{prefix}-{number}")).collect();
    for name in &names {
        while !create(cluster, at, name).await {
            assert!(start.elapsed() < PATIENCE, "{name} is not acknowledged");
        }
    }
    names
}

/// Checks that every replica has all tenants, and that all states are equal.
async fn all_is_there(cluster: &Cluster, acknowledged: &[String]) {
    for at in 0..3 {
        for name in acknowledged {
            let answer = get(cluster, at, &format!("/v1/tenants/{name}")).await;
            let status = answer.map(|answer| answer.status);
            assert_eq!(status, Some(200), "{name} at replica {}", at + 1);
        }
    }
    let start = Instant::now();
    loop {
        let mut digests = Vec::new();
        for at in 0..3 {
            let answer = get(cluster, at, "/v1/digest?consistency=local").await;
            digests.push(answer.map(|answer| answer.body));
        }
        if digests.iter().all(|digest| digest.is_some() && *digest == digests[0]) {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "digests differ: {digests:?}");
    }
}

fn log(cluster: &Cluster, at: usize) -> String {
    fs::read_to_string(cluster.log_path(at)).expect("a log")
}

async fn wait_for(cluster: &Cluster, at: usize, path: &str, wanted: fn(&Answer) -> bool) -> Answer {
    let start = Instant::now();
    loop {
        if let Some(answer) = get(cluster, at, path).await
            && wanted(&answer)
        {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "{path}: {}", cluster.log_tails(20));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A failed sync ends the replica: no retry, no acknowledgement, and the error names the file.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_ends_the_replica_and_nothing_else() {
    let mut cluster = Cluster::start(options(true)).await.expect("three replicas");
    let leader = cluster.wait_leader(PATIENCE).await.expect("a leader");
    let mut acknowledged = create_all(&cluster, leader, "before", 10).await;
    for at in [leader, (leader + 1) % 3] {
        let other = (at + 2) % 3;
        cluster.set_disk(at, Disk::Broken).expect("it breaks");
        acknowledged.extend(create_all(&cluster, other, &format!("meanwhile-{at}"), 10).await);
        let status = cluster.wait_exit(at, PATIENCE).await.expect("it ends by itself");
        assert_eq!(status.code(), Some(1), "{}", log(&cluster, at));
        let text = log(&cluster, at);
        // sled's thread may still complain of the same disk while the program ends.
        let last = text.lines().rfind(|line| line.starts_with("romanad: ")).expect("why it ended");
        assert!(last.contains("cannot sync") && last.contains(".wal"), "{text}");
        assert!(last.contains("Input/output error"), "{last}");
        acknowledged.extend(create_all(&cluster, other, &format!("without-{at}"), 10).await);
        cluster.set_disk(at, Disk::Good).expect("a new disk");
        cluster.start_replica(at).expect("it starts");
        cluster.wait_ready(PATIENCE).await.expect("ready");
    }
    all_is_there(&cluster, &acknowledged).await;
}

/// The other replicas are not delayed by a slow disk, and a leader with one gives up leadership.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_disk_does_not_slow_the_others() {
    let cluster = Cluster::start(options(true)).await.expect("three replicas");
    let leader = cluster.wait_leader(PATIENCE).await.expect("a leader");
    let slow = Disk::Slow(Duration::from_millis(500));
    let follower = (leader + 1) % 3;
    cluster.set_disk(follower, slow).expect("it gets slow");
    let start = Instant::now();
    let mut acknowledged = create_all(&cluster, leader, "beside", 60).await;
    // One after the other on the slow disk they would take 30 s.
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    println!("60 commits beside a slow follower: {:?}", start.elapsed());
    cluster.set_disk(follower, Disk::Good).expect("it recovers");
    cluster.set_disk(leader, slow).expect("it gets slow");
    let (start, mut number) = (Instant::now(), 0);
    while cluster.leader().await.is_none_or(|at| at == leader) {
        acknowledged.extend(create_all(&cluster, follower, &format!("under-{number}"), 1).await);
        number += 1;
        assert!(start.elapsed() < PATIENCE, "it still leads");
    }
    println!("{number} commits in {:?} until it handed over", start.elapsed());
    cluster.set_disk(leader, Disk::Good).expect("it recovers");
    all_is_there(&cluster, &acknowledged).await;
}

/// A replica without disk space reports that, leaves the quorum, and returns by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_left_until_there_is_room() {
    // Mounting needs root.
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let small_disks = Some(SmallDisk { bytes: 384 << 20, reserve: 64 << 20 });
    let options = ClusterOptions { small_disks, ..options(false) };
    let mut cluster = Cluster::start(options).await.expect("three replicas on small disks");
    let leader = cluster.wait_leader(PATIENCE).await.expect("a leader");
    let mut acknowledged = create_all(&cluster, leader, "before", 10).await;
    // The leader at its reserve; then a follower whose disk is suddenly full.
    for (at, left) in [(leader, 32 << 20), ((leader + 1) % 3, 0)] {
        cluster.fill_disk(at, left).expect("it fills");
        let other = (at + 2) % 3;
        acknowledged.extend(create_all(&cluster, other, &format!("meanwhile-{at}"), 20).await);
        let full = |answer: &Answer| answer.code() == "DiskFull";
        let answer = wait_for(&cluster, at, "/readyz", full).await;
        assert_eq!(answer.status, 503);
        let message = answer.body["error"]["message"].as_str().unwrap_or_default();
        assert!(message.contains(cluster.data_dir(at).to_str().expect("a path")), "{message}");
        assert!(answer.body["error"]["details"]["needed_bytes"].as_u64() >= Some(64 << 20));
        assert!(!create(&cluster, at, "refused").await);
        let alive = get(&cluster, at, "/healthz").await;
        assert_eq!(alive.map(|answer| answer.status), Some(200));
        acknowledged.extend(create_all(&cluster, other, &format!("without-{at}"), 20).await);
        cluster.empty_disk(at).expect("there is room");
        wait_for(&cluster, at, "/readyz", |answer| answer.status == 200).await;
        acknowledged.extend(create_all(&cluster, at, &format!("again-{at}"), 5).await);
    }
    assert_eq!(cluster.crashes(), Vec::<String>::new());
    all_is_there(&cluster, &acknowledged).await;
}

fn newest(dir: &Path, ending: &str) -> PathBuf {
    let files = fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("a file").path());
    let found = files.filter(|path| path.extension().is_some_and(|have| have == ending)).max();
    found.expect("a file with that ending")
}

/// Missing or damaged files are refused with their name and the remedy; once
/// restored, the replica works again.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_replica_refuses_and_names_the_file() {
    let mut cluster = Cluster::start(options(false)).await.expect("three replicas");
    let at = cluster.wait_leader(PATIENCE).await.expect("a leader");
    let acknowledged = create_all(&cluster, at, "before", 10).await;
    let data = cluster.data_dir(at);
    cluster.kill(at).expect("it ends");
    let segment = newest(&data.join("wal"), "wal");
    for file in [segment.clone(), data.join("identity.json"), newest(&data.join("history"), "log")]
    {
        let whole = fs::read(&file).expect("it is there");
        let mut zeroed = whole.clone();
        let from = if file == segment { 256 } else { 0 };
        zeroed[from..].fill(0);
        // A missing end of the history is rebuilt from the log.
        let is_history = file.extension().is_some_and(|ending| ending == "log");
        let zeroed = (!is_history).then_some(zeroed);
        for damaged in std::iter::once(None).chain(zeroed.map(Some)) {
            match &damaged {
                None => fs::remove_file(&file).expect("it goes"),
                Some(bytes) => fs::write(&file, bytes).expect("it is damaged"),
            }
            cluster.start_replica(at).expect("it starts");
            let status = cluster.wait_exit(at, PATIENCE).await.expect("it ends by itself");
            let text = log(&cluster, at);
            assert_eq!(status.code(), Some(1), "{}: {text}", file.display());
            let last: Vec<&str> = text.lines().rev().take(2).collect();
            let stem = file.file_stem().and_then(|stem| stem.to_str()).expect("a name");
            assert!(last.iter().any(|line| line.contains(stem)), "{last:?}");
            let command = format!("romana cluster replace {}", at + 1);
            assert!(last.iter().any(|line| line.contains(&command)), "{last:?}");
            fs::write(&file, &whole).expect("it is put back");
        }
    }
    cluster.start_replica(at).expect("it starts");
    cluster.wait_ready(PATIENCE).await.expect("ready");
    all_is_there(&cluster, &acknowledged).await;
}
