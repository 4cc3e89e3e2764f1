//! One run: a new cluster, clients, a nemesis, recovery, a verdict.

mod broken;

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
use crate::backup::BackupTask;
use crate::cluster::{Cluster, ClusterOptions, SmallDisk, find_kube_apiserver};
use crate::evidence::{Audited, Clock, Evidence, Outcome, Sample, Testimony};
use crate::final_state::{self, sample};
use crate::follower::Follower;
use crate::http;
use crate::kubernetes::operators_commands;
use crate::nemesis::{Fault, Injected, Needs, NemesisOptions, Sort};
use crate::oracle::{Violation, costs, judge};
use crate::report::Story;
use crate::resident::Watcher;
use crate::workload::{Workload, WorkloadOptions, set_up, world};
use broken::{Broken, broken};

/// Timeout for the cluster to recover after the last fault.
const HEAL_PATIENCE: Duration = Duration::from_secs(30);
/// Timeout of each step after a failed recovery.
const LAST_MOMENT: Duration = Duration::from_secs(2);
/// Sampling interval of digests.
const SAMPLE_EVERY: Duration = Duration::from_millis(300);

/// Small disks, with enough space for a run.
const SMALL_DISK: SmallDisk = SmallDisk { bytes: 640 << 20, reserve: 64 << 20 };

/// Options of a run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    pub seed: u64,
    /// How long faults are injected.
    pub seconds: u64,
    pub clients: usize,
    pub replicas: usize,
    pub faults: Vec<Fault>,
    /// Interval between faults.
    pub interval: Duration,
    /// Follow a Kubernetes API server whose objects change all the time; implied by faults that need one.
    pub kubernetes: bool,
    /// A disk with ineffective fsync, to verify that data loss by power cuts is detected.
    pub lying_disk: bool,
    pub romanad: PathBuf,
    /// An older program to start with, for the fault `upgrade`.
    pub previous: Option<PathBuf>,
    /// Parent of the cluster's directory.
    pub parent: Option<PathBuf>,
    /// Keep data and logs even after a successful run.
    pub keep: bool,
}

impl RunOptions {
    /// Options of the nemesis, for each part of the run. All is quiet after each part of a run that follows a Kubernetes
    /// API server, so that has two.
    #[must_use]
    pub fn parts(&self) -> Vec<NemesisOptions> {
        let parts = if self.follows_kubernetes() { 2 } else { 1 };
        let part = |number: u32| NemesisOptions {
            faults: self.faults.clone(),
            interval: self.interval,
            duration: Duration::from_secs(self.seconds) / parts,
            seed: self.seed.wrapping_add(number.into()),
        };
        (0..parts).map(part).collect()
    }

    fn follows_kubernetes(&self) -> bool {
        self.kubernetes || Needs::of(&self.faults).kubernetes
    }

    /// The command that repeats the run (the random choices are the same; the timing is not).
    #[must_use]
    pub fn reproduce(&self) -> String {
        let faults: Vec<String> = self.faults.iter().map(ToString::to_string).collect();
        format!(
            "chaos run --seed {} --seconds {} --clients {} --replicas {} --interval-ms {} \
             --nemesis {}{}{}{} --romanad {}",
            self.seed,
            self.seconds,
            self.clients,
            self.replicas,
            self.interval.as_millis(),
            if faults.is_empty() { String::from("none") } else { faults.join(",") },
            if self.kubernetes { " --kubernetes" } else { "" },
            if self.lying_disk { " --lying-disk" } else { "" },
            self.previous
                .as_ref()
                .map(|path| format!(" --previous {}", path.display()))
                .unwrap_or_default(),
            self.romanad.display(),
        )
    }
}

/// The result of a run.
#[derive(Debug)]
pub struct Report {
    /// Broken laws; empty = passed.
    pub violations: Vec<Violation>,
    pub story: Story,
    /// Number of calls.
    pub calls: u64,
    /// Where data and logs were kept.
    pub kept: Option<PathBuf>,
}

/// Executes a run.
///
/// # Errors
/// The run could not be carried out; broken laws are no error.
pub async fn run(options: &RunOptions) -> Result<Report> {
    let needs = Needs::of(&options.faults);
    let small_disks = needs.small_disks.then_some(SMALL_DISK);
    let kubernetes = options.follows_kubernetes().then(find_kube_apiserver).transpose()?;
    let mut cluster = Cluster::start(ClusterOptions {
        replicas: options.replicas,
        romanad: options.romanad.clone(),
        previous: options.previous.clone(),
        parent: options.parent.clone(),
        shim: needs.shim.then_some(options.seed),
        lying_disk: options.lying_disk,
        namespaces: needs.namespaces,
        small_disks,
        kubernetes,
        arguments: Vec::new(),
        rejoin: false,
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
    let mut first = world();
    if options.follows_kubernetes() {
        first.extend(operators_commands());
    }
    let mut evidence = Evidence {
        began: Some(clock.began()),
        calls: set_up(&apis, first, clock).await?,
        ..Evidence::default()
    };
    let sampler = Sampler::start(cluster);
    let watcher = Watcher::start(cluster.lives(), clock);
    let targets = cluster.replicas().iter().map(|replica| (replica.id, replica.api));
    // The previous program does not support backups.
    let backups = options.previous.is_none().then(|| BackupTask::start(targets.collect()));
    let followers: Vec<Follower> =
        (0..2).map(|at| Follower::start(apis.clone(), options.seed ^ (0xf0 + at))).collect();
    let workload = WorkloadOptions { clients: options.clients, seed: options.seed };
    let workload = Workload::start(&apis, &workload, clock)?;

    let Broken { faults, mut violations, asked, facts } =
        Box::pin(broken(options, cluster, clock)).await?;
    violations.extend(faults_took_effect(cluster, &faults));
    (evidence.faults, evidence.kubernetes) = (faults, asked);
    // The failed recovery is a violation already, so do not wait long for the rest of the evidence.
    let patience = if violations.is_empty() { HEAL_PATIENCE } else { LAST_MOMENT };
    let unserved = workload.all_served(patience).await;
    if !unserved.is_empty() {
        let what = format!("clients {unserved:?} were not served after the heal");
        violations.push(Violation { law: "liveness", what });
    }
    evidence.calls.extend(workload.finish().await?);
    evidence.samples = sampler.finish().await?;
    evidence.memory = watcher.finish().await?;
    if let Some(backups) = backups {
        evidence.backups = backups.finish().await?;
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
    let facts = [self::facts(&evidence, heard.asked), facts].concat();
    let story = Story::new(options.reproduce(), facts, &evidence, &violations);
    Ok(Report { violations, story, calls: evidence.calls.len() as u64, kept: None })
}

/// The replicas' reports after the run.
#[derive(Default)]
struct Heard {
    testimonies: Vec<Testimony>,
    audited: Vec<Audited>,
    /// Number of addresses queried, of how many.
    asked: (usize, usize),
    violations: Vec<Violation>,
}

impl Heard {
    /// The last revision in the reports.
    fn last(&self) -> Revision {
        Revision(self.testimonies.first().map_or(0, |said| said.records.len() as u64))
    }
}

/// Collects reports until no new record appears in the meantime: a call whose client timed out may be
/// committed much later, between two answers.
async fn collect_until_quiet(cluster: &Cluster, seed: u64, patience: Duration) -> Heard {
    /// There are no new calls, so this ends soon.
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

/// Checks that faults took effect: cut links must have dropped packets.
fn faults_took_effect(cluster: &mut Cluster, faults: &[Injected]) -> Option<Violation> {
    /// Between replicas there are packets in every second.
    const LONG: u64 = 1_000_000_000;
    let of_links = |injected: &&Injected| {
        injected.fault.kind().sort == Sort::Network && injected.fault.kind().name != "slow-link"
    };
    let long = |injected: &Injected| injected.until - injected.from > LONG;
    let any = faults.iter().filter(of_links).any(long);
    let dropped = cluster.net().map_or(Ok(0), |net| net.dropped());
    let what = match dropped {
        Ok(0) if any => String::from("links were cut for over a second, and no packet was dropped"),
        Ok(_) => return None,
        Err(error) => format!("{error:#}"),
    };
    Some(Violation { law: "nemesis", what })
}

/// Checks after a rolling upgrade that all replicas run the new program, and that its version is active.
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

/// Samples digests of all replicas during the run.
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

/// Counts for the report.
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

/// Memory of the replicas, and the increase by abuse.
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
