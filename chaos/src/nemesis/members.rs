//! Membership changes under load. Never combined with another fault, so there is a quorum.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hyper::Method;
use rand::RngExt;
use rand::rngs::SmallRng;
use serde_json::{Value, json};

use super::{Hit, Kind, Needs, Sort, leader, nobody, one, victim};
use crate::cluster::Cluster;
use crate::http;
use crate::wait::until;

/// Timeout of a change.
const PATIENCE: Duration = Duration::from_secs(40);
/// Timeout of an answer.
const ASK: Duration = Duration::from_secs(3);

/// A replica loses its disk, and a new member replaces it.
pub(super) const REPLACE: Kind = Kind {
    name: "replace",
    about: "a replica loses its disk, and a new member takes its place",
    sort: Sort::Members,
    needs: Needs::NOTHING,
    begin: |cluster, id, rng| {
        Box::pin(async move {
            let Some(at) = victim(cluster, rng).await else { return Ok(nobody(id)) };
            cluster.kill(at)?;
            let hit = one(cluster, id, at);
            replace(cluster, at).await?;
            Ok(hit)
        })
    },
    end: |_, _| Box::pin(async { Ok(()) }),
};

/// Adds a member, then removes one: the new one, or another which the new one replaces.
pub(super) const GROW: Kind = Kind {
    name: "grow",
    about: "a member joins; later one is removed, often the leader",
    begin: |cluster, id, _| {
        Box::pin(async move {
            let at = cluster.add_place()?;
            join(cluster, at, None).await?;
            Ok(one(cluster, id, at))
        })
    },
    end: |cluster, hit| Box::pin(async move { shrink(cluster, hit).await }),
    ..REPLACE
};

async fn shrink(cluster: &mut Cluster, hit: &Hit) -> Result<()> {
    let &[last] = &hit.places[..] else { return Ok(()) };
    let mut rng: SmallRng = rand::SeedableRng::seed_from_u64(hit.id);
    if rng.random_bool(0.5) {
        let at = leader(cluster).await.unwrap_or_default();
        if at != last {
            remove(cluster, at).await?;
            join(cluster, at, None).await?;
        }
    }
    remove(cluster, last).await?;
    cluster.remove_last_place();
    Ok(())
}

/// Starts a new member on an empty disk, in the place of one that is down.
pub(super) async fn replace(cluster: &mut Cluster, at: usize) -> Result<()> {
    let old = cluster.replicas()[at].id;
    join(cluster, at, Some(old)).await
}

async fn join(cluster: &mut Cluster, at: usize, replaces: Option<u64>) -> Result<()> {
    let body = json!({"peer": cluster.replicas()[at].peer.to_string(), "replaces": replaces});
    let added = ask(cluster, Method::POST, "/v1/cluster/members", Some(body)).await?;
    let id = added["id"].as_u64().context("the new member has no id")?;
    cluster.join_as(at, id)?;
    cluster.start_replica(at)?;
    cluster.wait_ready(PATIENCE).await?;
    let cluster = &*cluster;
    until("the new member votes", PATIENCE, async || {
        let status = ask(cluster, Method::GET, "/v1/cluster", None).await.unwrap_or_default();
        let members = status["members"].as_array().cloned().unwrap_or_default();
        members.iter().any(|m| m["id"] == id && m["role"] != "learner" && m["healthy"] == true)
            && members.len() == cluster.replicas().len()
    })
    .await
}

/// Removes a member, whose process must then exit.
async fn remove(cluster: &mut Cluster, at: usize) -> Result<()> {
    let id = cluster.replicas()[at].id;
    cluster.expect_end(at, true);
    ask(cluster, Method::DELETE, &format!("/v1/cluster/members/{id}"), None).await?;
    let ended = cluster.wait_exit(at, PATIENCE).await;
    cluster.expect_end(at, false);
    ended.with_context(|| format!("the removed member {id}")).map(drop)
}

/// Sends a request to the replicas in turn until one succeeds.
async fn ask(cluster: &Cluster, method: Method, path: &str, body: Option<Value>) -> Result<Value> {
    let mut last = String::from("nobody is up");
    let start = std::time::Instant::now();
    loop {
        for replica in cluster.replicas().iter().filter(|replica| replica.is_running()) {
            match http::once(replica.api, method.clone(), path, body.as_ref(), ASK).await {
                Ok(answer) if answer.status < 300 => return Ok(answer.body),
                Ok(answer) => last = answer.body.to_string(),
                Err(error) => last = error.to_string(),
            }
        }
        ensure!(start.elapsed() < PATIENCE, "{method} {path}: {last}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
