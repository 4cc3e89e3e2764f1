//! Replicas with wrong clocks: log time stays near the true time, and the wrong clock is reported.

use std::time::{SystemTime, UNIX_EPOCH};

use romana_statemachine::{Millis, State};

use super::*;
use crate::ClocksStatus;

const HOUR_MS: i64 = 3_600_000;
/// Maximum deviation of log time from the true time: all replicas run on one machine, which may be busy.
const BOUND_MS: u64 = 1_000;

fn far(clocks: &ClocksStatus) -> Vec<u64> {
    clocks.members.iter().filter(|clock| clock.far).map(|clock| clock.id).collect()
}

fn true_time() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

/// Commits an entry on a replica's cluster, and returns its timestamp.
async fn stamp(replica: &Replica, name: &str) -> u64 {
    create(replica, name).await;
    replica.reads().linearize(soon()).await.unwrap();
    replica.with_state(State::at).0
}

#[track_caller]
fn near(at: u64) {
    let off = at.abs_diff(true_time());
    assert!(off <= BOUND_MS, "log time is {off} ms off");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_s_clock_jumps_an_hour_and_log_time_does_not() {
    let mut cluster = Cluster::started(3).await;
    let leader = cluster.leader().await;
    near(stamp(cluster.on(leader), "before").await);
    for id in 1..=3 {
        let clocks = cluster.clocks(id, "three clocks", |clocks| clocks.members.len() == 3).await;
        assert!(clocks.agreed && far(&clocks).is_empty(), "{clocks:?}");
    }
    for (round, ahead) in [HOUR_MS, -HOUR_MS, 400 * 24 * HOUR_MS].into_iter().enumerate() {
        cluster.set_clock(leader, ahead);
        near(stamp(cluster.on(leader), &format!("at-once-{round}")).await);
        for id in 1..=3 {
            let clocks =
                cluster.clocks(id, "a wrong clock", |clocks| far(clocks) == [leader]).await;
            let off = clocks.members.iter().find(|clock| clock.id == leader).unwrap().ahead_ms;
            assert!(off.abs_diff(ahead) < BOUND_MS, "{clocks:?}");
            assert!(clocks.agreed && clocks.log_ahead_ms.unsigned_abs() < BOUND_MS, "{clocks:?}");
        }
        near(stamp(cluster.on(leader), &format!("later-{round}")).await);
        near(cluster.on(leader).clocks().confirmed_time().unwrap().0);
        cluster.set_clock(leader, 0);
        for id in 1..=3 {
            cluster.clocks(id, "a right clock", |clocks| far(clocks).is_empty()).await;
        }
        near(stamp(cluster.on(leader), &format!("after-{round}")).await);
    }
    // Another replica leads whose clock was wrong from the start.
    let next = 1 + leader % 3;
    cluster.set_clock(next, HOUR_MS);
    let last = stamp(cluster.on(leader), "last").await;
    cluster.on(leader).leadership().transfer(next, soon()).await.unwrap();
    eventually("another leader", || {
        (cluster.on(next).members().status().leader == Some(next)).then_some(())
    })
    .await;
    let first = stamp(cluster.on(next), "first").await;
    assert!(first >= last);
    near(first);
    // And a replica that restarts with a wrong clock.
    cluster.stop(leader).await;
    cluster.set_clock(next, 0);
    cluster.set_clock(leader, -HOUR_MS);
    cluster.start(leader).await;
    cluster.ready().await;
    cluster.clocks(leader, "its own wrong clock", |clocks| far(clocks) == [leader]).await;
    near(cluster.on(leader).clocks().log_time().0);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_cluster_begins_with_what_a_majority_says() {
    let mut cluster = Cluster::new(3).await;
    cluster.set_clock(1, HOUR_MS);
    for id in 1..=3 {
        cluster.start(id).await;
    }
    cluster.ready().await;
    near(stamp(cluster.on(1), "first").await);
    // According to a majority of the clocks, the whole cluster was down for a while.
    let last = cluster.on(1).with_state(State::at).0;
    for id in 1..=3 {
        cluster.stop(id).await;
        cluster.set_clock(id, 48 * HOUR_MS);
    }
    cluster.set_clock(2, 0);
    for id in 1..=3 {
        cluster.start(id).await;
    }
    cluster.ready().await;
    let first = stamp(cluster.on(1), "two-days-later").await;
    let down = first - last;
    assert!(down.abs_diff(48 * HOUR_MS.unsigned_abs()) < 60_000, "{down}");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_log_time_goes_on_steadily() {
    let mut cluster = Cluster::started(3).await;
    for id in 1..=3 {
        cluster.clocks(id, "three clocks", |clocks| clocks.members.len() == 3).await;
    }
    near(stamp(cluster.on(1), "before").await);
    // One is down, and the remaining two disagree.
    let leader = cluster.leader().await;
    let gone = 1 + leader % 3;
    cluster.stop(gone).await;
    cluster.set_clock(leader, HOUR_MS);
    let clocks =
        cluster.clocks(leader, "a dispute", |clocks| !clocks.agreed && clocks.members.len() == 2);
    assert!(far(&clocks.await).is_empty(), "who is wrong is not known");
    assert_eq!(cluster.on(leader).clocks().confirmed_time(), None);
    near(stamp(cluster.on(leader), "alone").await);
    cluster.set_clock(leader, 0);
    cluster.clocks(leader, "agreement", |clocks| clocks.agreed).await;
    near(cluster.on(leader).clocks().confirmed_time().unwrap().0);
    near(stamp(cluster.on(leader), "after").await);
    cluster.end().await;
}

/// A single replica trusts its own clock, but a jump that is reverted has no effect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_alone_follows_its_own_clock_slowly() {
    let mut cluster = Cluster::started(1).await;
    let replica = cluster.on(1).clone();
    near(stamp(&replica, "before").await);
    cluster.set_clock(1, HOUR_MS);
    let behind = |clocks: &ClocksStatus| clocks.log_ahead_ms < -HOUR_MS / 2;
    cluster.clocks(1, "log time that is behind", behind).await;
    near(stamp(&replica, "ahead").await);
    assert!(far(&replica.clocks().status()).is_empty(), "there is no other");
    cluster.set_clock(1, 0);
    cluster.clocks(1, "log time that is right", |clocks| clocks.log_ahead_ms.abs() < 500).await;
    near(stamp(&replica, "back").await);
    // Started with a clock that is ahead, it trusts it; when the clock is set back, log time still advances.
    drop(replica);
    cluster.stop(1).await;
    cluster.set_clock(1, HOUR_MS);
    cluster.start(1).await;
    cluster.ready().await;
    let frozen = stamp(cluster.on(1), "an-hour-ahead").await;
    assert!(frozen.abs_diff(true_time() + HOUR_MS.unsigned_abs()) < 60_000);
    cluster.set_clock(1, 0);
    let ahead = |clocks: &ClocksStatus| clocks.log_ahead_ms > HOUR_MS / 2;
    cluster.clocks(1, "log time that is ahead", ahead).await;
    let later = Millis(cluster.on(1).clocks().log_time().0 + 200);
    eventually("log time goes on", || (cluster.on(1).clocks().log_time() >= later).then_some(()))
        .await;
    assert!(stamp(cluster.on(1), "goes-on").await >= later.0);
    cluster.end().await;
}
