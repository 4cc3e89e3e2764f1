//! Names of ten thousand Services: `romana-dns` beside dnsmasq and unbound, one after the other, asked by dnsperf. First
//! at rest, then while endpoints change; and how long a change takes to be answered.
//!
//! Each server learns changes in its own way: `romana-dns` from an API server, dnsmasq from files in a directory that it
//! watches, unbound from its control socket.

mod api;
mod dnsperf;
mod names;
mod servers;

use std::time::Duration;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::BenchOptions;
use super::load::{Figures, drive};
use super::report::{Budget, Machine, print_budgets, resident_bytes};
use crate::cluster::find_romanad;
use dnsperf::Load;
use names::{Asker, NAMES, changed, probe};
use servers::{Program, Running};

/// Time between two changes: a hundred per second.
const CHANGE_EVERY: Duration = Duration::from_millis(10);
/// Every so many changes, the time until the new address is answered is measured.
const PROBED: usize = 10;

/// What was measured of a server.
#[derive(Clone, Debug, Serialize)]
struct Measured {
    program: &'static str,
    /// By dnsperf, at rest.
    rest: Load,
    /// By dnsperf, while endpoints change.
    changing: Load,
    /// One client that waits for each answer, at rest.
    alone: Figures,
    /// From a change to its answer, while dnsperf asks: median and 99th percentile, milliseconds.
    change_p50_ms: f64,
    change_p99_ms: f64,
    resident_mb: u64,
}

/// Measures the three servers.
pub(super) async fn run(options: &BenchOptions, seconds: u64) -> Result<Value> {
    let romanad = find_romanad(options.romanad.as_deref())?;
    let machine = Machine::look();
    let mut all = Vec::new();
    for program in [Program::Romana, Program::Dnsmasq, Program::Unbound] {
        let server = Running::start(program, &romanad, options.dir.as_deref()).await?;
        let measured = measure(&server, Duration::from_secs(seconds)).await;
        all.push(measured.with_context(|| format!("{}: {}", program.name(), server.log()))?);
    }
    print(&machine, &all);
    Ok(json!({"machine": machine, "servers": all}))
}

async fn measure(server: &Running, time: Duration) -> Result<Measured> {
    let rest = dnsperf::run(server.address, server.dir(), time).await?;
    let alone = drive(vec![Asker::open(server.address).await?], time).await?;
    let changing = dnsperf::run(server.address, server.dir(), time);
    let (changing, changes) = tokio::join!(changing, change(server, time));
    let (changing, changes) = (changing?, changes?);
    let ms = |quantile| changes.value_at_quantile(quantile) as f64 / 1e3;
    Ok(Measured {
        program: server.program.name(),
        rest,
        changing,
        alone,
        change_p50_ms: ms(0.5),
        change_p99_ms: ms(0.99),
        resident_mb: resident_bytes(server.process()) >> 20,
    })
}

/// Changes endpoints at a steady rate for a time. Returns how long changes took to be answered, microseconds.
async fn change(server: &Running, time: Duration) -> Result<Histogram<u64>> {
    let end = Instant::now() + time;
    let mut ticks = interval(CHANGE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut probes = JoinSet::new();
    for number in 0.. {
        let due = ticks.tick().await;
        if due >= end {
            break;
        }
        let (name, ip) = (number % NAMES, changed(number));
        let begun = Instant::now();
        server.change(name, ip).await?;
        if number.is_multiple_of(PROBED) {
            let address = server.address;
            probes.spawn(async move { probe(address, name, ip).await.map(|()| begun.elapsed()) });
        }
    }
    let mut times = Histogram::<u64>::new(3).context("a histogram")?;
    while let Some(probe) = probes.join_next().await {
        let micros = probe.context("a probe")??.as_micros();
        times.record(u64::try_from(micros).unwrap_or(u64::MAX))?;
    }
    Ok(times)
}

fn print(machine: &Machine, all: &[Measured]) {
    println!("DNS: {NAMES} names of Services, asked by dnsperf; then with 100 changes per second.");
    machine.print();
    println!(
        "{:<11} {:>9} {:>9} {:>9} {:>6}   {:>9} {:>9}   {:>10} {:>10}   {:>7} {:>7} {:>7}",
        "",
        "q/s",
        "mean µs",
        "max µs",
        "lost",
        "changing",
        "mean µs",
        "change p50",
        "p99 ms",
        "one p50",
        "p99 µs",
        "MB"
    );
    for one in all {
        println!(
            "{:<11} {:>9.0} {:>9.0} {:>9.0} {:>6}   {:>9.0} {:>9.0}   {:>10.1} {:>10.1}   {:>7} {:>7} {:>7}",
            one.program,
            one.rest.rate,
            one.rest.mean_us,
            one.rest.max_us,
            one.rest.lost + one.changing.lost,
            one.changing.rate,
            one.changing.mean_us,
            one.change_p50_ms,
            one.change_p99_ms,
            one.alone.p50_us,
            one.alone.p99_us,
            one.resident_mb,
        );
    }
    let [ours, peers @ ..] = all else { return };
    let ratios = peers.iter().map(|peer| {
        let what = format!("questions per second over those of {}", peer.program);
        Budget::note(&what, ours.rest.rate / peer.rest.rate.max(1.0))
    });
    print_budgets(&ratios.collect::<Vec<_>>());
}
