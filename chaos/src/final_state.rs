//! Collects the final report of every replica: its whole history and its live addresses.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::{Buf, BytesMut};
use http_body_util::BodyExt;
use hyper::Method;
use romana_statemachine::{Digest, Record, Revision};
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use crate::caller::held;
use crate::cluster::Cluster;
use crate::evidence::{HeldAddress, Sample, Testimony};
use crate::http::{self, Connection};

/// Timeout of an answer; a whole history is long.
const PATIENCE: Duration = Duration::from_secs(60);
/// Timeout of a revision query.
const SAMPLE_MAX: Duration = Duration::from_millis(300);

/// Waits up to `patience` until all replicas have the same revision, then collects their reports. If they do
/// not converge, each is collected up to its own revision, and the second part describes the difference.
///
/// # Errors
/// A replica does not answer.
pub async fn collect(
    cluster: &Cluster,
    patience: Duration,
) -> Result<(Vec<Testimony>, Option<String>)> {
    let (targets, complaint) = converge(cluster, patience).await;
    let mut testimonies = Vec::new();
    for (replica, target) in cluster.replicas().iter().zip(targets) {
        let records = history(replica.api, Revision(0), target)
            .await
            .with_context(|| format!("the history of replica {}", replica.id))?;
        let (live, live_at) = live(replica.api)
            .await
            .with_context(|| format!("the addresses of replica {}", replica.id))?;
        let path = "/v1/snapshot?consistency=local";
        let snapshot = http::once(replica.api, Method::GET, path, None, PATIENCE)
            .await
            .with_context(|| format!("the state of replica {}", replica.id))?
            .body;
        testimonies.push(Testimony { replica: replica.id, records, live, live_at, snapshot });
    }
    Ok((testimonies, complaint))
}

/// A replica's revision and digest; `None` if it does not answer.
pub(crate) async fn sample(replica: u64, api: SocketAddr) -> Option<Sample> {
    let path = "/v1/digest?consistency=local";
    let answer = http::once(api, Method::GET, path, None, SAMPLE_MAX).await.ok()?;
    let revision = answer.body.get("revision").and_then(Value::as_u64)?;
    let digest = answer.body.get("digest").and_then(Value::as_str).and_then(Digest::from_hex)?;
    Some(Sample { replica, revision: Revision(revision), digest })
}

/// The revision up to which each replica's history is read: the highest of any replica once all have
/// answered; or after the timeout, each one's own.
async fn converge(cluster: &Cluster, patience: Duration) -> (Vec<Revision>, Option<String>) {
    let start = Instant::now();
    let mut target = Revision(0);
    loop {
        let mut seen = Vec::new();
        for replica in cluster.replicas() {
            seen.push(
                sample(replica.id, replica.api).await.map_or(Revision(0), |said| said.revision),
            );
        }
        let least = seen.iter().copied().min().unwrap_or_default();
        if target == 0 && least > 0 {
            target = seen.iter().copied().max().unwrap_or_default();
        }
        if target > 0 && least >= target {
            return (vec![target; seen.len()], None);
        }
        if start.elapsed() > patience {
            let complaint = format!("replicas stay at revisions {seen:?}");
            return (seen, Some(complaint));
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// A replica's records after `last` up to `target`.
pub(crate) async fn history(
    api: SocketAddr,
    last: Revision,
    target: Revision,
) -> Result<Vec<Record>> {
    if target <= last {
        return Ok(Vec::new());
    }
    let mut connection = Connection::open(api, PATIENCE).await?;
    let path = format!("/v1/events?from={last}");
    let answer = connection.send(Method::GET, &path, "application/x-ndjson", None);
    let response = timeout(PATIENCE, answer).await??;
    ensure!(response.status().is_success(), "status {}", response.status());
    let mut body = response.into_body();
    let mut records: Vec<Record> = Vec::new();
    let mut buffer = BytesMut::new();
    loop {
        while let Some(at) = buffer.iter().position(|byte| *byte == b'\n') {
            let line = buffer.split_to(at);
            buffer.advance(1);
            if line.is_empty() || line.starts_with(b"{\"bookmark\"") {
                continue;
            }
            records.push(serde_json::from_slice(&line).context("a line is no record")?);
            if records.last().is_some_and(|record| record.revision >= target) {
                return Ok(records);
            }
        }
        let frame = timeout(PATIENCE, body.frame()).await.context("the feed is silent")?;
        let frame = frame.context("the feed ended early")??;
        if let Some(data) = frame.data_ref() {
            buffer.extend_from_slice(data);
        }
    }
}

/// A replica's live addresses, and the revision of the first page.
async fn live(api: SocketAddr) -> Result<(Vec<HeldAddress>, Revision)> {
    let (mut all, mut revision, mut next) = (Vec::new(), None, None::<String>);
    loop {
        let mut path = String::from("/v1/addresses?consistency=local&limit=1000");
        if let Some(next) = next {
            path.push_str("&continue=");
            path.push_str(&next);
        }
        let answer = http::once(api, Method::GET, &path, None, PATIENCE).await?;
        ensure!(answer.status == 200, "status {}: {}", answer.status, answer.body);
        let items = answer.body.get("items").and_then(Value::as_array).context("no items")?;
        for item in items {
            all.push(held(item).with_context(|| format!("{item} is no address"))?);
        }
        let at = answer.body.get("revision").and_then(Value::as_u64).context("no revision")?;
        revision.get_or_insert(Revision(at));
        next = answer.body.get("continue").and_then(Value::as_str).map(str::to_owned);
        if next.is_none() {
            return Ok((all, revision.unwrap_or_default()));
        }
    }
}
