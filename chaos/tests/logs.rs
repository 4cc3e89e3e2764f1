//! The log of replicas while others are down: one line at the beginning, one at the end, and no flood.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::time::{Duration, Instant};

use hyper::Method;
use romana_chaos::cluster::{Cluster, ClusterOptions, find_romanad};
use romana_chaos::http::once;
use romana_statemachine::VERSION_MAX;

/// Timeout of all waits; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a replica is down: connections are tried some twenty times a second.
const AWAY: Duration = Duration::from_secs(6);

/// Lines of a replica's log after a byte offset.
fn lines(cluster: &Cluster, at: usize, after: usize) -> Vec<String> {
    let text = fs::read_to_string(cluster.log_path(at)).unwrap();
    text[after..].lines().map(String::from).collect()
}

fn length(cluster: &Cluster, at: usize) -> usize {
    usize::try_from(fs::metadata(cluster.log_path(at)).unwrap().len()).unwrap()
}

/// Waits for a line, and sends requests to the replica in the meantime, so that there is
/// traffic while others are down.
async fn wait_line(cluster: &Cluster, at: usize, after: usize, words: &str) -> String {
    let start = Instant::now();
    loop {
        let found = lines(cluster, at, after).into_iter().find(|line| line.contains(words));
        if let Some(line) = found {
            return line;
        }
        let tails = || cluster.log_tails(20);
        assert!(start.elapsed() < PATIENCE, "{words:?} is not in the log\n{}", tails());
        ask(cluster, at, Duration::ZERO).await;
    }
}

/// Sends requests to a replica for this time, at least one.
async fn ask(cluster: &Cluster, at: usize, during: Duration) {
    let start = Instant::now();
    loop {
        let api = cluster.replicas()[at].api;
        let path = "/v1/tenants?consistency=local";
        _ = once(api, Method::GET, path, None, Duration::from_secs(2)).await;
        tokio::task::yield_now().await;
        if start.elapsed() >= during {
            return;
        }
    }
}

fn warnings(lines: &[String]) -> Vec<&String> {
    lines.iter().filter(|line| line.contains(" WARN ") || line.contains(" ERROR ")).collect()
}

/// The number of attempts of the leader, from the line that reports the end.
fn attempts(line: &str) -> u64 {
    let number = line.split("attempts=").nth(1).unwrap();
    number.split(' ').next().unwrap().trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_line_when_a_replica_goes_and_one_when_it_comes() {
    let mut cluster =
        Cluster::start(ClusterOptions::new(find_romanad(None).unwrap())).await.unwrap();
    cluster.wait_ready(PATIENCE).await.unwrap();
    let leader = cluster.wait_leader(PATIENCE).await.unwrap();
    // A new cluster logs a few lines once.
    wait_line(&cluster, leader, 0, &format!("version raised version={VERSION_MAX}")).await;
    let (one, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let after: Vec<usize> = (0..3).map(|at| length(&cluster, at)).collect();

    cluster.kill(one).unwrap();
    wait_line(&cluster, leader, after[leader], "replica is unreachable").await;
    ask(&cluster, leader, AWAY).await;
    cluster.start_replica(one).unwrap();
    let back = wait_line(&cluster, leader, after[leader], "replica is reachable again").await;
    assert!(attempts(&back) > 20, "{back}");
    for at in [leader, other] {
        let lines = lines(&cluster, at, after[at]);
        let warnings = warnings(&lines);
        // A follower contacts the others now and then, and may report the same.
        let expected = if at == leader { 1..=1 } else { 0..=1 };
        assert!(expected.contains(&warnings.len()), "replica {at}: {warnings:#?}");
        assert!(lines.len() <= 3, "replica {at}: {lines:#?}");
    }

    // The leader alone reports both, and little else.
    cluster.wait_ready(PATIENCE).await.unwrap();
    let leader = cluster.wait_leader(PATIENCE).await.unwrap();
    let others = [(leader + 1) % 3, (leader + 2) % 3];
    let after = length(&cluster, leader);
    others.iter().for_each(|at| cluster.kill(*at).unwrap());
    for at in others {
        let words = format!("replica={}", cluster.replicas()[at].id);
        wait_line(&cluster, leader, after, &words).await;
    }
    ask(&cluster, leader, AWAY).await;
    let alone = lines(&cluster, leader, after);
    assert!(warnings(&alone).len() <= 4 && alone.len() <= 12, "{alone:#?}");
    others.iter().for_each(|at| cluster.start_replica(*at).unwrap());
    cluster.wait_ready(PATIENCE).await.unwrap();
    let all = lines(&cluster, leader, after);
    assert!(warnings(&all).len() <= 6 && all.len() <= 24, "{all:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_waits_to_be_taken_in_says_so_once() {
    let mut cluster =
        Cluster::start(ClusterOptions::new(find_romanad(None).unwrap())).await.unwrap();
    cluster.wait_ready(PATIENCE).await.unwrap();
    let leader = cluster.wait_leader(PATIENCE).await.unwrap();
    let joins = cluster.add_place().unwrap();
    cluster.start_replica(joins).unwrap();
    let start = Instant::now();
    let waits =
        |lines: &[String]| lines.iter().filter(|line| line.contains("not a member yet")).count();
    while waits(&lines(&cluster, joins, 0)) == 0 {
        assert!(start.elapsed() < PATIENCE, "{}", cluster.log_tails(20));
        ask(&cluster, leader, Duration::from_millis(50)).await;
    }
    ask(&cluster, leader, AWAY).await;
    let said = lines(&cluster, joins, 0);
    assert_eq!(waits(&said), 1, "{said:#?}");
}
