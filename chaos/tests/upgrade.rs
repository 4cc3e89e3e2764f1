//! A rolling upgrade from the previous release (`deploy/previous`), which `make test` builds.

use std::path::PathBuf;
use std::time::Duration;

use hyper::Method;
use romana_chaos::cluster::{Cluster, ClusterOptions, find_romanad};
use romana_chaos::http::once;
use romana_chaos::run::{RunOptions, run};
use romana_chaos::wait::until;
use romana_testing::previous;

const PATIENCE: Duration = Duration::from_secs(30);

fn present() -> PathBuf {
    find_romanad(None).expect("cargo build --workspace --bins comes first")
}

/// Replicas are replaced one by one under load; every law holds, and the new version is raised.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_upgraded_one_by_one() {
    let Some(previous) = previous() else { return };
    let options = RunOptions {
        seed: 7,
        seconds: 9,
        clients: 16,
        replicas: 3,
        faults: vec!["upgrade".parse().expect("a fault")],
        interval: Duration::from_secs(2),
        kubernetes: false,
        lying_disk: false,
        romanad: present(),
        previous: Some(previous),
        parent: None,
        keep: false,
    };
    let report = run(&options).await.expect("the run can be carried out");
    assert!(report.violations.is_empty(), "{:#?}\n{:?}", report.violations, report.story.facts);
}

/// A replica of the previous release stops at an entry that it does not know, and the others continue. With
/// the current program it participates again.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_replica_stops_at_what_it_does_not_know() {
    let Some(previous) = previous() else { return };
    let options = ClusterOptions { previous: Some(previous), ..ClusterOptions::new(present()) };
    let mut cluster =
        Cluster::start(options).await.expect("three replicas of the previous release");
    for at in 0..3 {
        cluster.stop(at).await.expect("it stops");
        cluster.set_old(at, false);
        cluster.start_replica(at).expect("it starts");
        cluster.wait_ready(PATIENCE).await.expect("ready with the present program");
    }
    wait_version(&cluster, romana_statemachine::VERSION_MAX.into()).await;

    let at = (cluster.wait_leader(PATIENCE).await.expect("a leader") + 1) % 3;
    cluster.stop(at).await.expect("it stops");
    cluster.set_old(at, true);
    cluster.start_replica(at).expect("it starts");
    // The entries that it missed follow the unknown one.
    let tenant = serde_json::json!({"labels": {}});
    let api = cluster.apis()[(at + 1) % 3];
    let put = once(api, Method::PUT, "/v1/tenants/t", Some(&tenant), PATIENCE).await;
    assert_eq!(put.expect("an answer").status, 201);
    wait_end(&mut cluster).await;
    cluster.set_old(at, false);
    cluster.start_replica(at).expect("it starts");
    cluster.wait_ready(PATIENCE).await.expect("it takes part again");
}

async fn wait_end(cluster: &mut Cluster) {
    let ended = until("the old replica ends", PATIENCE, async || !cluster.crashes().is_empty());
    ended.await.expect("it does not guess");
}

/// Waits until every replica has applied the version.
async fn wait_version(cluster: &Cluster, version: u64) {
    for api in cluster.apis() {
        let raised = until("the new version", PATIENCE, async || {
            let path = "/v1/snapshot?topics=topology";
            let answer = once(api, Method::GET, path, None, PATIENCE).await;
            answer.is_ok_and(|answer| answer.body["version"].as_u64() == Some(version))
        });
        raised.await.expect("raised");
    }
}
