//! A replica whose data directory was rolled back to an older copy: this is detected and reported, and the replica
//! neither votes nor acknowledges anything.

use std::path::Path;

use openraft::raft::VoteRequest;

use super::*;
use crate::raft::FaultKind;
use crate::raft::peer::dial::{Dialer, Directory};
use crate::raft::peer::link::PeerClient;
use crate::raft::peer::message::{PeerRequest, PeerResponse, Purpose};
use crate::raft::store::codec::pack;
use crate::raft::store::types::{LogId, TypeConfig, Vote};

pub(super) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() { copy(&path, &to) } else { _ = std::fs::copy(&path, to).unwrap() }
    }
}

/// Restarts a replica, and keeps a copy of its current files.
async fn keep_files(cluster: &mut Cluster, id: u64) {
    cluster.stop(id).await;
    copy(&cluster.data(id), &cluster.dir.path().join("kept"));
    cluster.start(id).await;
    cluster.ready().await;
}

/// Stops a replica, and starts it with the kept files.
async fn put_back(cluster: &mut Cluster, id: u64) {
    cluster.stop(id).await;
    std::fs::remove_dir_all(cluster.data(id)).unwrap();
    std::fs::rename(cluster.dir.path().join("kept"), cluster.data(id)).unwrap();
    cluster.start(id).await;
}

/// Waits until the replica and the others report the rollback.
async fn is_noticed(cluster: &Cluster, id: u64) {
    let why = eventually("an older copy that says so", || cluster.on(id).health().fault()).await;
    assert!(why.contains("older copy") && why.contains(&format!("cluster replace {id}")), "{why}");
    assert_eq!(cluster.on(id).health().fault_kind(), Some(FaultKind::OlderCopy));
    assert!(cluster.on(id).health().not_ready().unwrap().contains("older copy"));
    assert!(cluster.on(id).reads().recovered(soon()).await.is_err(), "its state is served");
    for (other, replica) in cluster.running.iter().filter(|(other, _)| **other != id) {
        let problems = eventually("the others say so", || {
            let members = replica.members().status().members;
            let member = members.into_iter().find(|member| member.id == id)?;
            (!member.problems.is_empty() && !member.healthy).then_some(member.problems)
        })
        .await;
        assert!(
            problems[0].remedy.contains(&format!("cluster replace {id}")),
            "{other}: {problems:?}"
        );
    }
}

/// Requests the vote of a replica in the name of another one.
async fn votes(cluster: &Cluster, from: u64, to: u64) -> bool {
    let id = cluster.on(to).cluster_id();
    let dialer = Dialer::new(id, from, String::new(), Directory::default());
    let link = PeerClient::new(dialer, to, cluster.peers()[&to].clone());
    let last = Some(LogId::new_term_index(500, 1_000_000));
    let request = VoteRequest::<TypeConfig>::new(Vote::new(500, from), last);
    let asked = VoteRequest { leadership_transfer: true, ..request };
    match link.call(PeerRequest::Vote(asked), soon()).await {
        Ok(PeerResponse::Vote(response)) => response.vote_granted,
        Ok(PeerResponse::Failed(_)) | Err(_) => false,
        Ok(other) => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_was_put_back_is_refused() {
    let mut cluster = Cluster::started(3).await;
    create(cluster.on(1), "before").await;
    let id = cluster.follower().await;
    keep_files(&mut cluster, id).await;
    for number in 0..5 {
        create(cluster.on(id), &format!("lost-{number}")).await;
    }
    // Only lost acknowledged entries count, not entries that it never had.
    eventually("a follower that has it", || has(cluster.on(id), "lost-4").then_some(())).await;
    put_back(&mut cluster, id).await;
    is_noticed(&cluster, id).await;
    assert!(!votes(&cluster, 1 + id % 3, id).await, "it votes");
    // The process keeps running to report the reason.
    let stop = tokio_util::sync::CancellationToken::new();
    let replica = cluster.on(id).clone();
    let mut claim = std::pin::pin!(replica.members().keep_claim(stop.clone()));
    assert!(futures_util::poll!(claim.as_mut()).is_pending());
    stop.cancel();
    claim.await;
    // The other replicas continue.
    create(cluster.on(1 + id % 3), "after").await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_put_back_is_refused() {
    let mut cluster = Cluster::started(3).await;
    let id = cluster.leader().await;
    keep_files(&mut cluster, id).await;
    cluster.on(1 + id % 3).leadership().transfer(id, soon()).await.unwrap();
    eventually("the leadership again", || {
        (cluster.on(id).members().status().leader == Some(id)).then_some(())
    })
    .await;
    for number in 0..5 {
        create(cluster.on(id), &format!("lost-{number}")).await;
    }
    put_back(&mut cluster, id).await;
    is_noticed(&cluster, id).await;
    create(cluster.on(1 + id % 3), "after").await;
    cluster.end().await;
}

/// Only an answer from a member's own address counts, not a caller that claims its name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_calls_is_not_believed() {
    let cluster = Cluster::started(3).await;
    let id = cluster.on(1).cluster_id();
    let dialer = Dialer::new(id, 2, String::new(), Directory::default());
    let patience = std::time::Duration::from_secs(30);
    let dialed = dialer.dial(1, &cluster.peers()[&1], Purpose::Position, patience).await;
    let mut conn = dialed.unwrap();
    conn.reader.expect().await.unwrap();
    // "I hold a million entries of term 9."
    let far = (9u64, 1_000_000u64);
    _ = conn.writer.send(&pack(&(far, far, None::<String>))).await;
    while conn.reader.expect().await.is_ok() {}
    assert!(cluster.on(1).0.host.positions.held(2) < 1_000);
    create(cluster.on(2), "after").await;
    cluster.end().await;
}

/// Only its vote is older: it could vote twice in a term.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vote_that_was_put_back_is_refused() {
    let mut cluster = Cluster::started(3).await;
    let id = cluster.follower().await;
    cluster.stop(id).await;
    copy(&cluster.data(id), &cluster.dir.path().join("kept"));
    cluster.start(id).await;
    cluster.ready().await;
    // Another term, in which it votes.
    let leader = cluster.leader().await;
    let next = (1..=3).find(|other| ![id, leader].contains(other)).unwrap();
    cluster.on(id).leadership().transfer(next, soon()).await.unwrap();
    eventually("another leader", || {
        cluster
            .running
            .values()
            .all(|one| one.members().status().leader == Some(next))
            .then_some(())
    })
    .await;
    put_back(&mut cluster, id).await;
    is_noticed(&cluster, id).await;
    cluster.end().await;
}

/// With one of the others down there is no quorum, but the rollback is still reported.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_said_with_another_one_down() {
    let mut cluster = Cluster::started(3).await;
    let id = cluster.follower().await;
    keep_files(&mut cluster, id).await;
    create(cluster.on(id), "lost").await;
    eventually("a follower that has it", || has(cluster.on(id), "lost").then_some(())).await;
    let down = cluster.follower().await;
    let down = if down == id { (1..=3).rfind(|other| *other != id).unwrap() } else { down };
    let up = (1..=3).find(|other| ![id, down].contains(other)).unwrap();
    // The remaining replica knows it: it led, or asked within the last second.
    eventually("what is known", || {
        let knows = cluster.on(up).0.host.positions.clone();
        let has = cluster.on(id).0.host.machine.last_applied()?.index + 1;
        (knows.held(id) >= has).then_some(())
    })
    .await;
    cluster.stop(down).await;
    put_back(&mut cluster, id).await;
    let why = eventually("an older copy that says so", || cluster.on(id).health().fault()).await;
    assert!(why.contains("cluster replace"), "{why}");
    assert!(!votes(&cluster, down, id).await, "it votes");
    cluster.end().await;
}

/// The memory of the others is lost when they restart: a detected rollback must still be remembered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_stays_refused_when_all_start_again() {
    let mut cluster = Cluster::started(3).await;
    let id = cluster.follower().await;
    keep_files(&mut cluster, id).await;
    for number in 0..5 {
        create(cluster.on(id), &format!("lost-{number}")).await;
    }
    eventually("a follower that has it", || has(cluster.on(id), "lost-4").then_some(())).await;
    put_back(&mut cluster, id).await;
    is_noticed(&cluster, id).await;
    for each in 1..=3 {
        cluster.stop(each).await;
    }
    for each in 1..=3 {
        cluster.start(each).await;
    }
    is_noticed(&cluster, id).await;
    assert!(!votes(&cluster, 1 + id % 3, id).await, "it votes");
    create(cluster.on(1 + id % 3), "after").await;
    cluster.end().await;
}

/// Restarts, even of all replicas at once, do not look like a rollback, nor does a log that only a snapshot covers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_is_no_older_copy() {
    let mut cluster = Cluster::new(3).await;
    cluster.tuning.keep_entries = 0;
    cluster.tuning.snapshot_entries = 5;
    for id in 1..=3 {
        cluster.start(id).await;
    }
    cluster.ready().await;
    for round in 0..4 {
        for number in 0..8 {
            create(cluster.on(1 + number % 3), &format!("t-{round}-{number}")).await;
        }
        let stopped = if round == 3 { vec![1, 2, 3] } else { vec![1 + round % 3] };
        for id in &stopped {
            cluster.stop(*id).await;
        }
        for id in &stopped {
            cluster.start(*id).await;
        }
        cluster.ready().await;
        for replica in cluster.running.values() {
            assert_eq!(replica.health().fault(), None);
        }
    }
    cluster.converge().await;
    cluster.end().await;
}
