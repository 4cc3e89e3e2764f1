//! One run: a fresh cluster, clients, a nemesis, a heal, a verdict.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::future::join_all;
use hyper::Method;
use romana_statemachine::{Revision, plural};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::audit;
use crate::backup::Keeper;
use crate::cluster::{Cluster, ClusterOptions, SmallDisk};
use crate::evidence::{Audited, Clock, Evidence, Outcome, Sample, Testimony};
use crate::final_state::{self, sample};
use crate::follower::Follower;
use crate::http;
use crate::nemesis::{Damage, Fault, Injected, Needs, NemesisOptions, Sort, inject};
use crate::oracle::{Violation, costs, judge};
use crate::report::Story;
use crate::resident::Watcher;
use crate::workload::{Workload, WorkloadOptions, set_up};

/// How long the cluster may take to be whole again after the last fault.
const HEAL_PATIENCE: Duration = Duration::from_secs(30);
/// How long anything is waited for when the heal has failed.
const LAST_MOMENT: Duration = Duration::from_secs(2);
/// How often replicas are asked for their digest.
const SAMPLE_EVERY: Duration = Duration::from_millis(300);

/// Where disks are small: room for what a run writes.
const SMALL_DISK: SmallDisk = SmallDisk { bytes: 640 << 20, reserve: 64 << 20 };

/// What to run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The seed of all dice.
    pub seed: u64,
    /// How long faults are injected.
    pub seconds: u64,
    pub clients: usize,
    pub replicas: usize,
    pub faults: Vec<Fault>,
    /// From one fault to the next.
    pub interval: Duration,
    /// A disk whose fsync lies, to see that power cuts are noticed when they cost something.
    pub lying_disk: bool,
    /// The `romanad` program.
    pub romanad: PathBuf,
    /// An older one to begin with, for the fault `upgrade`.
    pub previous: Option<PathBuf>,
    /// Where the cluster's directory is made.
    pub parent: Option<PathBuf>,
    /// Keep data and logs even when all is well.
    pub keep: bool,
}

impl RunOptions {
    /// What is broken, and when.
    #[must_use]
    pub fn nemesis(&self) -> NemesisOptions {
        NemesisOptions {
            faults: self.faults.clone(),
            interval: self.interval,
            duration: Duration::from_secs(self.seconds),
            seed: self.seed,
        }
    }

    /// The command that runs the same again (the dice are the same; timing is the machine's).
    #[must_use]
    pub fn reproduce(&self) -> String {
        let faults: Vec<String> = self.faults.iter().map(ToString::to_string).collect();
        format!(
            "chaos run --seed {} --seconds {} --clients {} --replicas {} --interval-ms {} \
             --nemesis {}{}{} --romanad {}",
            self.seed,
            self.seconds,
            self.clients,
            self.replicas,
            self.interval.as_millis(),
            if faults.is_empty() { String::from("none") } else { faults.join(",") },
            if self.lying_disk { " --lying-disk" } else { "" },
            self.previous
                .as_ref()
                .map(|path| format!(" --previous {}", path.display()))
                .unwrap_or_default(),
            self.romanad.display(),
        )
    }
}

/// What came of a run.
#[derive(Debug)]
pub struct Report {
    /// Broken laws; empty = it passed.
    pub violations: Vec<Violation>,
    /// How it went.
    pub story: Story,
    /// Calls of all clients.
    pub calls: u64,
    /// Where data and logs were kept.
    pub kept: Option<PathBuf>,
}

/// Runs.
///
/// # Errors
/// The run could not be carried out; broken laws are no error.
pub async fn run(options: &RunOptions) -> Result<Report> {
    let needs = Needs::of(&options.faults);
    let small_disks = needs.small_disks.then_some(SMALL_DISK);
    let mut cluster = Cluster::start(ClusterOptions {
        replicas: options.replicas,
        romanad: options.romanad.clone(),
        previous: options.previous.clone(),
        parent: options.parent.clone(),
        shim: needs.shim.then_some(options.seed),
        lying_disk: options.lying_disk,
        namespaces: needs.namespaces,
        small_disks,
    })
    .await?;
    let result = carry_out(options, &mut cluster).await;
    let broken = !matches!(&result, Ok(report) if report.violations.is_empty());
    let kept = (broken || options.keep).then(|| cluster.keep());
    if broken {
        eprintln!("{}", cluster.log_tails(30));
    }
    if let (Some(kept), Err(_)) = (&kept, &result) {
        eprintln!("data and logs: {}", kept.display());
    }
    result.map(|report| Report { kept, ..report })
}

async fn carry_out(options: &RunOptions, cluster: &mut Cluster) -> Result<Report> {
    let apis = cluster.apis();
    let clock = Clock::start();
    let mut evidence = Evidence {
        began: Some(clock.began()),
        calls: set_up(&apis, clock).await?,
        ..Evidence::default()
    };
    let sampler = Sampler::start(cluster);
    let watcher = Watcher::start(cluster.lives(), clock);
    let targets = cluster.replicas().iter().map(|replica| (replica.id, replica.api));
    // The previous program gives none.
    let keeper = options.previous.is_none().then(|| Keeper::start(targets.collect()));
    let followers: Vec<Follower> =
        (0..2).map(|at| Follower::start(apis.clone(), options.seed ^ (0xf0 + at))).collect();
    let workload = WorkloadOptions { clients: options.clients, seed: options.seed };
    let workload = Workload::start(&apis, &workload, clock)?;

    let damage = inject(cluster, &options.nemesis(), clock).await?;
    let mut violations = healed(cluster, &damage).await;
    violations.extend(faults_took_effect(cluster, &damage));
    evidence.faults.clone_from(&damage.faults);
    // What did not heal by now is known to be broken: the rest of the evidence is worth a moment.
    let patience = if violations.is_empty() { HEAL_PATIENCE } else { LAST_MOMENT };
    let unserved = workload.all_served(patience).await;
    if !unserved.is_empty() {
        let what = format!("clients {unserved:?} were not served after the heal");
        violations.push(Violation { law: "liveness", what });
    }
    evidence.calls.extend(workload.finish().await?);
    evidence.samples = sampler.finish().await?;
    evidence.memory = watcher.finish().await?;
    if let Some(keeper) = keeper {
        evidence.backups = keeper.finish().await?;
    }
    violations.extend(cluster.crashes().into_iter().map(|what| Violation { law: "crash", what }));

    if options.previous.is_some() {
        violations.extend(upgraded(cluster).await);
    }
    let heard = collect_until_quiet(cluster, options.seed, patience).await;
    let last = heard.last();
    violations.extend(heard.violations);
    (evidence.testimonies, evidence.audited) = (heard.testimonies, heard.audited);
    for follower in followers {
        match follower.finish(last, patience).await {
            Ok(followed) => evidence.followed.push(followed),
            Err(error) => violations.push(Violation { law: "feed", what: format!("{error:#}") }),
        }
    }
    violations.extend(judge(&evidence));
    let facts = facts(&evidence, heard.asked);
    let story = Story::new(options.reproduce(), facts, &evidence, &violations);
    Ok(Report { violations, story, calls: evidence.calls.len() as u64, kept: None })
}

/// What the replicas say when all is quiet.
#[derive(Default)]
struct Heard {
    testimonies: Vec<Testimony>,
    audited: Vec<Audited>,
    /// For how many addresses they were asked, of how many.
    asked: (usize, usize),
    violations: Vec<Violation>,
}

impl Heard {
    /// The last revision that was heard of.
    fn last(&self) -> Revision {
        Revision(self.testimonies.first().map_or(0, |said| said.records.len() as u64))
    }
}

/// Hears everybody until nothing came meanwhile: what was on its way when a client gave up may be committed much
/// later, between two answers.
async fn collect_until_quiet(cluster: &Cluster, seed: u64, patience: Duration) -> Heard {
    /// Nobody asks for anything any more: it ends soon.
    const LATE_MAX: usize = 5;
    let mut heard = hear(cluster, seed, patience).await;
    for _ in 0..LATE_MAX {
        let last = heard.last();
        let samples = cluster.replicas().iter().map(|replica| sample(replica.id, replica.api));
        let late = |said: &Option<Sample>| said.as_ref().is_some_and(|said| said.revision > last);
        if !join_all(samples).await.iter().any(late) {
            break;
        }
        heard = hear(cluster, seed, patience).await;
    }
    heard
}

async fn hear(cluster: &Cluster, seed: u64, patience: Duration) -> Heard {
    let mut heard = Heard::default();
    match final_state::collect(cluster, patience).await {
        Ok((testimonies, complaint)) => {
            heard.testimonies = testimonies;
            heard.violations.extend(complaint.map(|what| Violation { law: "converge", what }));
        }
        Err(error) => {
            heard.violations.push(Violation { law: "converge", what: format!("{error:#}") });
        }
    }
    let Some(witness) = heard.testimonies.first() else { return heard };
    let (addresses, given) = audit::addresses(&witness.records, seed);
    heard.asked = (addresses.len(), given);
    match audit::collect(cluster, &addresses, heard.last()).await {
        Ok(audited) => heard.audited = audited,
        Err(error) => {
            heard.violations.push(Violation { law: "audit", what: format!("{error:#}") });
        }
    }
    heard
}

/// After the last fault: the cluster becomes whole again, and nobody had crashed by himself.
async fn healed(cluster: &mut Cluster, damage: &Damage) -> Vec<Violation> {
    let mut violations: Vec<Violation> =
        damage.crashes.iter().map(|what| Violation { law: "crash", what: what.clone() }).collect();
    if let Err(error) = cluster.heal() {
        violations.push(Violation { law: "heal", what: format!("{error:#}") });
    }
    if let Err(error) = cluster.wait_ready(HEAL_PATIENCE).await {
        violations.push(Violation { law: "heal", what: format!("{error:#}") });
    }
    violations
}

/// Faults that do nothing show nothing: what was cut must have been missed.
fn faults_took_effect(cluster: &mut Cluster, damage: &Damage) -> Option<Violation> {
    /// Between replicas a second never passes without packets.
    const LONG: u64 = 1_000_000_000;
    let of_links = |injected: &&Injected| {
        injected.fault.kind().sort == Sort::Network && injected.fault.kind().name != "slow-link"
    };
    let long = |injected: &Injected| injected.until - injected.from > LONG;
    let any = damage.faults.iter().filter(of_links).any(long);
    let dropped = cluster.net().map_or(Ok(0), |net| net.dropped());
    let what = match dropped {
        Ok(0) if any => String::from("links were cut for over a second, and no packet was dropped"),
        Ok(_) => return None,
        Err(error) => format!("{error:#}"),
    };
    Some(Violation { law: "nemesis", what })
}

/// After a rolling upgrade all replicas run the new program, and its version is on.
async fn upgraded(cluster: &Cluster) -> Option<Violation> {
    let violation = |what: String| Some(Violation { law: "upgrade", what });
    if let Some(at) = cluster.outdated() {
        return violation(format!("replica {} was not upgraded", cluster.replicas()[at].id));
    }
    let deadline = Instant::now() + HEAL_PATIENCE;
    let path = "/v1/snapshot?topics=topology";
    loop {
        let asked = http::once(cluster.apis()[0], Method::GET, path, None, HEAL_PATIENCE).await;
        let version = asked.ok().and_then(|answer| answer.body.get("version")?.as_u64());
        if version == Some(romana_statemachine::VERSION_MAX.into()) {
            return None;
        }
        if Instant::now() > deadline {
            return violation(format!("the version is {version:?}"));
        }
        sleep(SAMPLE_EVERY).await;
    }
}

/// Asks all replicas for their digest while everything else goes on.
struct Sampler {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Vec<Sample>>,
}

impl Sampler {
    fn start(cluster: &Cluster) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let targets: Vec<(u64, SocketAddr)> =
            cluster.replicas().iter().map(|replica| (replica.id, replica.api)).collect();
        let flag = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut samples = Vec::new();
            while !flag.load(Ordering::Relaxed) {
                for &(replica, api) in &targets {
                    samples.extend(sample(replica, api).await);
                }
                sleep(SAMPLE_EVERY).await;
            }
            samples
        });
        Self { stop, task }
    }

    async fn finish(self) -> Result<Vec<Sample>> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.context("the sampler")
    }
}

/// Counts, for people.
fn facts(evidence: &Evidence, (asked, given): (usize, usize)) -> Vec<(String, String)> {
    let mut outcomes: BTreeMap<&str, usize> = BTreeMap::new();
    let mut refusals: BTreeMap<&str, usize> = BTreeMap::new();
    for call in &evidence.calls {
        let kind = match &call.outcome {
            Outcome::Acked { .. } => "acked",
            Outcome::Refused { code } => {
                *refusals.entry(code).or_default() += 1;
                "refused"
            }
            Outcome::Unavailable => "unavailable",
            Outcome::Unknown => "unknown",
        };
        *outcomes.entry(kind).or_default() += 1;
    }
    let mut faults: BTreeMap<&str, usize> = BTreeMap::new();
    for injected in &evidence.faults {
        *faults.entry(injected.fault.kind().name).or_default() += 1;
    }
    let records = evidence.testimonies.first().map_or(0, |said| said.records.len());
    let connections: u64 = evidence.followed.iter().map(|followed| followed.connections).sum();
    let exports = evidence.audited.iter().filter(|said| said.exported.is_some()).count();
    let samples = evidence.samples.len();
    [
        ("calls", format!("{} ({})", evidence.calls.len(), listed(&outcomes))),
        ("refusals", listed(&refusals)),
        ("faults", listed(&faults)),
        (
            "history",
            format!("{}, {} sampled", plural(records, "record"), plural(samples, "digest")),
        ),
        (
            "audit",
            format!(
                "asked for {asked} of {} on each replica, {}",
                plural(given, "address"),
                plural(exports, "export")
            ),
        ),
        ("backups", format!("{} whole", evidence.backups.len())),
        ("followers", plural(connections, "connection").to_string()),
        ("memory", memory(evidence)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

/// What the replicas took, and what abuse had a part in it.
fn memory(evidence: &Evidence) -> String {
    let most = evidence.memory.iter().map(|seen| seen.bytes).max().unwrap_or_default();
    let costs = costs(evidence);
    let grown = costs.iter().map(|cost| cost.grown).max();
    let left = costs.iter().filter_map(|cost| cost.left).max();
    let mb = |bytes: Option<u64>| bytes.map_or_else(|| "?".to_owned(), |it| (it >> 20).to_string());
    match costs.is_empty() {
        true => format!("{} MB at most", most >> 20),
        false => format!(
            "{} MB at most; an abuse cost {} MB, of which {} stayed",
            most >> 20,
            mb(grown),
            mb(left)
        ),
    }
}

fn listed(counts: &BTreeMap<&str, usize>) -> String {
    let pairs: Vec<String> = counts.iter().map(|(name, count)| format!("{count} {name}")).collect();
    pairs.join(", ")
}
