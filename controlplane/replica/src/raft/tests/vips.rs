//! Leases of VIPs with three replicas: any of them forwards renewals, a new leader goes on granting and moves nothing
//! at first, and a leader without a majority grants nothing.

use romana_statemachine::Command;
use romana_statemachine::lease::{VipAnswer, VipRenewal, fence};

use super::*;
use crate::testing::{done, populate};

const GRANT: Duration = Duration::from_secs(1);

/// A cluster with two hosts whose agents are enrolled, and a VIP.
async fn cluster() -> Cluster {
    let cluster = Cluster::started(3).await;
    let replica = cluster.on(1);
    populate(replica, 0).await;
    let commands = [
        r#"{"RaiseVersion": {"version": 3}}"#,
        r#"{"RaiseVersion": {"version": 4}}"#,
        r#"{"AddHost": {"name": "h2", "ip": "192.168.0.2"}}"#,
        r#"{"EnrolAgent": {"host": "h1", "instance": "h1", "replaces": null}}"#,
        r#"{"EnrolAgent": {"host": "h2", "instance": "h2", "replaces": null}}"#,
        r#"{"RequestVip": {"name": "v", "ip": "192.168.0.100"}}"#,
    ];
    for command in commands {
        done(replica, serde_json::from_str(command).unwrap()).await;
    }
    cluster
}

/// A renewal of a host without addresses.
fn renewal(host: &str, sequence: u64) -> VipRenewal {
    VipRenewal {
        host: host.into(),
        instance: host.into(),
        run: 1,
        sequence,
        held: Vec::new(),
        subnets: vec!["192.168.0.0/24".parse().unwrap()],
    }
}

/// Renews through any running replica until the leader answers.
async fn renew(cluster: &Cluster, host: &str, sequence: &mut u64) -> VipAnswer {
    let deadline = soon();
    loop {
        for replica in cluster.running.values() {
            *sequence += 1;
            let within = Instant::now() + Duration::from_secs(2);
            if let Ok(answer) = replica.vips().renew(renewal(host, *sequence), within).await {
                return answer;
            }
        }
        assert!(Instant::now() < deadline, "no answer");
    }
}

/// Both hosts renew, and the leader does what its task would do, until the VIP is granted to one of them.
async fn place(cluster: &Cluster, sequence: &mut u64) {
    let deadline = soon();
    loop {
        let h2 = renew(cluster, "h2", sequence).await;
        assert!(h2.granted.is_empty(), "h1 comes first by name");
        if !renew(cluster, "h1", sequence).await.granted.is_empty() {
            return;
        }
        let leader = cluster.on(cluster.leader().await);
        let term = *leader.leadership().watch().borrow();
        for step in term.map(|term| leader.vips().step(term)).unwrap_or_default() {
            done(leader, Command::PlaceVip(step.clone())).await;
            leader.vips().decided(step.term, &step);
        }
        assert!(Instant::now() < deadline, "it was not placed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_goes_on_granting_and_moves_nothing_at_first() {
    let (mut cluster, mut sequence) = (cluster().await, 0);
    place(&cluster, &mut sequence).await;
    // Any replica forwards.
    for id in 1..=3 {
        sequence += 1;
        let answer = cluster.on(id).vips().renew(renewal("h1", sequence), soon()).await.unwrap();
        assert_eq!(answer.granted.len(), 1, "through {id}");
        let leases = cluster.on(id).vips().leases(soon()).await.unwrap();
        assert_eq!((leases.len(), leases[0].host.as_str()), (1, "h1"));
    }

    let leader = cluster.leader().await;
    cluster.stop(leader).await;
    renew(&cluster, "h2", &mut sequence).await;
    let began = Instant::now();
    // A reason to move, which waits for what the old leader may have granted.
    let leader = cluster.on(cluster.leader().await);
    let drain = r#"{"SetHostState": {"name": "h1", "state": "draining", "term": null}}"#;
    done(leader, serde_json::from_str(drain).unwrap()).await;
    let term = leader.leadership().watch().borrow().unwrap();
    let early = leader.vips().step(term);
    // On a very slow machine the wait may be over by now.
    assert!(early.is_empty() || began.elapsed() > fence(GRANT) / 2, "{early:?}");
    let answer = renew(&cluster, "h1", &mut sequence).await;
    assert!(answer.granted.len() == 1 || !early.is_empty(), "the holder waits for nothing");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_a_majority_grants_nothing() {
    let (mut cluster, mut sequence) = (cluster().await, 0);
    place(&cluster, &mut sequence).await;
    let leader = cluster.leader().await;
    let others: Vec<u64> = cluster.running.keys().copied().filter(|id| *id != leader).collect();
    for id in others {
        cluster.stop(id).await;
    }
    let within = Instant::now() + Duration::from_secs(3);
    let asked = cluster.on(leader).vips().renew(renewal("h1", sequence + 1), within).await;
    assert!(asked.is_err(), "{asked:?}");
    cluster.end().await;
}
