//! Collects audit evidence from every replica after the run: who held which address, the exported history,
//! and the verification of all histories. The oracle checks it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BytesMut};
use futures_util::future::try_join_all;
use http_body_util::BodyExt;
use hyper::Method;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::IteratorRandom;
use romana_client::audit::Tenure;
use romana_client::model::Page;
use romana_client::replay::{Replay, Until};
use romana_statemachine::{Event, Record, Revision};
use tokio::time::timeout;

use crate::cluster::Cluster;
use crate::evidence::{Audited, Exported};
use crate::http::Connection;

/// Limit of addresses queried on each replica; if there are more, a random sample.
pub const ADDRESSES_MAX: usize = 5_000;
/// Connections to one replica.
const CONNECTIONS: usize = 4;
/// Timeout of one answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Every address ever allocated, or a sample drawn from the seed; and the total number.
#[must_use]
pub fn addresses(records: &[Record], seed: u64) -> (Vec<IpAddr>, usize) {
    let given = records.iter().filter_map(|record| match &record.event {
        Event::AddressAllocated(event) => Some(event.ip),
        _ => None,
    });
    let given: BTreeSet<IpAddr> = given.collect();
    let all = given.len();
    let drawn = given.into_iter().sample(&mut SmallRng::seed_from_u64(seed), ADDRESSES_MAX);
    (drawn, all)
}

/// Queries all replicas about the history up to `last`.
///
/// # Errors
/// A replica does not answer, or its answer is malformed.
pub async fn collect(
    cluster: &Cluster,
    addresses: &[IpAddr],
    last: Revision,
) -> Result<Vec<Audited>> {
    let asked = cluster.replicas().iter().map(async |replica| {
        let (id, api) = (replica.id, replica.api);
        ask(id, api, addresses, last).await.with_context(|| format!("audit of replica {id}"))
    });
    try_join_all(asked).await
}

async fn ask(
    replica: u64,
    api: SocketAddr,
    addresses: &[IpAddr],
    last: Revision,
) -> Result<Audited> {
    let parts = addresses.chunks(addresses.len().div_ceil(CONNECTIONS).max(1));
    let held: Vec<_> = try_join_all(parts.map(|part| who(api, part))).await?;
    let exported = export(api, last).await.map_err(|error| format!("{error:#}")).transpose();
    let mut connection = Connection::open(api, PATIENCE).await?;
    let answer = connection.call(Method::GET, "/v1/audit/verify", None, PATIENCE).await?;
    ensure!(answer.status == 200, "verify: status {}: {}", answer.status, answer.body);
    let verified = Some(serde_json::from_value(answer.body).context("the answer to verify")?);
    let held: BTreeMap<IpAddr, Vec<Tenure>> = held.into_iter().flatten().collect();
    Ok(Audited { replica, held, exported, verified })
}

/// The holders of these addresses.
async fn who(api: SocketAddr, addresses: &[IpAddr]) -> Result<Vec<(IpAddr, Vec<Tenure>)>> {
    let mut connection = Connection::open(api, PATIENCE).await?;
    let mut held = Vec::with_capacity(addresses.len());
    for ip in addresses {
        let (mut tenures, mut next) = (Vec::new(), None::<String>);
        loop {
            let more = next.map(|next| format!("&continue={next}")).unwrap_or_default();
            let path = format!("/v1/audit/who?ip={ip}{more}");
            let answer = connection.call(Method::GET, &path, None, PATIENCE).await?;
            ensure!(answer.status == 200, "{path}: status {}: {}", answer.status, answer.body);
            let page: Page<Tenure> =
                serde_json::from_value(answer.body).with_context(|| path.clone())?;
            tenures.extend(page.items);
            next = page.next;
            if next.is_none() {
                break;
            }
        }
        held.push((*ip, tenures));
    }
    Ok(held)
}

/// Replays the replica's export while it arrives. `None`: the replica does not support exports yet.
async fn export(api: SocketAddr, last: Revision) -> Result<Option<Exported>> {
    let mut connection = Connection::open(api, PATIENCE).await?;
    let path = format!("/v1/audit/export?to={last}");
    let answer = connection.send(Method::GET, &path, "application/x-ndjson", None);
    let response = timeout(PATIENCE, answer).await??;
    if !response.status().is_success() {
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        bail!("export: status {status}: {}", String::from_utf8_lossy(&body));
    }
    let mut body = response.into_body();
    let (mut replay, mut buffer) = (Replay::new(Until::End), BytesMut::new());
    while let Some(frame) = timeout(PATIENCE, body.frame()).await.context("the export is silent")? {
        let Ok(data) = frame?.into_data() else { continue };
        buffer.extend_from_slice(&data);
        while let Some(at) = buffer.iter().position(|byte| *byte == b'\n') {
            let line = buffer.split_to(at);
            buffer.advance(1);
            replay.line(&line)?;
        }
    }
    ensure!(buffer.is_empty(), "the export ends within a line");
    let replayed = replay.finish()?;
    Ok(Some(Exported {
        first: replayed.header.first,
        revision: replayed.state.revision(),
        digest: replayed.state.digest(),
        state_digest: replayed.state_digest,
    }))
}
