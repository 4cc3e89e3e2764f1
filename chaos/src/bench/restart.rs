//! A cluster with a million addresses: a replica's restart time and memory, and how long commits
//! stall while snapshots are written.
//!
//! Snapshots are triggered by the size of the log. To get one soon with little processor load, a filler
//! repeatedly writes large facts about one host; it also runs while there is no snapshot, so that both
//! are compared under the same load.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hyper::Method;
use romana_client::Client;
use romana_statemachine::Command;
use romana_statemachine::command::{HostChange, Labels};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::large::{Site, host_name};
use super::lean::Lean;
use super::report::{Budget, Machine, median_by, print_budgets, resident_bytes};
use super::{BenchOptions, ours};
use crate::caller::library;
use crate::cluster::Cluster;
use crate::http;

/// Commands in one batch while filling.
const BATCH: u64 = 512;
/// Batches in flight while filling.
const FILLERS: u64 = 4;
/// Duration of commits measured before the first snapshot.
const CALM: Duration = Duration::from_secs(5);
/// Timeout until a snapshot is written.
const PATIENCE: Duration = Duration::from_secs(180);
/// Interval and size of the filler's writes: about 9 MB/s.
const FILL_EVERY: Duration = Duration::from_millis(14);
const FACTS: usize = 128;
const FACT_BYTES: usize = 1_000;

/// A commit of the steady client.
#[derive(Clone, Copy, Debug)]
struct Commit {
    asked: Instant,
    answered: Instant,
}

/// A snapshot written by a replica.
#[derive(Clone, Copy, Debug)]
struct Written {
    from: Instant,
    to: Instant,
}

/// The longest gaps between acknowledged commits.
#[derive(Clone, Copy, Debug, Serialize)]
struct Stall {
    calm_ms: f64,
    snapshot_ms: f64,
    snapshot_took_ms: f64,
}

/// Time until linearizable reads succeed, milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
struct Back {
    one_ms: f64,
    all_ms: f64,
}

pub(super) async fn run(options: &BenchOptions, live: u64, rounds: usize) -> Result<Value> {
    let machine = Machine::look();
    let site = Site::for_addresses(live);
    let mut cluster = ours::three(options).await?;
    let empty = resident(&cluster);
    let filled = fill(&cluster, site, live).await?;
    let full = resident(&cluster);
    eprintln!("{live} addresses in {:.1} s; now stalls", filled.as_secs_f64());
    let mut backs = Vec::new();
    eprintln!("restarts with the whole log since the last snapshot");
    let long_log = restart(&mut cluster).await?;
    let mut stalls = Vec::new();
    for round in 1..=rounds {
        let stall = stall(&cluster, site, live * round as u64).await?;
        eprintln!("round {round} of {rounds}: {stall:?}");
        stalls.push(stall);
        backs.push(restart(&mut cluster).await?);
        eprintln!("round {round} of {rounds}: {:?}", backs.last());
    }
    let after = resident(&cluster);
    println!(
        "{live} addresses, {} hosts, {} tenants, 3 replicas on one machine; {rounds} rounds, medians.",
        site.hosts, site.tenants
    );
    machine.print();
    println!("filled in {:.1} s", filled.as_secs_f64());
    let stall = median_by(stalls.clone(), |stall| stall.snapshot_ms).context("no round")?;
    let one = median_by(backs.clone(), |back| back.one_ms).context("no round")?;
    let all = median_by(backs.clone(), |back| back.all_ms).context("no round")?;
    print_budgets(&[
        Budget::at_most("kill -9 of one → linearizable reads, ms", one.one_ms, 2_000.0),
        Budget::at_most("kill -9 of all three → reads at all, ms", all.all_ms, 2_000.0),
        Budget::note("the same right after filling: one, ms", long_log.one_ms),
        Budget::note("… all three, ms", long_log.all_ms),
        Budget::at_most("longest gap of commits, snapshots written, ms", stall.snapshot_ms, 50.0),
        Budget::note("the same without a snapshot, ms", stall.calm_ms),
        Budget::note("time that the snapshots took, ms", stall.snapshot_took_ms),
        Budget::note("resident, empty, MB (largest replica)", empty),
        Budget::note("resident, filled, MB", full),
        Budget::note("resident, restarted, MB", after),
    ]);
    Ok(json!({"bench": "restart", "machine": machine, "live": live, "stalls": stalls,
              "restarts": backs, "restart_with_long_log": long_log,
              "resident_mb": {"empty": empty, "filled": full, "restarted": after}}))
}

/// Memory of the largest replica, MB.
fn resident(cluster: &Cluster) -> f64 {
    let of = |pid| resident_bytes(Some(pid)) as f64 / 1e6;
    cluster.replicas().iter().filter_map(|replica| replica.pid()).map(of).fold(0.0, f64::max)
}

/// Sets up the cluster and allocates all addresses.
pub(super) async fn fill(cluster: &Cluster, site: Site, live: u64) -> Result<Duration> {
    let client = library(&cluster.apis(), "chaos:bench")?;
    let start = Instant::now();
    client.submit(&Command::SetTopology(site.topology(1))).await.context("set the topology")?;
    let leader = cluster.wait_leader(Duration::from_secs(10)).await?;
    let api = cluster.replicas()[leader].api;
    let furniture: Vec<Command> = site.furniture().collect();
    let mut lean = Lean::open(api).await?;
    for commands in furniture.chunks(usize::try_from(BATCH)?) {
        batch(&mut lean, commands).await?;
    }
    let mut tasks = JoinSet::new();
    for part in 0..FILLERS {
        let mut lean = Lean::open(api).await?;
        tasks.spawn(async move {
            let mut first = part * BATCH;
            while first < live {
                let numbers = first..live.min(first + BATCH);
                let allocate = |number| Command::AllocateAddress(site.allocation(number));
                batch(&mut lean, &numbers.map(allocate).collect::<Vec<_>>()).await?;
                first += FILLERS * BATCH;
            }
            Ok::<_, anyhow::Error>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.context("fill")??;
    }
    Ok(start.elapsed())
}

/// Submits a batch of commands; none may be refused.
pub(super) async fn batch(lean: &mut Lean, commands: &[Command]) -> Result<()> {
    let status = lean.call("POST", "/v1/batch", &serde_json::to_string(commands)?).await?;
    let text = String::from_utf8_lossy(lean.body());
    ensure!(status == 200 && !text.contains("\"error\""), "status {status}: {text:.300}");
    Ok(())
}

/// Commits continuously, without and with snapshots being written on every replica. Returns the longest gaps.
async fn stall(cluster: &Cluster, site: Site, first: u64) -> Result<Stall> {
    let leader = cluster.wait_leader(Duration::from_secs(10)).await?;
    let api = cluster.replicas()[leader].api;
    let filler = AbortOnDrop(tokio::spawn(write_facts(library(&cluster.apis(), "chaos:filler")?)));
    let logs: Vec<PathBuf> = (0..cluster.replicas().len()).map(|at| cluster.log_path(at)).collect();
    let watch = tokio::spawn(watch(logs));
    let mut lean = Lean::open(api).await?;
    let (mut commits, mut number) = (Vec::new(), first);
    let start = Instant::now();
    while !watch.is_finished() {
        ensure!(start.elapsed() < PATIENCE, "no snapshot within {PATIENCE:?}");
        let body = serde_json::to_string(&site.allocation(number))?;
        let asked = Instant::now();
        let status = lean.call("POST", "/v1/addresses", &body).await?;
        commits.push(Commit { asked, answered: Instant::now() });
        ensure!(status < 300, "status {status}: {}", String::from_utf8_lossy(lean.body()));
        // Release it, outside the measured time, so that the number of addresses stays the same.
        lean.call("DELETE", &format!("/v1/addresses/pod-{number}"), "").await?;
        number += 1;
        // A steady rate that leaves processor time for others.
        sleep(Duration::from_millis(1)).await;
    }
    drop(filler);
    let written = watch.await.context("watch the logs")??;
    Ok(judge(&commits, &written, start))
}

/// The longest time from one answer (or the first request) to the next, without and during snapshots.
fn judge(commits: &[Commit], written: &[Written], start: Instant) -> Stall {
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    let in_snapshot = |from: Instant, to: Instant| {
        written.iter().any(|snapshot| from <= snapshot.to && to >= snapshot.from)
    };
    let mut stall = Stall { calm_ms: 0.0, snapshot_ms: 0.0, snapshot_took_ms: 0.0 };
    for commit in commits {
        let gap = millis(commit.answered - commit.asked);
        if in_snapshot(commit.asked, commit.answered) {
            stall.snapshot_ms = stall.snapshot_ms.max(gap);
        } else if commit.asked > start + Duration::from_millis(200) {
            stall.calm_ms = stall.calm_ms.max(gap);
        }
    }
    let took = written.iter().map(|snapshot| millis(snapshot.to - snapshot.from));
    stall.snapshot_took_ms = took.fold(0.0, f64::max);
    stall
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Makes the log grow at a steady rate, after a period without load.
async fn write_facts(client: Client) {
    let mut clock = interval(FILL_EVERY);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 0u64.. {
        clock.tick().await;
        let fact = |at: usize| (format!("fact{at}"), format!("{number:0>FACT_BYTES$}"));
        let info: Labels = (0..FACTS).map(fact).collect();
        let change = HostChange {
            name: host_name(0).into(),
            ip: None,
            addresses: None,
            labels: None,
            info: Some(info),
        };
        // A failure only delays the snapshot, and the caller has a timeout for that.
        _ = client.submit(&Command::UpdateHost(change)).await;
    }
}

/// Waits until every replica has written another snapshot, according to its log.
async fn watch(logs: Vec<PathBuf>) -> Result<Vec<Written>> {
    let before: Vec<usize> = logs.iter().map(|log| snapshots(log).len()).collect();
    let start = Instant::now();
    let mut written: Vec<Option<Written>> = vec![None; logs.len()];
    while written.iter().any(Option::is_none) || start.elapsed() < CALM {
        sleep(Duration::from_millis(5)).await;
        for ((log, before), written) in logs.iter().zip(&before).zip(&mut written) {
            if written.is_none()
                && let Some(took) = snapshots(log).get(*before)
            {
                let to = Instant::now();
                *written = Some(Written { from: to.checked_sub(*took).unwrap_or(to), to });
            }
        }
    }
    Ok(written.into_iter().flatten().collect())
}

/// Durations of all snapshots in a replica's log.
fn snapshots(log: &Path) -> Vec<Duration> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines = text.lines().filter(|line| line.contains("snapshot written"));
    lines.filter_map(|line| duration(line.split("took=").nth(1)?)).collect()
}

/// Parses Rust's debug format of a duration.
fn duration(text: &str) -> Option<Duration> {
    let word = text.split_whitespace().next()?;
    let unit = word.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let number: f64 = word.strip_suffix(unit)?.parse().ok()?;
    let seconds = match unit {
        "s" => number,
        "ms" => number / 1e3,
        "µs" => number / 1e6,
        _ => return None,
    };
    Some(Duration::from_secs_f64(seconds))
}

/// kill -9 of a follower, then of all replicas: the time until each answers linearizable reads.
async fn restart(cluster: &mut Cluster) -> Result<Back> {
    let leader = cluster.wait_leader(Duration::from_secs(30)).await?;
    let one = (leader + 1) % cluster.replicas().len();
    cluster.kill(one)?;
    let start = Instant::now();
    cluster.start_replica(one)?;
    serves(cluster, one, start).await?;
    let one_ms = start.elapsed().as_secs_f64() * 1e3;
    for at in 0..cluster.replicas().len() {
        cluster.kill(at)?;
    }
    let start = Instant::now();
    cluster.heal()?;
    for at in 0..cluster.replicas().len() {
        serves(cluster, at, start).await?;
    }
    Ok(Back { one_ms, all_ms: start.elapsed().as_secs_f64() * 1e3 })
}

/// Waits until a replica answers a linearizable read.
async fn serves(cluster: &Cluster, at: usize, start: Instant) -> Result<()> {
    let api = cluster.replicas()[at].api;
    let ask = Duration::from_millis(500);
    loop {
        let answer = http::once(api, Method::GET, "/v1/addresses/pod-1", None, ask).await;
        if answer.is_ok_and(|answer| answer.status == 200) {
            return Ok(());
        }
        ensure!(start.elapsed() < PATIENCE, "replica {at} does not come back");
        sleep(Duration::from_millis(5)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_rust_prints_them() {
        for time in [Duration::from_millis(1_534), Duration::from_micros(87_250)] {
            assert_eq!(duration(&format!("{time:?} more")), Some(time));
        }
        assert_eq!(duration("fast"), None);
    }

    #[test]
    fn gaps_are_told_apart_by_when_snapshots_were_written() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let commit = |from, to| Commit { asked: at(from), answered: at(to) };
        let commits = [commit(0, 150), commit(300, 310), commit(500, 540), commit(900, 903)];
        let stall = judge(&commits, &[Written { from: at(520), to: at(800) }], start);
        assert_eq!((stall.calm_ms, stall.snapshot_ms, stall.snapshot_took_ms), (10.0, 40.0, 280.0));
    }
}
