//! Subjects one of three replicas to one kind of abuse after the other, and measures the cost for that
//! replica and the effect on other clients: one that allocates and releases, and one that reads.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use hyper::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::large::Site;
use super::lean::Lean;
use super::report::{Budget, Machine, print_budgets, resident_bytes};
use super::{BenchOptions, feed, ours, restart};
use crate::cluster::Cluster;
use crate::http;

/// Budgets of one kind of abuse: memory, threads, and the other clients' latency.
const GROWTH_MB_MAX: f64 = 300.0;
const THREADS_MORE_MAX: f64 = 40.0;
const P99_MS_MAX: f64 = 250.0;
/// Budget of the time until the abused resource is available again.
const AGAIN_MS_MAX: f64 = 10_000.0;
/// Duration of the initial measurement without abuse.
const CALM: Duration = Duration::from_secs(3);
/// Bytes of a body or frame that is sent partly, or to a peer that does not accept it.
const LARGE_BYTES: usize = 15 << 20;
const PIECE_BYTES: usize = 64 << 10;
const ASK: Duration = Duration::from_secs(120);
/// Interval of process samples.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A kind of abuse.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Exports,
    Followers,
    Lists,
    HalfBatches,
    PeerFrames,
    Proofs,
    Plans,
}

impl Kind {
    const ALL: [Self; 7] = [
        Self::Exports,
        Self::Followers,
        Self::Lists,
        Self::HalfBatches,
        Self::PeerFrames,
        Self::Proofs,
        Self::Plans,
    ];

    fn about(self) -> &'static str {
        match self {
            Self::Exports => "600 exports that nobody reads",
            Self::Followers => "2 000 followers from 0 that never read",
            Self::Lists => "600 lists that nobody reads",
            Self::HalfBatches => "200 batches, half of each sent",
            Self::PeerFrames => "150 x 15 MiB to the peers' port",
            Self::Proofs => "300 proofs, each closed at once",
            Self::Plans => "30 plans at once",
        }
    }

    fn count(self) -> usize {
        match self {
            Self::Exports | Self::Lists => 600,
            Self::Followers => 2000,
            Self::HalfBatches => 200,
            Self::PeerFrames => 150,
            Self::Proofs => 300,
            Self::Plans => 30,
        }
    }

    /// Whether the clients disconnect immediately.
    fn leaves(self) -> bool {
        matches!(self, Self::Proofs)
    }

    /// What each client sends.
    fn words(self, plan: &str) -> (Vec<u8>, usize) {
        let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: r\r\n\r\n").into_bytes();
        let post = |path: &str, length: usize| {
            format!(
                "POST {path} HTTP/1.1\r\nHost: r\r\nContent-Type: application/json\r\n\
                 X-Romana-Timeout-Ms: 60000\r\nContent-Length: {length}\r\n\r\n"
            )
        };
        match self {
            Self::Exports => (get("/v1/audit/export"), 0),
            Self::Followers => (get("/v1/events?from=0"), 0),
            Self::Lists => (get("/v1/addresses"), 0),
            Self::Proofs => (get("/v1/audit/verify"), 0),
            Self::HalfBatches => (post("/v1/batch", LARGE_BYTES).into_bytes(), LARGE_BYTES / 2),
            Self::PeerFrames => {
                let length = u32::try_from(LARGE_BYTES).unwrap_or(0).to_le_bytes();
                ([length, [0; 4]].concat(), LARGE_BYTES)
            }
            Self::Plans => {
                (format!("{}{plan}", post("/v1/topology/plan", plan.len())).into_bytes(), 0)
            }
        }
    }

    /// A request that must succeed soon afterwards.
    fn again(self) -> (&'static str, Method) {
        match self {
            Self::Exports => ("/v1/audit/export?from=1&to=1", Method::GET),
            Self::Followers | Self::PeerFrames => ("/v1/hosts?limit=10", Method::GET),
            Self::Lists => ("/v1/addresses?limit=5000", Method::GET),
            Self::HalfBatches => ("/v1/batch", Method::POST),
            Self::Proofs => ("/v1/audit/verify", Method::GET),
            Self::Plans => ("/v1/topology/plan", Method::POST),
        }
    }
}

/// The cost of one kind of abuse.
struct Cost {
    kind: Kind,
    growth_mb: f64,
    threads: f64,
    writes: Histogram<u64>,
    reads: Histogram<u64>,
    again: Duration,
    left_mb: f64,
}

pub(super) async fn run(options: &BenchOptions, live: u64, seconds: u64) -> Result<Value> {
    let machine = Machine::look();
    feed::raise_open_files(8_192)?;
    let cluster = ours::three(options).await?;
    let site = Site::for_addresses(live);
    restart::fill(&cluster, site, live).await?;
    let leader = cluster.wait_leader(Duration::from_secs(10)).await?;
    let calm = {
        let others = Others::start(cluster.replicas()[leader].api, site, live)?;
        sleep(CALM).await;
        others.end().await?
    };
    let mut costs = Vec::new();
    for kind in Kind::ALL {
        eprintln!("{}", kind.about());
        costs.push(suffer(&cluster, leader, kind, (site, live), seconds).await?);
    }
    println!("{live} addresses, three replicas; at the leader, {seconds} s each");
    machine.print();
    let mut lines = vec![
        Budget::note("in calm: allocations, p99 ms", p99(&calm.0)),
        Budget::note("in calm: reads, p99 ms", p99(&calm.1)),
    ];
    lines.extend(costs.iter().flat_map(Cost::lines));
    print_budgets(&lines);
    let shown: Vec<Value> = costs.iter().map(Cost::json).collect();
    Ok(json!({"bench": "abuse", "machine": machine, "live": live, "costs": shown}))
}

impl Cost {
    fn lines(&self) -> Vec<Budget> {
        let about = self.kind.about();
        let named = |what: &str| format!("{about}: {what}");
        let again = self.again.as_secs_f64() * 1e3;
        vec![
            Budget::at_most(&named("memory, MB"), self.growth_mb, GROWTH_MB_MAX),
            Budget::at_most(&named("threads"), self.threads, THREADS_MORE_MAX),
            Budget::at_most(&named("allocations, p99 ms"), p99(&self.writes), P99_MS_MAX),
            Budget::at_most(&named("reads, p99 ms"), p99(&self.reads), P99_MS_MAX),
            Budget::at_most(&named("served again, ms"), again, AGAIN_MS_MAX),
            Budget::note(&named("kept, MB"), self.left_mb),
        ]
    }

    fn json(&self) -> Value {
        json!({"kind": self.kind.about(), "growth_mb": self.growth_mb, "threads": self.threads,
            "allocate_p99_ms": p99(&self.writes), "read_p99_ms": p99(&self.reads),
            "again_ms": self.again.as_secs_f64() * 1e3, "left_mb": self.left_mb})
    }
}

fn p99(times: &Histogram<u64>) -> f64 {
    times.value_at_quantile(0.99) as f64 / 1e3
}

/// Runs one kind of abuse for some seconds.
async fn suffer(
    cluster: &Cluster,
    at: usize,
    kind: Kind,
    (site, live): (Site, u64),
    seconds: u64,
) -> Result<Cost> {
    let replica = &cluster.replicas()[at];
    let pid = replica.pid().context("a replica that runs")?;
    let before = (megabytes(pid), threads(pid));
    let others = Others::start(replica.api, site, live)?;
    let plan = serde_json::to_string(&site.topology(2))?;
    let to = if matches!(kind, Kind::PeerFrames) { replica.peer } else { replica.api };
    let mut crowd = JoinSet::new();
    for _ in 0..kind.count() {
        let (words, more) = kind.words(&plan);
        crowd.spawn(abuse(to, words, more, kind.leaves()));
    }
    let (mut most, mut most_threads) = before;
    let until = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < until {
        most = most.max(megabytes(pid));
        most_threads = most_threads.max(threads(pid));
        sleep(LOOK_EVERY).await;
    }
    let (writes, reads) = others.end().await?;
    crowd.shutdown().await;
    let again = served_again(replica.api, kind, &plan).await?;
    let growth_mb = most - before.0;
    let (threads, left_mb) = (most_threads - before.1, megabytes(pid) - before.0);
    Ok(Cost { kind, growth_mb, threads, writes, reads, again, left_mb })
}

/// A client that requests what it does not read.
async fn abuse(to: SocketAddr, words: Vec<u8>, more: usize, leaves: bool) -> Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(4096)?;
    let mut stream = socket.connect(to).await?;
    stream.write_all(&words).await?;
    let piece = vec![b' '; PIECE_BYTES];
    for _ in 0..more / PIECE_BYTES {
        stream.write_all(&piece).await?;
    }
    if leaves {
        return Ok(());
    }
    // Reads a byte a second, until the connection is closed.
    let mut byte = [0];
    while stream.read(&mut byte).await? > 0 {
        sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

/// Time until a valid request of the kind is answered correctly.
async fn served_again(api: SocketAddr, kind: Kind, plan: &str) -> Result<Duration> {
    let start = Instant::now();
    let body: Value = match kind {
        Kind::Plans => serde_json::from_str(plan)?,
        _ => json!([]),
    };
    loop {
        let (path, method) = kind.again();
        let body = (method == Method::POST).then_some(&body);
        let answer = http::once(api, method, path, body, ASK).await;
        if answer.as_ref().is_ok_and(|answer| answer.status == 200) {
            return Ok(start.elapsed());
        }
        ensure!(start.elapsed() < ASK, "{}: {answer:?}", kind.about());
        sleep(LOOK_EVERY).await;
    }
}

/// The well-behaved clients.
struct Others {
    writes: tokio::task::JoinHandle<Result<Histogram<u64>>>,
    reads: tokio::task::JoinHandle<Result<Histogram<u64>>>,
    over: tokio::sync::watch::Sender<bool>,
}

impl Others {
    fn start(api: SocketAddr, site: Site, live: u64) -> Result<Self> {
        let (over, end) = tokio::sync::watch::channel(false);
        let ask = serde_json::to_string(&site.allocation(live))?;
        let release = format!("/v1/addresses/pod-{live}");
        let writes =
            vec![("POST", "/v1/addresses".to_owned(), ask), ("DELETE", release, String::new())];
        let reads = vec![
            ("GET", "/v1/hosts?limit=20".to_owned(), String::new()),
            ("GET", "/v1/addresses/pod-1".to_owned(), String::new()),
        ];
        Ok(Self {
            writes: tokio::spawn(repeat(api, writes, end.clone())),
            reads: tokio::spawn(repeat(api, reads, end)),
            over,
        })
    }

    /// Stops them. Returns the latencies of their requests.
    async fn end(self) -> Result<(Histogram<u64>, Histogram<u64>)> {
        self.over.send_replace(true);
        Ok((self.writes.await??, self.reads.await??))
    }
}

/// Sends requests sequentially until the end, with a pause after each.
async fn repeat(
    api: SocketAddr,
    asks: Vec<(&'static str, String, String)>,
    end: tokio::sync::watch::Receiver<bool>,
) -> Result<Histogram<u64>> {
    let mut times = Histogram::new(3)?;
    let mut lean = Lean::open(api).await?;
    for (method, path, body) in asks.iter().cycle() {
        if *end.borrow() {
            break;
        }
        let start = Instant::now();
        let status = lean.call(method, path, body).await?;
        times.record(u64::try_from(start.elapsed().as_micros())?)?;
        ensure!(status < 300, "{method} {path}: {}", String::from_utf8_lossy(lean.body()));
        sleep(Duration::from_millis(2)).await;
    }
    Ok(times)
}

fn megabytes(pid: u32) -> f64 {
    resident_bytes(Some(pid)) as f64 / 1e6
}

fn threads(pid: u32) -> f64 {
    std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_sends_what_it_says() {
        for kind in Kind::ALL {
            let (words, more) = kind.words("{}");
            assert!(!words.is_empty() && more < LARGE_BYTES + 1, "{kind:?}");
            assert!(kind.count() >= 30 && !kind.about().is_empty());
        }
        let (frame, more) = Kind::PeerFrames.words("");
        assert_eq!((frame.len(), more), (8, LARGE_BYTES));
    }
}
