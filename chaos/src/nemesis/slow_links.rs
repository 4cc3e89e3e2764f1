//! Links of limited bandwidth: packets are queued up to 400 ms, and dropped when the queue is full. The
//! kernels used here have no netem; a token bucket filter delays packets above its rate.

use anyhow::Context;
use rand::RngExt;

use super::{Kind, Needs, Sort, nobody, one, victim};

/// Limits the outgoing bandwidth of one replica.
pub(super) const SLOW_LINKS: Kind = Kind {
    name: "slow-link",
    about: "what a replica sends goes through a queue of 100 to 2000 kbit/s, 400 ms long",
    sort: Sort::Network,
    needs: Needs::NAMESPACES,
    begin: |cluster, id, rng| {
        Box::pin(async move {
            let Some(at) = victim(cluster, rng).await else { return Ok(nobody(id)) };
            let kbit = rng.random_range(100..2000);
            let net = cluster.net().context("the replicas have no namespaces of their own")?;
            net.narrow(at, Some(kbit))?;
            let mut hit = one(cluster, id, at);
            hit.told.push_str(&format!(", {kbit} kbit/s"));
            Ok(hit)
        })
    },
    end: |cluster, hit| {
        Box::pin(async move {
            let net = cluster.net().context("the replicas have no namespaces of their own")?;
            hit.places.iter().try_for_each(|at| net.narrow(*at, None))
        })
    },
};
