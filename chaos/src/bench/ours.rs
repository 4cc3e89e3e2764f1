//! Romana's side of the benchmarks: a cluster with a realistic topology and capacity for long runs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use romana_client::Client;
use romana_statemachine::Command;
use romana_statemachine::command::{AllocateAddress, HostSource, HostSpec, Labels};
use romana_statemachine::topology::TopologySpec;
use serde_json::json;

use super::BenchOptions;
use super::lean::Lean;
use super::load;
use crate::caller::library;
use crate::cluster::{Cluster, ClusterOptions, find_romanad};

/// Numbers of racks (prefix groups), hosts and tenants.
pub(super) const RACKS: u64 = 16;
pub(super) const HOSTS: u64 = 64;
pub(super) const TENANTS: u64 = 8;

/// A /8 with blocks of /29, divided among the racks: two million blocks.
pub(super) fn topology() -> TopologySpec {
    let racks: Vec<_> = (0..RACKS)
        .map(
            |rack| json!({"name": format!("rack{rack}"), "assignment": {"rack": rack.to_string()}}),
        )
        .collect();
    // The document is a constant of this file.
    serde_json::from_value(json!({
        "networks": [{"name": "pods", "cidr": "10.0.0.0/8", "block_mask": 29}],
        "topologies": [{"networks": ["pods"], "map": racks}],
    }))
    .unwrap_or_default()
}

pub(super) fn host(number: u64) -> HostSpec {
    let [.., low] = number.to_be_bytes();
    HostSpec {
        name: format!("node{number}").into(),
        ip: [192, 168, 0, low].into(),
        addresses: Vec::new(),
        labels: Labels::from([(String::from("rack"), (number % RACKS).to_string())]),
        info: Labels::new(),
        source: HostSource::Operator,
    }
}

/// The allocation with this number: hosts and tenants in turn.
pub(super) fn allocation(number: u64) -> AllocateAddress {
    AllocateAddress {
        name: format!("pod-{number}").into(),
        host: format!("node{}", number % HOSTS).into(),
        tenant: format!("tenant{}", number / HOSTS % TENANTS).into(),
        segment: "default".into(),
        network: None,
        ip: None,
    }
}

/// Three empty replicas.
pub(super) async fn three(options: &BenchOptions) -> Result<Cluster> {
    replicas(options, 3).await
}

/// This many empty replicas.
pub(super) async fn replicas(options: &BenchOptions, count: usize) -> Result<Cluster> {
    Cluster::start(ClusterOptions {
        replicas: count,
        parent: options.dir.clone(),
        ..ClusterOptions::new(find_romanad(options.romanad.as_deref())?)
    })
    .await
}

/// A cluster with topology and hosts.
pub(super) async fn start(options: &BenchOptions) -> Result<Cluster> {
    let cluster = three(options).await?;
    let client = library(&cluster.apis(), "chaos:bench")?;
    client.submit(&Command::SetTopology(topology())).await.context("set the topology")?;
    for number in 0..HOSTS {
        client.submit(&Command::AddHost(host(number))).await.context("add a host")?;
    }
    Ok(cluster)
}

/// Numbers of unused allocations.
pub(super) type Numbers = Arc<AtomicU64>;

/// A caller with its own connection: one HTTP request per allocation.
pub(super) struct Single {
    lean: Lean,
    numbers: Numbers,
}

impl Single {
    pub(super) async fn many(to: SocketAddr, count: usize, numbers: &Numbers) -> Result<Vec<Self>> {
        let mut all = Vec::with_capacity(count);
        for _ in 0..count {
            all.push(Self { lean: Lean::open(to).await?, numbers: Arc::clone(numbers) });
        }
        Ok(all)
    }
}

impl load::Caller for Single {
    async fn call(&mut self) -> Result<()> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let body = serde_json::to_string(&allocation(number))?;
        let status = self.lean.call("POST", "/v1/addresses", &body).await?;
        ensure!(status == 201, "status {status}: {}", String::from_utf8_lossy(self.lean.body()));
        Ok(())
    }
}

/// A caller of the client library, which batches concurrent calls.
pub(super) struct Gathered {
    pub(super) client: Client,
    pub(super) numbers: Numbers,
}

impl load::Caller for Gathered {
    async fn call(&mut self) -> Result<()> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let done = self.client.submit(&Command::AllocateAddress(allocation(number))).await?;
        ensure!(done.changed && done.allocation.is_some(), "not a fresh address: {done:?}");
        Ok(())
    }
}

/// A caller with linearizable reads of addresses on its own connection.
pub(super) struct Reader {
    pub(super) lean: Lean,
    pub(super) next: u64,
    pub(super) among: u64,
}

impl load::Caller for Reader {
    async fn call(&mut self) -> Result<()> {
        self.next = (self.next + 1) % self.among;
        let path = format!("/v1/addresses/pod-{}", self.next);
        let status = self.lean.call("GET", &path, "").await?;
        ensure!(status == 200, "status {status}: {}", String::from_utf8_lossy(self.lean.body()));
        Ok(())
    }
}
