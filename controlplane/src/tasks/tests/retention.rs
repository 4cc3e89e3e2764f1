//! Retention: signed history is purged on every replica, at the pace and by the clocks of a majority.

use std::collections::BTreeMap;

use romana_replica::Replica;
use romana_replica::purge;
use romana_replica::retention::{self, Checkpoints};
use romana_replica::testing::Cluster;
use romana_statemachine::command::{RaiseVersion, Retention, TenantSpec};
use romana_statemachine::{Actor, Command, Labels, Proposal, Revision};
use tokio::time::Instant;

use super::*;

fn propose(command: Command) -> Vec<Proposal> {
    vec![Proposal { actor: Actor::from("test"), command }]
}

/// Creates tenants with large labels.
async fn fill(replica: &Replica, from: u64, to: u64) {
    for batch in (from..to).collect::<Vec<_>>().chunks(100) {
        let tenants = batch.iter().map(|number| {
            let noise = |at| format!("{:x}", rand::random::<u128>() ^ at);
            let labels: Labels = (0..16).map(|at| (format!("l{at}"), noise(at))).collect();
            let spec = TenantSpec { id: format!("tenant-{number}").into(), labels };
            Proposal { actor: Actor::from("test"), command: Command::CreateTenant(spec) }
        });
        replica.propose(tenants.collect(), soon()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_much_goes_everywhere_once_it_is_signed() {
    let mut cluster = Cluster::new(3).await;
    cluster.tuning.history_segment_bytes = 200 << 10;
    for id in 1..=3 {
        cluster.start(id).await;
    }
    cluster.ready().await;
    let leader = cluster.on(1);
    leader
        .propose(propose(Command::RaiseVersion(RaiseVersion { version: 2 })), soon())
        .await
        .unwrap();
    // Enough even if all of it is already compressed.
    fill(leader, 0, 7000).await;
    let stop = CancellationToken::new();
    let mut running = Vec::new();
    for replica in cluster.running.values() {
        let task: Vec<Arc<dyn Task>> = vec![Arc::new(Passes(super::super::retention::Retention))];
        running.push(tokio::spawn(run(replica.clone(), task, stop.clone())));
        running.push(tokio::spawn(purge::keep(replica.clone(), stop.clone())));
    }
    let size = |replica: &Replica| replica.history().bytes();
    assert!(size(leader) > 2 << 20, "{}", size(leader));
    assert_eq!(leader.history().oldest(), 1, "nothing goes while nothing is set");
    let keep = Retention { age_ms: None, bytes: Some(1 << 20) };
    leader.propose(propose(Command::SetRetention(keep)), soon()).await.unwrap();
    for replica in cluster.running.values() {
        eventually("a purged history", || (size(replica) <= 13 << 17).then_some(())).await;
        let signed = replica.with_state(|state| state.signed().cloned()).unwrap();
        let history = replica.history();
        let (before, _) = history.start();
        assert!(before > 0 && before <= signed.revision, "{before} {signed:?}");
        // The chain leads from the kept history to the record with the signature.
        assert_eq!(history.verify().unwrap(), history.last());
        let digest = match history.start() {
            (revision, digest) if revision == signed.revision => digest,
            _ => history.read(signed.revision, 1, 1).unwrap().remove(0).digest,
        };
        assert_eq!(digest, signed.digest);
        assert!(replica.snapshots().revision() >= signed.revision);
        let kept = replica.evidence().checkpoints().unwrap().list();
        assert!(kept.iter().any(|standing| standing.is(&signed)), "{kept:?}");
    }
    stop.cancel();
    for task in running {
        tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap();
    }
    // It restarts with what it has.
    let oldest = cluster.on(1).history().oldest();
    cluster.stop(1).await;
    cluster.start(1).await;
    cluster.ready().await;
    assert_eq!(cluster.on(1).history().oldest(), oldest);
    cluster.converge().await;
    cluster.end().await;
}

/// Age limit of the history, which gives a pause of 90 ms between steps.
const AGE: Retention = Retention { age_ms: Some(90_000), bytes: None };

/// Runs the leader's task and the replicas' purging, step by step.
struct Purging {
    context: LeaderContext,
    keepers: BTreeMap<u64, Arc<dyn Checkpoints>>,
    stepped: Instant,
}

impl Purging {
    async fn begin(cluster: &Cluster) -> Self {
        let replica = cluster.on(cluster.leader().await).clone();
        let term = replica.leadership().watch().borrow().expect("it leads");
        let mut keepers = BTreeMap::new();
        for (id, replica) in &cluster.running {
            let keeper: Arc<dyn Checkpoints> = Arc::new(replica.audit().checkpoints().clone());
            replica.evidence().keep(Arc::clone(&keeper));
            keepers.insert(*id, keeper);
        }
        let context = LeaderContext::new(replica, term, "retention");
        Self { context, keepers, stepped: Instant::now() }
    }

    fn signed(&self) -> u64 {
        self.context
            .replica
            .with_state(|state| state.signed().map_or(0, |signed| signed.revision.get()))
    }

    /// Runs the leader's task and each replica's purging once.
    async fn work(&self, cluster: &Cluster) {
        super::super::retention::Retention.pass(&self.context).await.unwrap();
        for (id, replica) in &cluster.running {
            let mut stepped = self.stepped;
            purge::pass(replica, &self.keepers[id], &mut stepped).await.unwrap();
        }
    }

    /// The same repeatedly, for longer than a pause.
    async fn work_long(&self, cluster: &Cluster) {
        let begun = Instant::now();
        while begun.elapsed() < retention::pause(&AGE) * 3 {
            self.work(cluster).await;
            tokio::task::yield_now().await;
        }
    }
}

fn oldest(cluster: &Cluster) -> Vec<Revision> {
    cluster.running.values().map(|replica| replica.history().oldest()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_old_is_what_a_majority_of_the_clocks_says_is_too_old() {
    const HOUR_MS: i64 = 3_600_000;
    let mut cluster = Cluster::new(3).await;
    cluster.tuning.history_segment_bytes = 20 << 10;
    // Set all clocks back by an hour.
    for id in 1..=3 {
        cluster.set_clock(id, -HOUR_MS);
        cluster.start(id).await;
    }
    cluster.ready().await;
    let leader = cluster.leader().await;
    let raise = Command::RaiseVersion(RaiseVersion { version: 2 });
    cluster.on(leader).propose(propose(raise), soon()).await.unwrap();
    fill(cluster.on(leader), 0, 1000).await;
    let set = propose(Command::SetRetention(AGE));
    assert!(cluster.on(leader).propose(set, soon()).await.unwrap()[0].result.is_ok());
    cluster.converge().await;
    let purging = Purging::begin(&cluster).await;
    // The leader's clock is far ahead: nothing is purged, nor prepared for it.
    cluster.set_clock(leader, 400 * 24 * HOUR_MS);
    cluster.clocks(leader, "a wrong clock", |clocks| clocks.members.iter().any(|c| c.far)).await;
    let segments = cluster.on(leader).history().segments().unwrap().len();
    assert!(segments > 4, "{segments}");
    purging.work_long(&cluster).await;
    assert_eq!((purging.signed(), oldest(&cluster)), (0, vec![Revision(1); 3]));
    assert_eq!(cluster.on(leader).history().segments().unwrap().len(), segments);
    drop(purging);
    // An hour later all of it is too old. Without a majority that agrees on the time nothing is purged.
    for id in 1..=3 {
        cluster.stop(id).await;
        cluster.set_clock(id, 0);
    }
    for id in 1..=3 {
        cluster.start(id).await;
    }
    cluster.ready().await;
    let leader = cluster.leader().await;
    cluster.clocks(leader, "agreement", |clocks| clocks.agreed).await;
    cluster.stop(1 + leader % 3).await;
    cluster.set_clock(leader, 400 * 24 * HOUR_MS);
    cluster.clocks(leader, "a dispute", |clocks| !clocks.agreed).await;
    let purging = Purging::begin(&cluster).await;
    purging.work_long(&cluster).await;
    assert_eq!((purging.signed(), oldest(&cluster)), (0, vec![Revision(1); 2]));
    // With a majority it is purged, one step after the other.
    cluster.set_clock(leader, 0);
    cluster.clocks(leader, "agreement", |clocks| clocks.agreed).await;
    let deadline = soon();
    let mut steps = 0;
    while steps < 3 {
        assert!(Instant::now() < deadline, "only {steps} steps, {} is signed", purging.signed());
        let before = cluster.on(leader).history().segments().unwrap();
        purging.work(&cluster).await;
        let after = cluster.on(leader).history().oldest();
        assert!(after <= before[1].last.next(), "{after} is more than a step from {before:?}");
        assert!(oldest(&cluster).iter().all(|oldest| *oldest <= purging.signed() + 1));
        steps += usize::from(after > before[0].first);
    }
    // Each replica reports where its history begins, and the differences are explained.
    let replica = cluster.on(leader);
    let beginnings = replica.evidence().beginnings(soon()).await;
    assert_eq!(beginnings[&leader].oldest, replica.history().oldest());
    assert_eq!(
        retention::differences(&beginnings, Revision(purging.signed())),
        Vec::<String>::new()
    );
    drop(purging);
    cluster.end().await;
}
