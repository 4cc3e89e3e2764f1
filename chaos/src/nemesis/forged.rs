//! A malicious peer sends forged messages in the name of another replica. They must be ignored: the term must
//! stay one that elections can have reached.

use std::time::Duration;

use anyhow::{Result, ensure};
use hyper::Method;
use rand::RngExt;
use rand::seq::IteratorRandom;

use super::{Kind, Needs, Sort, nobody, one, present_victim};
use crate::cluster::Cluster;
use crate::forger::{Forgery, Target};
use crate::http;

const ASK: Duration = Duration::from_millis(500);
/// No run holds this many elections.
const TERM_MAX: u64 = 1 << 32;

/// Sends some forgeries to one replica.
pub(super) const FORGED: Kind = Kind {
    name: "forged-peer",
    about: "a replica is sent terms, entries, frames and bytes that no peer would send",
    sort: Sort::Hostile,
    needs: Needs::NOTHING,
    begin: |cluster, id, rng| {
        Box::pin(async move {
            let Some(at) = present_victim(cluster, rng).await else { return Ok(nobody(id)) };
            let Some(target) = target(cluster, at, rng).await else { return Ok(nobody(id)) };
            let mut hit = one(cluster, id, at);
            for _ in 0..rng.random_range(1..=20) {
                let forgery = Forgery::ALL[rng.random_range(0..Forgery::ALL.len())];
                // Another fault may have stopped or disconnected it; a forgery must be refused or ignored.
                if let Ok(answered) = target.send(forgery).await {
                    ensure!(!answered, "{forgery:?} was answered by replica {}", target.id);
                    hit.told.push_str(&format!(", {forgery:?}"));
                }
            }
            terms_are_small(cluster).await?;
            Ok(hit)
        })
    },
    end: |cluster, _| Box::pin(terms_are_small(cluster)),
};

async fn target(cluster: &Cluster, at: usize, rng: &mut rand::rngs::SmallRng) -> Option<Target> {
    let replica = &cluster.replicas()[at];
    let status = http::once(replica.api, Method::GET, "/v1/cluster", None, ASK).await.ok()?.body;
    let name = status["cluster_id"].as_str()?.to_owned();
    let members = status["members"].as_array()?.iter().filter_map(|member| member["id"].as_u64());
    let from = members.filter(|id| *id != replica.id).choose(rng)?;
    Some(Target { peer: replica.peer, id: replica.id, from, cluster: name })
}

/// Checks that no replica that answers is in a forged term.
async fn terms_are_small(cluster: &mut Cluster) -> Result<()> {
    for replica in cluster.replicas().iter().filter(|replica| replica.is_running()) {
        let asked = http::once(replica.api, Method::GET, "/v1/cluster", None, ASK).await;
        if let Ok(answer) = asked
            && let Some(term) = answer.body["term"].as_u64()
        {
            ensure!(term < TERM_MAX, "replica {} is in the forged term {term}", replica.id);
        }
    }
    Ok(())
}
