mod restore;
mod retention;

use std::sync::Mutex;

use romana_replica::ProposeError;
use romana_replica::testing::{Cluster, PATIENCE, eventually, soon};
use romana_statemachine::{Event, Revision, Term};

use super::*;

/// Records which replica ran the task, and in which term.
struct Witness(Mutex<Vec<(u64, Term)>>);

impl Pass for Witness {
    type Error = ProposeError;

    const NAME: &'static str = "witness";
    const PERIOD: Duration = Duration::from_millis(5);

    fn pass<'a>(&'a self, context: &'a LeaderContext) -> BoxFuture<'a, Result<(), ProposeError>> {
        self.0.lock().unwrap().push((context.replica.id(), context.term));
        Box::pin(std::future::ready(Ok(())))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_leader_runs_tasks() {
    let cluster = Cluster::started(3).await;
    let witness = Arc::new(Passes(Witness(Mutex::default())));
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
        let seen = witness.0.0.lock().unwrap();
        seen.iter().rev().find(|(replica, _)| *replica == id).map(|(_, term)| *term)
    };
    let before = eventually("the leader's turn", || seen(leader)).await;
    let next = cluster.follower().await;
    cluster.on(leader).leadership().transfer(next, soon()).await.unwrap();
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
        let records = history.read(Revision(1), 100, 1 << 20).unwrap();
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

/// Fails, then panics, then works.
struct Clumsy(Mutex<u32>);

impl Task for Clumsy {
    fn name(&self) -> &'static str {
        "clumsy"
    }

    fn run<'a>(&'a self, context: &'a mut LeaderContext) -> BoxFuture<'a, Result<(), TaskError>> {
        Box::pin(async move {
            let count = {
                let mut count = self.0.lock().unwrap();
                *count += 1;
                *count
            };
            match count {
                1 => Err("there is no cloud".into()),
                2 => panic!("as this test wants"),
                _ => {
                    context.report("Cloudy", Some("it rains".into()));
                    std::future::pending().await
                }
            }
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_ends_is_a_problem_and_begins_again() {
    let cluster = Cluster::started(1).await;
    let (replica, stop) = (cluster.on(1).clone(), CancellationToken::new());
    let running =
        tokio::spawn(run(replica.clone(), vec![Arc::new(Clumsy(Mutex::default()))], stop.clone()));
    let problems = || replica.members().status().members[0].problems.clone();
    let said = async |what: &str| {
        eventually(what, || problems().into_iter().find(|problem| problem.what.contains(what)))
            .await
    };
    let failed = said("leader task clumsy: there is no cloud").await;
    assert_eq!(failed.code, "TaskEnded");
    said("it panicked").await;
    assert_eq!(said("it rains").await.code, "Cloudy");
    assert_eq!(replica.health().problems().counts()["clumsy"], 2, "it has not run for long");
    stop.cancel();
    tokio::time::timeout(PATIENCE, running).await.unwrap().unwrap();
    assert_eq!(problems(), [], "the next leader has its own");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_wakes_for_its_topics_alone() {
    let cluster = Cluster::started(1).await;
    let replica = cluster.on(1);
    let term = eventually("a leader", || *replica.leadership().watch().borrow()).await;
    let context = LeaderContext::new(replica.clone(), term, "waker");
    context.confirm().await.unwrap();
    let mut wake = context.wake(&[romana_statemachine::Topic::Hosts]);
    let commands = commands().into_iter().map(|proposal| proposal.command);
    let commands: Vec<_> = commands.collect();
    // Topology and settings do not concern hosts.
    context.propose(commands[..2].to_vec()).await.unwrap();
    let asleep = tokio::time::timeout(Duration::from_millis(50), wake.changed(PATIENCE)).await;
    assert!(asleep.is_err());
    context.propose(commands[2..3].to_vec()).await.unwrap();
    tokio::time::timeout(PATIENCE, wake.changed(PATIENCE * 10)).await.unwrap();
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leads_no_more_changes_nothing_outside() {
    let cluster = Cluster::started(3).await;
    let leader = cluster.leader().await;
    let replica = cluster.on(leader);
    let term = eventually("a term", || *replica.leadership().watch().borrow()).await;
    let context = LeaderContext::new(replica.clone(), term, "outsider");
    context.confirm().await.unwrap();
    let next = cluster.follower().await;
    replica.leadership().transfer(next, soon()).await.unwrap();
    eventually("it leads no more", || {
        replica.leadership().watch().borrow().is_none().then_some(())
    })
    .await;
    let refused = context.confirm().await.unwrap_err();
    assert!(refused.to_string().contains(&format!("does not lead in term {term}")), "{refused}");
    cluster.end().await;
}
