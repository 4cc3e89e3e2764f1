//! Pods of a real Kubernetes API server, until they are in the log: a steady stream, many at once, and all of them listed
//! and compared by the next leader.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BytesMut};
use futures_util::{StreamExt, TryStreamExt, stream};
use hdrhistogram::Histogram;
use http_body_util::BodyExt;
use hyper::Method;
use romana_statemachine::{Event, Record};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::BenchOptions;
use super::report::{Budget, Machine, median_by, print_budgets};
use crate::cluster::{Cluster, ClusterOptions, Objects, find_kube_apiserver, find_romanad};
use crate::http::{Connection, once};
use crate::wait::until;

/// Nodes, over which the pods are spread.
const NODES: usize = 20;
/// Requests for pods under way when many are created at once.
const TOGETHER: usize = 8;
/// Timeout for what was written to be in the log.
const PATIENCE: Duration = Duration::from_secs(120);
const ASK: Duration = Duration::from_secs(5);
/// Most pods: the second number of a /16.
const PODS_MAX: usize = 60_000;

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    /// Pods a second of the stream, and its length in seconds.
    pub(super) rate: u64,
    pub(super) seconds: u64,
    /// Pods created at once.
    pub(super) at_once: usize,
    /// Pods that the next leader lists, and how often.
    pub(super) listed: usize,
    pub(super) rounds: usize,
}

/// The figures.
struct Measured {
    /// Lags of the stream, and of the pods created at once, microseconds.
    steady: Histogram<u64>,
    burst: Histogram<u64>,
    /// Time to create many at once, and until the last was in the log after the last write.
    created: Duration,
    behind: Duration,
    /// Medians of the rounds.
    round: Round,
    /// Pods that were listed.
    pods: usize,
}

pub(super) async fn run(options: &BenchOptions, size: Size) -> Result<Value> {
    let stream = usize::try_from(size.rate * size.seconds)?;
    ensure!(stream + size.at_once <= PODS_MAX && size.listed <= PODS_MAX, "too many pods");
    let machine = Machine::look();
    let mut lab = Lab::start(options).await?;
    let steady = lab.stream(size.rate, size.seconds).await?;
    let (burst, created, behind) = lab.at_once(size.at_once).await?;
    lab.fill(size.listed).await?;
    let mut rounds = Vec::new();
    for _ in 0..size.rounds.max(1) {
        rounds.push(lab.next_leader().await?);
    }
    let round = median_by(rounds, |round| round.listed.as_secs_f64()).context("a round")?;
    let measured = Measured { steady, burst, created, behind, round, pods: lab.pods };

    println!(
        "Kubernetes: {NODES} Nodes, three replicas. Lag is from the API server's answer to the record at a follower."
    );
    machine.print();
    print_budgets(&measured.budgets(size));
    Ok(measured.json())
}

fn ms(figures: &Histogram<u64>, quantile: f64) -> f64 {
    figures.value_at_quantile(quantile) as f64 / 1e3
}

impl Measured {
    fn budgets(&self, size: Size) -> [Budget; 10] {
        let Self { steady, burst, created, behind, round, pods } = self;
        let title = format!("{} pods/s for {} s: lag p99, ms", size.rate, size.seconds);
        let at_once = format!("{} pods at once: all in the log after, ms", size.at_once);
        let listed = format!("new leader → {pods} pods listed and compared, s");
        [
            Budget::at_most(&title, ms(steady, 0.99), 1_000.0),
            Budget::note("… p50, ms", ms(steady, 0.5)),
            Budget::note("… max, ms", ms(steady, 1.0)),
            Budget::at_most(&at_once, behind.as_secs_f64() * 1e3, 1_000.0),
            Budget::note("… lag p50, ms", ms(burst, 0.5)),
            Budget::note("… lag p99, ms", ms(burst, 0.99)),
            Budget::note("… lag max, ms", ms(burst, 1.0)),
            Budget::note("… time to create them, s", created.as_secs_f64()),
            Budget::at_most(&listed, round.listed.as_secs_f64(), 3.0),
            Budget::note("… since the kill of the leader before, s", round.away.as_secs_f64()),
        ]
    }

    fn json(&self) -> Value {
        let lag = |figures| json!({"p50_ms": ms(figures, 0.5), "p99_ms": ms(figures, 0.99), "max_ms": ms(figures, 1.0)});
        json!({
            "stream": lag(&self.steady),
            "at_once": lag(&self.burst),
            "at_once_created_s": self.created.as_secs_f64(),
            "at_once_behind_ms": self.behind.as_secs_f64() * 1e3,
            "pods": self.pods,
            "relist_s": self.round.listed.as_secs_f64(),
            "relist_with_election_s": self.round.away.as_secs_f64(),
        })
    }
}

/// A round with another leader.
struct Round {
    /// From the new leader to the end of its comparison.
    listed: Duration,
    /// The same from the kill of the leader before.
    away: Duration,
}

/// The API server and the cluster that follows it.
struct Lab {
    cluster: Cluster,
    objects: Objects,
    /// Pods so far; they are numbered.
    pods: usize,
    /// Pods that were deleted, the first ones.
    deleted: usize,
}

impl Lab {
    async fn start(options: &BenchOptions) -> Result<Self> {
        let cluster = Cluster::start(ClusterOptions {
            parent: options.dir.clone(),
            kubernetes: Some(find_kube_apiserver()?),
            ..ClusterOptions::new(find_romanad(options.romanad.as_deref())?)
        });
        let mut cluster = Box::pin(cluster).await?;
        let topology = json!({
            "networks": [{"name": "pods", "cidr": "10.0.0.0/8", "block_mask": 29}],
            "topologies": [{"networks": ["pods"], "map": [{"groups": []}]}],
        });
        let api = cluster.apis()[0];
        let answer = once(api, Method::PUT, "/v1/topology", Some(&topology), ASK).await?;
        ensure!(answer.status < 300, "the topology was refused: {}", answer.body);
        let objects = cluster.api_server()?.objects().await?;
        for number in 0..NODES {
            let address =
                json!({"type": "InternalIP", "address": format!("172.31.0.{}", number + 1)});
            let node = json!({"metadata": {"name": format!("node-{number}")},
                "status": {"addresses": [address]}});
            objects.call("POST", "/api/v1/nodes", &node).await?;
        }
        let namespace = json!({"metadata": {"name": "load"}});
        objects.call("POST", "/api/v1/namespaces", &namespace).await?;
        let lab = Self { cluster, objects, pods: 0, deleted: 0 };
        let seen = until("the namespace is a tenant", PATIENCE, async || {
            let tenants = once(api, Method::GET, "/v1/tenants", None, ASK).await;
            let tenants = tenants.map(|answer| answer.body).unwrap_or_default();
            let mut items = tenants["items"].as_array().into_iter().flatten();
            items.any(|tenant| tenant["id"] == "load")
        });
        seen.await.with_context(|| lab.cluster.log_tails(20))?;
        Ok(lab)
    }

    /// Pods at a constant rate. Returns their lags, microseconds.
    async fn stream(&mut self, rate: u64, seconds: u64) -> Result<Histogram<u64>> {
        let feed = Feed::follow(self.cluster.apis()[0]).await?;
        let (first, count) = (self.pods, usize::try_from(rate * seconds)?);
        let (begun, every) = (Instant::now(), Duration::from_secs(1).div_f64(rate.max(1) as f64));
        let objects = self.objects.clone();
        // Slow answers do not slow the stream down.
        let written = stream::iter(first..first + count).map(|number| {
            let objects = objects.clone();
            async move {
                sleep_until(begun + every.mul_f64((number - first) as f64)).await;
                write(&objects, number).await
            }
        });
        let written: HashMap<IpAddr, Instant> =
            written.buffer_unordered(count.max(1)).try_collect().await?;
        self.pods += count;
        feed.lags(written).await
    }

    /// Pods as fast as the API server takes them. Returns their lags, the time to create them, and the time from the
    /// last answer to the last record.
    async fn at_once(&mut self, count: usize) -> Result<(Histogram<u64>, Duration, Duration)> {
        let feed = Feed::follow(self.cluster.apis()[0]).await?;
        let begun = Instant::now();
        let written = self.create(count).await?;
        let last = written.values().max().copied().unwrap_or(begun);
        let (lags, seen) = feed.all(written).await?;
        Ok((lags, last - begun, seen.saturating_duration_since(last)))
    }

    /// Creates pods until there are so many.
    async fn fill(&mut self, pods: usize) -> Result<()> {
        let feed = Feed::follow(self.cluster.apis()[0]).await?;
        let written = self.create(pods.saturating_sub(self.pods)).await?;
        feed.lags(written).await.map(drop)
    }

    async fn create(&mut self, count: usize) -> Result<HashMap<IpAddr, Instant>> {
        let first = self.pods;
        let objects = self.objects.clone();
        let written = stream::iter(first..first + count).map(|number| {
            let objects = objects.clone();
            async move { write(&objects, number).await }
        });
        let written = written.buffer_unordered(TOGETHER).try_collect().await?;
        self.pods += count;
        Ok(written)
    }

    /// kill -9 of the leader, then the deletion of a pod: it is in the log when the next leader has listed all objects and
    /// compared them.
    async fn next_leader(&mut self) -> Result<Round> {
        let leader = self.cluster.wait_leader(PATIENCE).await?;
        let other = (leader + 1) % self.cluster.replicas().len();
        let feed = Feed::follow(self.cluster.apis()[other]).await?;
        let killed = Instant::now();
        self.cluster.kill(leader)?;
        let path = format!("/api/v1/namespaces/load/pods/p{}", self.deleted);
        self.objects.call("DELETE", &path, &json!({"gracePeriodSeconds": 0})).await?;
        let gone = address(self.deleted);
        self.deleted += 1;
        // The others name the leader that they know, which is the killed one for a while.
        let elected = until("another leader", PATIENCE, async || {
            self.cluster.leader().await.is_some_and(|at| at != leader)
        });
        elected.await?;
        let elected = Instant::now();
        let compared = feed.removed(gone).await?;
        self.cluster.start_replica(leader)?;
        self.cluster.wait_ready(PATIENCE).await?;
        let listed = compared.saturating_duration_since(elected);
        Ok(Round { listed, away: compared - killed })
    }
}

/// The address of a pod.
fn address(number: usize) -> IpAddr {
    let [.., high, low] = number.to_be_bytes();
    IpAddr::from([10, 111, high, low])
}

/// Creates a running pod. Returns its address, and when the API server had answered.
async fn write(objects: &Objects, number: usize) -> Result<(IpAddr, Instant)> {
    let list = "/api/v1/namespaces/load/pods";
    let (name, ip) = (format!("p{number}"), address(number));
    let pod = json!({
        "metadata": {"name": name, "labels": {"app": "web", "number": number.to_string()}},
        "spec": {"nodeName": format!("node-{}", number % NODES),
            "containers": [{"name": "c", "image": "i", "ports": [{"name": "http", "containerPort": 80}]}]},
    });
    objects.call("POST", list, &pod).await?;
    let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}});
    objects.call("PATCH", &format!("{list}/{name}/status"), &status).await?;
    Ok((ip, Instant::now()))
}

/// When records about endpoints arrived at a follower.
#[derive(Debug, Default)]
struct Seen {
    set: HashMap<IpAddr, Instant>,
    removed: HashMap<IpAddr, Instant>,
}

/// A follower of a replica's feed, from now on.
struct Feed {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Feed {
    async fn follow(api: SocketAddr) -> Result<Self> {
        let mut connection = Connection::open(api, ASK).await?;
        let answer = connection.send(Method::GET, "/v1/events", "application/x-ndjson", None);
        let response = tokio::time::timeout(ASK, answer).await??;
        ensure!(response.status().is_success(), "the feed: status {}", response.status());
        let seen = Arc::<Mutex<Seen>>::default();
        let into = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            // Kept open as long as the feed is read.
            let _connection = connection;
            let (mut body, mut buffer) = (response.into_body(), BytesMut::new());
            while let Some(Ok(frame)) = body.frame().await {
                let Some(data) = frame.data_ref() else { continue };
                buffer.extend_from_slice(data);
                let now = Instant::now();
                while let Some(at) = buffer.iter().position(|byte| *byte == b'\n') {
                    note(&buffer.split_to(at), now, &into);
                    buffer.advance(1);
                }
            }
        });
        Ok(Self { seen, task })
    }

    fn look<T>(&self, at: impl FnOnce(&Seen) -> T) -> T {
        at(&self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until all pods are in the log. Returns their lags.
    async fn lags(self, written: HashMap<IpAddr, Instant>) -> Result<Histogram<u64>> {
        self.all(written).await.map(|(lags, _)| lags)
    }

    /// The same, and when the last one was there.
    async fn all(self, written: HashMap<IpAddr, Instant>) -> Result<(Histogram<u64>, Instant)> {
        let all = |seen: &Seen| written.keys().all(|ip| seen.set.contains_key(ip));
        until("all pods are in the log", PATIENCE, async || self.look(all)).await?;
        let (mut lags, mut last) = (Histogram::new(3)?, None);
        for (ip, written) in &written {
            let Some(seen) = self.look(|seen| seen.set.get(ip).copied()) else {
                bail!("{ip} is not in the log");
            };
            // The record may arrive before the answer.
            let lag = seen.saturating_duration_since(*written).as_micros();
            lags.record(u64::try_from(lag)?.max(1))?;
            last = last.max(Some(seen));
        }
        Ok((lags, last.unwrap_or_else(Instant::now)))
    }

    /// Waits until the endpoint of a pod is removed. Returns when it was.
    async fn removed(self, ip: IpAddr) -> Result<Instant> {
        let removed = |seen: &Seen| seen.removed.get(&ip).copied();
        until("a deleted pod is gone", PATIENCE, async || self.look(removed).is_some()).await?;
        self.look(removed).context("it was there")
    }
}

/// Records what a line of the feed says of endpoints.
fn note(line: &[u8], now: Instant, into: &Mutex<Seen>) {
    // Bookmarks and errors are no records.
    let Ok(record) = serde_json::from_slice::<Record>(line) else { return };
    let mut seen = into.lock().unwrap_or_else(PoisonError::into_inner);
    match record.event {
        Event::EndpointSet(endpoint) => _ = seen.set.entry(endpoint.ip).or_insert(now),
        Event::EndpointRemoved(removed) => _ = seen.removed.insert(removed.ip, now),
        _ => {}
    }
}
