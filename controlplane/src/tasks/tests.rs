use std::sync::Mutex;

use romana_statemachine::Event;

use super::*;
use crate::raft::tests::{Cluster, PATIENCE, eventually, soon};

/// Remembers whose turn it was.
struct Witness(Mutex<Vec<(u64, Term)>>);

impl Task for Witness {
    fn name(&self) -> &'static str {
        "witness"
    }

    fn period(&self) -> Duration {
        Duration::from_millis(5)
    }

    fn follows_state(&self) -> bool {
        true
    }

    fn pass<'a>(&'a self, turn: &'a Turn) -> BoxFuture<'a, Result<(), ProposeError>> {
        self.0.lock().unwrap().push((turn.replica.id(), turn.term));
        Box::pin(std::future::ready(Ok(())))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_leader_runs_tasks() {
    let cluster = Cluster::started(3).await;
    let witness = Arc::new(Witness(Mutex::default()));
    let stop = CancellationToken::new();
    let running: Vec<_> = cluster
        .running
        .values()
        .map(|replica| {
            let tasks: Vec<Arc<dyn Task>> = vec![witness.clone()];
            tokio::spawn(run(replica.clone(), tasks, stop.clone()))
        })
        .collect();
    let leader = cluster.leader().await;
    let seen = |id| {
        let seen = witness.0.lock().unwrap();
        seen.iter().rev().find(|(replica, _)| *replica == id).map(|(_, term)| *term)
    };
    let before = eventually("the leader's turn", || seen(leader)).await;
    let next = cluster.follower().await;
    cluster.on(leader).transfer(next, soon()).await.unwrap();
    let after = eventually("the next leader's turn", || seen(next)).await;
    assert!(after > before);
    stop.cancel();
    for task in running {
        tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap();
    }
    cluster.end().await;
}

fn commands() -> Vec<romana_statemachine::Proposal> {
    let topology = r#"{"networks": [{"name": "n", "cidr": "10.0.0.0/16", "block_mask": 29}],
        "topologies": [{"networks": ["n"], "map": [{"groups": []}]}]}"#;
    let commands = [
        format!(r#"{{"SetTopology": {topology}}}"#),
        r#"{"ChangeSettings": {"address_reuse_delay_ms": 1}}"#.into(),
        r#"{"AddHost": {"name": "h", "ip": "192.168.0.1"}}"#.into(),
        r#"{"AllocateAddress": {"name": "a", "host": "h", "tenant": "t", "segment": "s"}}"#.into(),
        r#"{"ReleaseAddress": {"address": "a"}}"#.into(),
    ];
    let actor = romana_statemachine::Actor::from("test");
    let parse = |json: String| serde_json::from_str(&json).unwrap();
    commands
        .map(|json| romana_statemachine::Proposal { actor: actor.clone(), command: parse(json) })
        .into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_reaper_ends_cooldowns() {
    let cluster = Cluster::started(1).await;
    let stop = CancellationToken::new();
    let running = tokio::spawn(run(cluster.on(1).clone(), standard(Vec::new()), stop.clone()));
    for outcome in cluster.on(1).propose(commands(), soon()).await.unwrap() {
        outcome.result.unwrap();
    }
    let history = cluster.on(1).history();
    eventually("ended cool-downs", || {
        let records = history.read(1, 100, 1 << 20).unwrap();
        let ended = records.iter().any(|record| {
            matches!(record.event, Event::CooldownsEnded(_))
                && record.actor.as_str() == "task:reaper"
        });
        ended.then_some(())
    })
    .await;
    stop.cancel();
    tokio::time::timeout(PATIENCE, running).await.unwrap().unwrap();
    cluster.end().await;
}
