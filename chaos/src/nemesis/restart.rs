//! Clean stops and restarts.

use std::time::Duration;

use super::{Hit, Kind, Needs, Sort, nobody, one, revive, victim};

/// How long a replica may take to be ready before the next one is stopped.
const READY: Duration = Duration::from_secs(20);

/// Restarts one replica.
pub(super) const ONE: Kind = Kind {
    name: "restart",
    about: "a clean stop and start of a replica, often the leader",
    sort: Sort::Process,
    needs: Needs::NOTHING,
    begin: |cluster, id, rng| {
        Box::pin(async move {
            let Some(at) = victim(cluster, rng).await else { return Ok(nobody(id)) };
            cluster.stop(at).await?;
            Ok(one(cluster, id, at))
        })
    },
    end: |cluster, hit| Box::pin(async move { revive(cluster, hit) }),
};

/// Restarts all replicas, one after the other, as an operator does.
pub(super) const ROLLING: Kind = Kind {
    name: "rolling-restart",
    about: "all replicas stopped and started one after the other",
    // Never combined with other faults, as it waits for each replica to be ready.
    sort: Sort::Members,
    begin: |cluster, id, _| {
        Box::pin(async move {
            for at in 0..cluster.replicas().len() {
                cluster.stop(at).await?;
                cluster.start_replica(at)?;
                cluster.wait_ready(READY).await?;
            }
            let places = (0..cluster.replicas().len()).collect();
            Ok(Hit { places, told: String::from("all, one by one"), id })
        })
    },
    ..ONE
};
