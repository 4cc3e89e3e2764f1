//! Linearizable reads of one object by name at the leader, compared with etcd.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::lean::Lean;
use super::load::{Figures, drive, median};
use super::report::{Machine, Row, print_rows};
use super::{BenchOptions, etcd, ours};
use crate::caller::library;

/// Number of objects.
const OBJECTS: u64 = 10_000;

pub(super) async fn run(
    options: &BenchOptions,
    seconds: u64,
    rounds: usize,
    callers: usize,
) -> Result<Value> {
    let machine = Machine::look();
    let measure = Duration::from_secs(seconds);
    let (mut theirs, mut mine): (Vec<Figures>, Vec<Figures>) = (Vec::new(), Vec::new());
    let mut version = String::new();
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        let cluster = etcd::Etcd::start(options.dir.as_deref()).await?;
        fill_etcd(&cluster).await?;
        let all = etcd::callers(&cluster, callers, etcd::Deed::Get).await?;
        theirs.push(drive(all, measure).await.context("etcd")?);
        version = cluster.version().await?;
        drop(cluster);
        mine.push(one_of_ours(options, callers, measure).await?);
    }
    let (theirs, mine) = (median(theirs), median(mine));
    let rows = [
        Row::new("etcd range (gRPC)", callers, theirs, theirs),
        Row::new("GET /v1/addresses/NAME", callers, mine, theirs),
    ];
    println!(
        "Linearizable reads at the leader, {OBJECTS} objects, {rounds} rounds of {seconds} s. {version}."
    );
    machine.print();
    print_rows(&rows);
    Ok(json!({"bench": "reads", "machine": machine, "etcd": version, "medians": rows}))
}

async fn fill_etcd(cluster: &etcd::Etcd) -> Result<()> {
    let leader = cluster.clients()[cluster.leader().await?];
    let kv = etcd::Kv::open(leader)?;
    let mut tasks = tokio::task::JoinSet::new();
    for part in 0..64 {
        let mut kv = kv.clone();
        tasks.spawn(async move {
            for key in (part..OBJECTS).step_by(64) {
                kv.put(key).await?;
            }
            Ok::<_, tonic::Status>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.context("fill etcd")??;
    }
    Ok(())
}

async fn one_of_ours(options: &BenchOptions, callers: usize, measure: Duration) -> Result<Figures> {
    let cluster = ours::start(options).await?;
    let client = library(&cluster.apis(), "chaos:bench")?;
    let mut tasks = tokio::task::JoinSet::new();
    for part in 0..64 {
        let client = client.clone();
        tasks.spawn(async move {
            for number in (part..OBJECTS).step_by(64) {
                client.allocate(ours::allocation(number)).await?;
            }
            Ok::<_, romana_client::Error>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.context("fill our cluster")??;
    }
    let leader = cluster.wait_leader(Duration::from_secs(10)).await?;
    let api = cluster.replicas()[leader].api;
    let mut all = Vec::new();
    for number in 0..callers {
        let next = number as u64 * 7919;
        all.push(ours::Reader { lean: Lean::open(api).await?, next, among: OBJECTS });
    }
    drive(all, measure).await.context("reads")
}
