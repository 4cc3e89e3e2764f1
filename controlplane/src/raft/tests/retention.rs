//! Retention: what is signed goes everywhere, and who lags behind it begins anew.

use std::sync::Arc;

use romana_statemachine::command::{RaiseVersion, Retention};
use romana_storage::history::{History, HistoryOptions};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::retention::{self, Checkpoints};
use crate::tasks::{self, LeaderContext, Pass, Passes, Task};

fn propose(command: Command) -> Vec<Proposal> {
    vec![Proposal { actor: Actor::from("test"), command }]
}

/// Tenants with much to say.
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
    // Enough, also when all of it is packed by the time that it is looked at.
    fill(leader, 0, 7000).await;
    let stop = CancellationToken::new();
    let mut running = Vec::new();
    for replica in cluster.running.values() {
        let task: Vec<Arc<dyn Task>> = vec![Arc::new(Passes(tasks::retention::Retention))];
        running.push(tokio::spawn(tasks::run(replica.clone(), task, stop.clone())));
        running.push(tokio::spawn(retention::keep(replica.clone(), stop.clone())));
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
        // The chain leads from what is kept to the record that vouches for it.
        assert_eq!(history.verify().unwrap(), history.last());
        let digest = match history.start() {
            (revision, digest) if revision == signed.revision => digest,
            _ => history.read(signed.revision, 1, 1).unwrap().remove(0).digest,
        };
        assert_eq!(digest, signed.digest);
        assert!(replica.snapshot_revision() >= signed.revision);
        let kept = replica.checkpoints().unwrap().list();
        assert!(kept.iter().any(|standing| standing.is(&signed)), "{kept:?}");
    }
    stop.cancel();
    for task in running {
        tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap();
    }
    // It starts again with what it has.
    let oldest = cluster.on(1).history().oldest();
    cluster.stop(1).await;
    cluster.start(1).await;
    cluster.ready().await;
    assert_eq!(cluster.on(1).history().oldest(), oldest);
    cluster.converge().await;
    cluster.end().await;
}

/// Writes more, waits until the log is purged, and purges the histories of 2 and 3 up to their
/// newest snapshots.
async fn move_on(cluster: &Cluster, from: u64) {
    for number in from..from + 60 {
        create(cluster.on(2), &format!("tenant-{number}")).await;
    }
    cluster.on(2).linearize(soon()).await.unwrap();
    for id in [2, 3] {
        let replica = cluster.on(id);
        let snapshot = eventually("a snapshot", || {
            let snapshot = replica.snapshot_revision();
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
    // 1 is new at first, and has the history of the first round in the second.
    for round in 0..2 {
        move_on(&cluster, round * 60).await;
        let kept = [2, 3].map(|id| cluster.on(id).history().start());
        if interrupted && round == 1 {
            // It had been told, and lost its power before the snapshot came.
            let history =
                History::open(&cluster.data(1).join("history"), HistoryOptions::default());
            let (revision, digest) = kept[0];
            history.unwrap().reset(revision, digest).unwrap();
        }
        cluster.start(1).await;
        cluster.ready().await;
        cluster.on(1).linearize(soon()).await.unwrap();
        cluster.converge().await;
        let history = cluster.on(1).history();
        assert!(kept.contains(&history.start()), "{:?} {kept:?}", history.start());
        assert_eq!(history.verify().unwrap(), cluster.on(2).history().last());
        assert!(has(cluster.on(1), "tenant-0"));
        // The feed goes on from what is kept, and says so to whoever wants more.
        let everything = || crate::feed::Filter {
            topics: crate::feed::Topics::all(),
            host: None,
            version: u16::MAX,
        };
        let feed = cluster.on(1).feed();
        let follow = |after| feed.follow(after, everything(), crate::feed::Form::Ndjson);
        assert_eq!(feed.last(), history.last().0);
        assert!(follow(history.start().0).is_ok());
        assert!(follow(0).is_err());
        cluster.stop(1).await;
        cluster.start(1).await;
        cluster.ready().await;
        create(cluster.on(1), &format!("after-{round}")).await;
        cluster.converge().await;
        cluster.stop(1).await;
    }
    cluster.end().await;
}

/// Age at which history is too old, with a pause of 90 ms from step to step.
const AGE: Retention = Retention { age_ms: Some(90_000), bytes: None };

/// What the leader's task and the replicas do, step by step.
struct Purging {
    context: LeaderContext,
    keepers: BTreeMap<u64, Arc<dyn Checkpoints>>,
    stepped: Instant,
}

impl Purging {
    async fn begin(cluster: &Cluster) -> Self {
        let replica = cluster.on(cluster.leader().await).clone();
        let term = replica.leadership().borrow().expect("it leads");
        let mut keepers = BTreeMap::new();
        for (id, replica) in &cluster.running {
            let keeper: Arc<dyn Checkpoints> = Arc::new(replica.audit().checkpoints().clone());
            replica.keep_checkpoints(Arc::clone(&keeper));
            keepers.insert(*id, keeper);
        }
        let context = LeaderContext::new(replica, term, "retention");
        Self { context, keepers, stepped: Instant::now() }
    }

    fn signed(&self) -> u64 {
        self.context.replica.with_state(|state| state.signed().map_or(0, |signed| signed.revision))
    }

    /// Each does what there is to do, once.
    async fn work(&self, cluster: &Cluster) {
        tasks::retention::Retention.pass(&self.context).await.unwrap();
        for (id, replica) in &cluster.running {
            let mut stepped = self.stepped;
            retention::pass(replica, &self.keepers[id], &mut stepped).await.unwrap();
        }
    }

    /// The same, again and again, for longer than a pause.
    async fn work_long(&self, cluster: &Cluster) {
        let begun = Instant::now();
        while begun.elapsed() < retention::pause(&AGE) * 3 {
            self.work(cluster).await;
            tokio::task::yield_now().await;
        }
    }
}

fn oldest(cluster: &Cluster) -> Vec<u64> {
    cluster.running.values().map(|replica| replica.history().oldest()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_old_is_what_a_majority_of_the_clocks_says_is_too_old() {
    const HOUR_MS: i64 = 3_600_000;
    let mut cluster = Cluster::new(3).await;
    cluster.tuning.history_segment_bytes = 20 << 10;
    // An hour ago.
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
    // The leader's clock is far ahead: nothing goes, nor is prepared for going.
    cluster.set_clock(leader, 400 * 24 * HOUR_MS);
    cluster.clocks(leader, "a wrong clock", |clocks| clocks.members.iter().any(|c| c.far)).await;
    let segments = cluster.on(leader).history().segments().unwrap().len();
    assert!(segments > 4, "{segments}");
    purging.work_long(&cluster).await;
    assert_eq!((purging.signed(), oldest(&cluster)), (0, vec![1, 1, 1]));
    assert_eq!(cluster.on(leader).history().segments().unwrap().len(), segments);
    drop(purging);
    // An hour later all of it is too old. Without a majority that agrees on that nothing goes.
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
    assert_eq!((purging.signed(), oldest(&cluster)), (0, vec![1, 1]));
    // With a majority it goes, one step after the other.
    cluster.set_clock(leader, 0);
    cluster.clocks(leader, "agreement", |clocks| clocks.agreed).await;
    let deadline = soon();
    let mut steps = 0;
    while steps < 3 {
        assert!(Instant::now() < deadline, "only {steps} steps, {} is signed", purging.signed());
        let before = cluster.on(leader).history().segments().unwrap();
        purging.work(&cluster).await;
        let after = cluster.on(leader).history().oldest();
        assert!(after <= before[1].last + 1, "{after} is more than a step from {before:?}");
        assert!(oldest(&cluster).iter().all(|oldest| *oldest <= purging.signed() + 1));
        steps += usize::from(after > before[0].first);
    }
    // Each can tell where its history begins, and that is explained.
    let replica = cluster.on(leader);
    let beginnings = replica.beginnings(soon()).await;
    assert_eq!(beginnings[&leader].oldest, replica.history().oldest());
    assert_eq!(retention::differences(&beginnings, purging.signed()), Vec::<String>::new());
    drop(purging);
    cluster.end().await;
}
