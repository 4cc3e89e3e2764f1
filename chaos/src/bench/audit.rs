//! The audit with years of history: one replica decides millions of records, and is then asked who held which
//! address. `who` uses an index; a scan of the history for the same answer is measured for comparison.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use hyper::Method;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use romana_statemachine::Command;
use romana_statemachine::command::{ReleaseAddress, SettingsChange};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::large::Site;
use super::lean::Lean;
use super::report::{Budget, Machine, print_budgets};
use super::{BenchOptions, ours, restart};
use crate::caller::library;
use crate::cluster::Cluster;
use crate::http;

/// Addresses that are allocated over and over.
const LIVE: u64 = 100_000;
/// Pairs of a release and an allocation in one batch.
const PAIRS: u64 = 256;
/// How long the index may take to catch up after the load.
const PATIENCE: Duration = Duration::from_secs(1800);
const ASK: Duration = Duration::from_secs(600);

pub(super) async fn run(options: &BenchOptions, records: u64, questions: usize) -> Result<Value> {
    let machine = Machine::look();
    let cluster = ours::replicas(options, 1).await?;
    let api = cluster.replicas()[0].api;
    let site = Site::for_addresses(LIVE);
    restart::fill(&cluster, site, LIVE).await?;
    let client = library(&cluster.apis(), "chaos:bench")?;
    let at_once = SettingsChange { address_reuse_delay_ms: Some(0), ..SettingsChange::default() };
    client.submit(&Command::ChangeSettings(at_once)).await.context("reuse at once")?;
    let start = Instant::now();
    let revision = churn(api, site, records).await?;
    let filled = start.elapsed();
    eprintln!("{revision} records in {:.0} s; waiting for the index", filled.as_secs_f64());
    let behind = Instant::now();
    indexed(api).await?;
    let caught_up = behind.elapsed();

    let (who, tenures) = who(api, questions).await?;
    let ip = "10.0.0.1";
    let walk = timed(api, &format!("/v1/audit/log?type=AddressReleased&ip={ip}&limit=1")).await?;
    let state = timed(api, &format!("/v1/audit/state?at={}", revision / 2)).await?;
    let verify = timed(api, "/v1/audit/verify").await?;
    let sizes = Sizes::of(&cluster.data_dir(0));
    let rebuilt = rebuild(cluster).await?;
    println!("{revision} records, {LIVE} addresses that changed hands, one replica");
    machine.print();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let p = |quantile| who.value_at_quantile(quantile) as f64 / 1e3;
    print_budgets(&[
        Budget::at_most("who, p99 ms", p(0.99), 5.0),
        Budget::note("who, p50 ms", p(0.5)),
        Budget::note("holders in an answer, on average", tenures),
        Budget::note("first record of a filtered log, ms", ms(walk)),
        Budget::note("the whole state at half of the history, ms", ms(state)),
        Budget::note("verify: fold all of it, s", verify.as_secs_f64()),
        Budget::note("index behind when the load ended, s", caught_up.as_secs_f64()),
        Budget::note("index built again from nothing, s", rebuilt.as_secs_f64()),
        Budget::note("history, MB", sizes.history),
        Budget::note("index, MB", sizes.index),
        Budget::note("checkpoints, MB", sizes.checkpoints),
        Budget::note("records per second while filling", records as f64 / filled.as_secs_f64()),
    ]);
    Ok(json!({"bench": "audit", "machine": machine, "records": revision,
        "who_p50_ms": p(0.5), "who_p99_ms": p(0.99), "holders": tenures,
        "state_ms": ms(state), "verify_ms": ms(verify), "rebuild_ms": ms(rebuilt),
        "history_mb": sizes.history, "index_mb": sizes.index}))
}

/// Releases and allocates until the history has this many records. Returns the last revision.
async fn churn(api: std::net::SocketAddr, site: Site, records: u64) -> Result<u64> {
    let mut lean = Lean::open(api).await?;
    let mut number = 0;
    while 2 * number < records {
        let pair = |number: u64| {
            let address = format!("pod-{number}").into();
            [
                Command::ReleaseAddress(ReleaseAddress { address }),
                Command::AllocateAddress(site.allocation(number + LIVE)),
            ]
        };
        let commands: Vec<Command> = (number..number + PAIRS).flat_map(pair).collect();
        restart::batch(&mut lean, &commands).await?;
        number += PAIRS;
    }
    let answer = http::once(api, Method::GET, "/v1/digest", None, ASK).await?;
    answer.body["revision"].as_u64().context("a revision")
}

/// Waits until the index is complete.
async fn indexed(api: std::net::SocketAddr) -> Result<()> {
    let start = Instant::now();
    loop {
        let asked = http::once(api, Method::GET, "/v1/audit/who?ip=10.0.0.1", None, ASK).await;
        if asked.is_ok_and(|answer| answer.status == 200) {
            return Ok(());
        }
        ensure!(start.elapsed() < PATIENCE, "the index does not catch up");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Queries random addresses: the latency of each answer, and its number of holders.
async fn who(api: std::net::SocketAddr, questions: usize) -> Result<(Histogram<u64>, f64)> {
    let mut rng = SmallRng::seed_from_u64(7);
    let live = http::once(api, Method::GET, "/v1/addresses?limit=10000", None, ASK).await?;
    let ips: Vec<String> = live.body["items"]
        .as_array()
        .context("a list")?
        .iter()
        .filter_map(|item| item["ip"].as_str().map(Into::into))
        .collect();
    ensure!(!ips.is_empty(), "there are no addresses");
    let mut lean = Lean::open(api).await?;
    let (mut took, mut holders) = (Histogram::<u64>::new(3)?, 0);
    for _ in 0..questions {
        let ip = &ips[rng.random_range(0..ips.len())];
        let start = Instant::now();
        let status = lean.call("GET", &format!("/v1/audit/who?ip={ip}"), "").await?;
        took.record(u64::try_from(start.elapsed().as_micros())?)?;
        ensure!(status == 200, "status {status}: {}", String::from_utf8_lossy(lean.body()));
        let answer: Value = serde_json::from_slice(lean.body())?;
        let items = answer["items"].as_array().context("a list of holders")?;
        ensure!(!items.is_empty(), "nobody had {ip}");
        holders += items.len();
    }
    Ok((took, holders as f64 / questions.max(1) as f64))
}

async fn timed(api: std::net::SocketAddr, path: &str) -> Result<Duration> {
    let start = Instant::now();
    let answer = http::once(api, Method::GET, path, None, ASK).await?;
    ensure!(answer.status == 200, "{path}: status {}: {:.300}", answer.status, answer.body);
    Ok(start.elapsed())
}

/// Starts the replica without its index, and waits until it answers from a rebuilt one.
async fn rebuild(mut cluster: Cluster) -> Result<Duration> {
    cluster.kill(0)?;
    std::fs::remove_dir_all(cluster.data_dir(0).join("index")).context("remove the index")?;
    cluster.start_replica(0)?;
    cluster.wait_ready(PATIENCE).await?;
    let start = Instant::now();
    indexed(cluster.replicas()[0].api).await?;
    Ok(start.elapsed())
}

/// Sizes on disk, megabytes.
struct Sizes {
    history: f64,
    index: f64,
    checkpoints: f64,
}

impl Sizes {
    fn of(data: &Path) -> Self {
        let size = |name: &str| bytes(&data.join(name)) as f64 / 1e6;
        Self { history: size("history"), index: size("index"), checkpoints: size("checkpoints") }
    }
}

fn bytes(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => bytes(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.filter_map(Result::ok).map(of).sum()
}
