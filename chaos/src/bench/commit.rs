//! Durable commits: allocations with three replicas, compared with puts with three etcd members. Only one of
//! the two clusters runs at a time.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::load::{Figures, drive, median};
use super::report::{Machine, Row, print_rows};
use super::{BenchOptions, etcd, ours};
use crate::caller::library;

const ETCD: &str = "etcd put (gRPC)";
const SINGLE: &str = "allocate, one HTTP request each";
const GATHERED: &str = "allocate, client library";

type Measured = BTreeMap<(&'static str, usize), Vec<Figures>>;

pub(super) async fn run(
    options: &BenchOptions,
    seconds: u64,
    rounds: usize,
    callers: &[usize],
) -> Result<Value> {
    let machine = Machine::look();
    let measure = Duration::from_secs(seconds);
    let mut measured = Measured::new();
    let mut version = String::new();
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}: etcd");
        version = one_of_etcd(options, callers, measure, &mut measured).await?;
        eprintln!("round {round} of {rounds}: ours");
        one_of_ours(options, callers, measure, &mut measured).await?;
    }
    let medians: BTreeMap<_, _> =
        measured.iter().map(|(key, rounds)| (*key, median(rounds.clone()))).collect();
    let mut rows = Vec::new();
    for what in [ETCD, SINGLE, GATHERED] {
        for &count in callers {
            let theirs = medians.get(&(ETCD, count)).copied().unwrap_or_default();
            let figures = medians.get(&(what, count)).copied().unwrap_or_default();
            rows.push(Row::new(what, count, figures, theirs));
        }
    }
    println!(
        "Durable commits, 3 replicas on one machine, fsync on, {rounds} rounds of {seconds} s, median by rate."
    );
    println!(
        "{version}: 256-byte values, requests to the leader, 1 gRPC connection for 1 caller, else 8."
    );
    println!(
        "ours: new addresses, {} hosts, {} tenants, blocks of /29; requests to the leader; one HTTP/1.1 \
         connection per caller; the library gathers on its own connections.",
        ours::HOSTS,
        ours::TENANTS
    );
    machine.print();
    print_rows(&rows);
    let all: Vec<Value> = measured
        .iter()
        .map(
            |((what, callers), rounds)| json!({"what": what, "callers": callers, "rounds": rounds}),
        )
        .collect();
    Ok(
        json!({"bench": "commit", "machine": machine, "etcd": version, "medians": rows, "rounds": all}),
    )
}

async fn one_of_etcd(
    options: &BenchOptions,
    callers: &[usize],
    measure: Duration,
    measured: &mut Measured,
) -> Result<String> {
    let cluster = etcd::Etcd::start(options.dir.as_deref()).await?;
    for &count in callers {
        let all = etcd::callers(&cluster, count, etcd::Deed::Put).await?;
        let figures = drive(all, measure).await.context("etcd")?;
        measured.entry((ETCD, count)).or_default().push(figures);
    }
    cluster.version().await
}

async fn one_of_ours(
    options: &BenchOptions,
    callers: &[usize],
    measure: Duration,
    measured: &mut Measured,
) -> Result<()> {
    let cluster = ours::start(options).await?;
    let numbers = ours::Numbers::default();
    for &count in callers {
        let leader = cluster.wait_leader(Duration::from_secs(10)).await?;
        let api = cluster.replicas()[leader].api;
        let all = ours::Single::many(api, count, &numbers).await?;
        let figures = drive(all, measure).await.context("single requests")?;
        measured.entry((SINGLE, count)).or_default().push(figures);

        let client = library(&cluster.apis(), "chaos:bench")?;
        let all = (0..count)
            .map(|_| ours::Gathered { client: client.clone(), numbers: numbers.clone() })
            .collect();
        let figures = drive(all, measure).await.context("the client library")?;
        measured.entry((GATHERED, count)).or_default().push(figures);
    }
    Ok(())
}
