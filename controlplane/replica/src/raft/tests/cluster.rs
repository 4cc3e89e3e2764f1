//! Three replicas: election, commits, loss of a replica, its return and catch-up; and refused peers.

use futures_util::future::BoxFuture;
use romana_statemachine::Refusal;
use romana_statemachine::agent::PodRef;
use romana_statemachine::command::{RaiseVersion, SegmentSpec, TenantRef};
use romana_statemachine::name::SegmentId;
use romana_statemachine::{Actor, Command, Labels, Proposal, Revision, version};

use super::*;
use crate::raft::Role;
use crate::{IdentityError, Pods};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_commit_and_all_agree() {
    let cluster = Cluster::started(3).await;
    for id in 1..=3 {
        let name = format!("tenant-{id}");
        assert!(create(cluster.on(id), &name).await.result.is_ok());
        for reader in 1..=3 {
            cluster.on(reader).reads().linearize(soon()).await.unwrap();
            assert!(has(cluster.on(reader), &name), "{reader} does not see the write of {id}");
        }
    }
    cluster.converge().await;
    let status = eventually("a healthy cluster", || {
        let status = cluster.on(1).members().status();
        status.members.iter().all(|member| member.healthy).then_some(status)
    })
    .await;
    assert_eq!(status.members.len(), 3);
    assert_eq!(status.members.iter().filter(|member| member.role == Role::Leader).count(), 1);
    assert_eq!(status.members[2].api, "http://replica-3");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_alone_is_a_cluster() {
    let mut cluster = Cluster::started(1).await;
    assert!(create(cluster.on(1), "a").await.result.is_ok());
    cluster.stop(1).await;
    cluster.start(1).await;
    cluster.ready().await;
    cluster.on(1).reads().linearize(soon()).await.unwrap();
    assert!(has(cluster.on(1), "a"));
    cluster.end().await;
}

/// A faulty leader would otherwise keep repeating the leader's work: at once, forever, without success.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_with_a_fault_leads_no_more() {
    let cluster = Cluster::started(3).await;
    let leader = cluster.leader().await;
    let mut leadership = cluster.on(leader).leadership().watch();
    assert!(leadership.borrow_and_update().is_some());
    cluster.on(leader).0.fault.set("a disk has died".into());
    let resigned = leadership.wait_for(Option::is_none);
    assert!(tokio::time::timeout(PATIENCE, resigned).await.unwrap().is_ok());
    let other = 1 + leader % 3;
    assert!(create(cluster.on(other), "a").await.result.is_ok());
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outcomes_come_back_in_order_with_refusals() {
    let cluster = Cluster::started(3).await;
    let propose = |command| Proposal { actor: Actor::from("test"), command };
    let segment = SegmentSpec { tenant: "no".into(), id: "s".into(), labels: Labels::new() };
    let proposals = vec![
        tenant("a"),
        propose(Command::CreateSegment(segment)),
        propose(Command::DeleteTenant(TenantRef { id: "a".into() })),
        tenant("b"),
    ];
    let follower = cluster.on(cluster.follower().await);
    let outcomes = follower.propose(proposals, soon()).await.unwrap();
    let revisions: Vec<_> = outcomes.iter().map(|outcome| outcome.revision).collect();
    assert_eq!(revisions, [1, 1, 2, 3]);
    let refused: Vec<&Refusal> =
        outcomes.iter().filter_map(|outcome| outcome.result.as_ref().err()).collect();
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!(follower.propose(Vec::new(), soon()).await.unwrap().len(), 0);
    let many = vec![tenant("x"); 5000];
    let refused = follower.propose(many, soon()).await.unwrap_err();
    assert!(matches!(refused, ProposeError::TooLarge { commands: 5000, .. }));
    cluster.end().await;
}

/// Knows one pod, at once, on the replica that leads.
struct OnePod(u64);

impl Pods for OnePod {
    fn segment<'a>(&'a self, pod: &'a PodRef) -> BoxFuture<'a, Option<SegmentId>> {
        let of = format!("of-{}", self.0);
        Box::pin(async move { (pod.name == "web-1").then(|| SegmentId::from(of)) })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_replica_asks_the_leader_for_the_segment_of_a_pod() {
    let cluster = Cluster::started(3).await;
    let leader = cluster.leader().await;
    for (id, replica) in &cluster.running {
        replica.agents().know_pods(std::sync::Arc::new(OnePod(*id)));
    }
    let pod = |name: &str| PodRef { namespace: "a".into(), name: name.into(), uid: String::new() };
    let ask = async |id, name| cluster.on(id).agents().pod_segment(pod(name), soon()).await;
    assert_eq!(ask(1, "web-1").await.unwrap(), None, "not before every member knows the question");
    for version in 2..=version::SOURCES {
        let command = Command::RaiseVersion(RaiseVersion { version });
        let proposal = Proposal { actor: Actor::from("test"), command };
        let outcomes = cluster.on(leader).propose(vec![proposal], soon()).await.unwrap();
        assert!(outcomes[0].result.is_ok(), "{outcomes:?}");
    }
    for id in 1..=3 {
        cluster.on(id).reads().linearize(soon()).await.unwrap();
        let segment = SegmentId::from(format!("of-{leader}"));
        assert_eq!(ask(id, "web-1").await.unwrap(), Some(segment), "asked {id}");
        assert_eq!(ask(id, "web-2").await.unwrap(), None);
    }
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_dies_and_the_rest_go_on() {
    let mut cluster = Cluster::started(3).await;
    create(cluster.on(1), "before").await;
    let leader = cluster.leader().await;
    cluster.stop(leader).await;
    let survivor = *cluster.running.keys().next().unwrap();
    create(cluster.on(survivor), "after").await;
    cluster.start(leader).await;
    cluster.ready().await;
    cluster.on(leader).reads().linearize(soon()).await.unwrap();
    assert!(has(cluster.on(leader), "before") && has(cluster.on(leader), "after"));
    cluster.converge().await;
    cluster.end().await;
}

/// Raft keeps reporting the last leader, and a leader keeps reporting itself: without a majority there is no leader.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minority_knows_no_leader() {
    for leader_is_left in [true, false] {
        let mut cluster = Cluster::started(3).await;
        let leader = cluster.leader().await;
        let left = if leader_is_left { leader } else { 1 + leader % 3 };
        assert_eq!(cluster.on(left).members().status().leader, Some(leader));
        let others: Vec<u64> = (1..=3).filter(|id| *id != left).collect();
        for id in &others {
            cluster.stop(*id).await;
        }
        let why = eventually("a replica that knows it is alone", || {
            cluster.on(left).health().not_ready()
        });
        let why = why.await;
        assert!(why.contains("majority") || why.contains("more than half"), "{why}");
        let status = cluster.on(left).members().status();
        assert_eq!(status.leader, None);
        assert!(status.members.iter().all(|member| member.role != Role::Leader));
        for id in &others {
            cluster.start(*id).await;
        }
        cluster.ready().await;
        eventually("a leader", || cluster.on(left).members().status().leader).await;
        cluster.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_survives_a_restart_of_all() {
    let mut cluster = Cluster::started(3).await;
    for number in 0..20 {
        create(cluster.on(1 + number % 3), &format!("tenant-{number}")).await;
    }
    let before = cluster.on(1).members().status().term;
    for id in 1..=3 {
        cluster.stop(id).await;
    }
    for id in [3, 1, 2] {
        cluster.start(id).await;
    }
    cluster.ready().await;
    for id in 1..=3 {
        cluster.on(id).reads().linearize(soon()).await.unwrap();
        assert_eq!(cluster.on(id).with_state(|state| state.tenants().count()), 20);
        assert_eq!(cluster.on(id).history().last().0, 20);
    }
    assert!(cluster.on(1).members().status().term >= before);
    cluster.converge().await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_one_gets_snapshot_and_history() {
    let mut cluster = Cluster::new(3).await;
    cluster.tuning.keep_entries = 0;
    cluster.tuning.snapshot_entries = 10;
    cluster.tuning.log_tail_bytes = 1 << 10;
    cluster.start(2).await;
    cluster.start(3).await;
    cluster.ready().await;
    for number in 0..60 {
        create(cluster.on(2), &format!("tenant-{number}")).await;
    }
    let leader = cluster.leader().await;
    eventually("a purged log", || {
        let purged = cluster.on(leader).0.host.raft.metrics();
        let purged = openraft::async_runtime::watch::WatchReceiver::borrow_watched(&purged).purged;
        purged.filter(|id| id.index > 20)
    })
    .await;
    cluster.start(1).await;
    cluster.ready().await;
    cluster.on(1).reads().linearize(soon()).await.unwrap();
    assert_eq!(cluster.on(1).with_state(|state| state.tenants().count()), 60);
    assert_eq!(cluster.on(1).history().last(), cluster.on(2).history().last());
    let records = cluster.on(1).history().read(Revision(1), 1000, 1 << 20).unwrap();
    assert_eq!(records.len(), 60);
    assert_eq!(std::fs::read_dir(cluster.data(1).join("snapshots")).unwrap().count(), 1);

    cluster.stop(1).await;
    create(cluster.on(2), "meanwhile").await;
    cluster.start(1).await;
    cluster.ready().await;
    cluster.on(1).reads().linearize(soon()).await.unwrap();
    assert!(has(cluster.on(1), "meanwhile") && has(cluster.on(1), "tenant-0"));
    cluster.converge().await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_bounded_in_bytes() {
    let mut cluster = Cluster::new(1).await;
    cluster.tuning.snapshot_bytes = 4 << 10;
    cluster.tuning.keep_bytes = 1 << 10;
    cluster.start(1).await;
    cluster.ready().await;
    for number in 0..100 {
        create(cluster.on(1), &format!("tenant-{number}")).await;
    }
    // By the number of entries, all would be kept.
    eventually("a purged log", || {
        let purged = cluster.on(1).0.host.raft.metrics();
        let purged = openraft::async_runtime::watch::WatchReceiver::borrow_watched(&purged).purged;
        purged.filter(|id| id.index > 20)
    })
    .await;
    cluster.stop(1).await;
    cluster.start(1).await;
    cluster.ready().await;
    cluster.on(1).reads().linearize(soon()).await.unwrap();
    assert_eq!(cluster.on(1).with_state(|state| state.tenants().count()), 100);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_nothing_happens_and_is_said() {
    let mut cluster = Cluster::started(3).await;
    create(cluster.on(1), "before").await;
    let leader = cluster.leader().await;
    for id in (1..=3).filter(|id| *id != leader) {
        cluster.stop(id).await;
    }
    let alone = cluster.on(leader);
    let deadline = Instant::now() + Duration::from_secs(2);
    assert!(alone.reads().linearize(deadline).await.is_err());
    let deadline = Instant::now() + Duration::from_secs(2);
    let error = alone.propose(vec![tenant("lost")], deadline).await.unwrap_err();
    let honest = matches!(error, ProposeError::Unavailable { .. } | ProposeError::Unknown { .. });
    assert!(honest, "{error}");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_share_entries() {
    let cluster = Cluster::started(3).await;
    let index = |cluster: &Cluster| cluster.on(1).0.log.last_index();
    let before = index(&cluster);
    let callers = (0..300).map(|number| {
        let replica = cluster.on(1 + number % 3).clone();
        tokio::spawn(async move { create(&replica, &format!("tenant-{number}")).await })
    });
    for caller in callers.collect::<Vec<_>>() {
        assert!(caller.await.unwrap().result.is_ok());
    }
    cluster.on(1).reads().linearize(soon()).await.unwrap();
    assert_eq!(cluster.on(1).with_state(|state| state.tenants().count()), 300);
    assert!(index(&cluster) - before < 200, "no group commit");
    cluster.converge().await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_moves_on_request_from_anybody() {
    let cluster = Cluster::started(3).await;
    let leader = cluster.leader().await;
    let target = cluster.follower().await;
    let mut leads = cluster.on(target).leadership().watch();
    cluster.on(target).leadership().transfer(target, soon()).await.unwrap();
    tokio::time::timeout(PATIENCE, leads.wait_for(Option::is_some)).await.unwrap().unwrap();
    assert_ne!(leader, target);
    create(cluster.on(leader), "a").await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn initial_commands_are_proposed_once() {
    let mut cluster = Cluster::new(3).await;
    for id in 1..=3 {
        let initial = vec![tenant("first"), tenant("second")];
        let config = ReplicaConfig { initial, ..cluster.config(id) };
        let replica = cluster.try_start(config).await.unwrap();
        cluster.running.insert(id, replica);
    }
    cluster.ready().await;
    eventually("the initial state", || has(cluster.on(1), "second").then_some(())).await;
    let leader = cluster.leader().await;
    cluster.stop(leader).await;
    cluster.leader().await;
    let replica = cluster.running.values().next().unwrap();
    create(replica, "third").await;
    replica.reads().linearize(soon()).await.unwrap();
    assert_eq!(replica.with_state(|state| state.revision()), 3);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_of_somebody_else_is_refused() {
    let mut cluster = Cluster::started(1).await;
    cluster.stop(1).await;
    let config = cluster.config(1);
    let refused = |config| Replica::start(config);
    let peers: BTreeMap<u64, String> = [(1, cluster.peers()[&1].clone()), (2, "x:1".into())].into();

    let other = ReplicaConfig { initial_cluster: peers.clone(), ..config.clone() };
    let error = refused(other).await.err().unwrap();
    assert!(matches!(error, StartError::Identity(IdentityError::OtherPeers { .. })), "{error}");

    let advertise_peer = "x:1".to_string();
    let other = ReplicaConfig { id: 2, initial_cluster: peers, advertise_peer, ..config.clone() };
    let error = refused(other).await.err().unwrap();
    assert!(matches!(error, StartError::Identity(IdentityError::OtherId { .. })), "{error}");

    let other = ReplicaConfig { cluster_token: "new".into(), ..config.clone() };
    let error = refused(other).await.err().unwrap();
    assert!(matches!(error, StartError::Identity(IdentityError::OtherCluster { .. })), "{error}");

    std::fs::remove_file(cluster.data(1).join("identity.json")).unwrap();
    let error = refused(config).await.err().unwrap();
    assert!(matches!(error, StartError::Identity(IdentityError::Nameless { .. })), "{error}");
}
