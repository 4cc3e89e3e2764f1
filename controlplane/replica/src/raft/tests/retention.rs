//! Retention: a replica that lags behind the kept history restarts its own.

use romana_statemachine::Revision;
use romana_storage::history::{History, HistoryOptions};

use super::*;
use crate::feed::{Filter, Form, Topics};

/// Writes more entries, waits until the log is purged, and purges the histories of 2 and 3 up to their
/// newest snapshots.
async fn move_on(cluster: &Cluster, from: u64) {
    for number in from..from + 60 {
        create(cluster.on(2), &format!("tenant-{number}")).await;
    }
    cluster.on(2).reads().linearize(soon()).await.unwrap();
    for id in [2, 3] {
        let replica = cluster.on(id);
        let snapshot = eventually("a snapshot", || {
            let snapshot = replica.snapshots().revision();
            (snapshot >= from + 30).then_some(snapshot)
        })
        .await;
        eventually("a purged log", || {
            let metrics = replica.0.host.raft.metrics();
            let metrics = openraft::async_runtime::watch::WatchReceiver::borrow_watched(&metrics);
            metrics.purged.filter(|id| id.index > from + 20)
        })
        .await;
        assert!(replica.history().purge_before(snapshot).unwrap() > from + 10);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_behind_what_is_kept_begins_anew() {
    begins_anew(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_was_interrupted_while_it_began_anew_goes_on() {
    begins_anew(true).await;
}

async fn begins_anew(interrupted: bool) {
    let mut cluster = Cluster::new(3).await;
    cluster.tuning.keep_entries = 0;
    cluster.tuning.snapshot_entries = 10;
    cluster.tuning.log_tail_bytes = 1 << 10;
    cluster.tuning.history_segment_bytes = 512;
    cluster.start(2).await;
    cluster.start(3).await;
    cluster.ready().await;
    // Replica 1 is new in the first round, and has the first round's history in the second.
    for round in 0..2 {
        move_on(&cluster, round * 60).await;
        let kept = [2, 3].map(|id| cluster.on(id).history().start());
        if interrupted && round == 1 {
            // It had received the restart, and lost power before the snapshot arrived.
            let history =
                History::open(&cluster.data(1).join("history"), HistoryOptions::default());
            let (revision, digest) = kept[0];
            history.unwrap().reset(revision, digest).unwrap();
        }
        cluster.start(1).await;
        cluster.ready().await;
        cluster.on(1).reads().linearize(soon()).await.unwrap();
        cluster.converge().await;
        let history = cluster.on(1).history();
        assert!(kept.contains(&history.start()), "{:?} {kept:?}", history.start());
        assert_eq!(history.verify().unwrap(), cluster.on(2).history().last());
        assert!(has(cluster.on(1), "tenant-0"));
        // The feed continues from what is kept, and refuses followers that need more.
        let everything = || Filter { topics: Topics::all(), host: None, version: u16::MAX };
        let feed = cluster.on(1).feed();
        let follow = |after| feed.follow(after, everything(), Form::Ndjson);
        assert_eq!(feed.last(), history.last().0);
        assert!(follow(history.start().0).is_ok());
        assert!(follow(Revision(0)).is_err());
        cluster.stop(1).await;
        cluster.start(1).await;
        cluster.ready().await;
        create(cluster.on(1), &format!("after-{round}")).await;
        cluster.converge().await;
        cluster.stop(1).await;
    }
    cluster.end().await;
}
