//! Disks that are slow, fail, or are full.

use std::time::Duration;

use rand::RngExt;

use super::{Kind, Needs, Sort, nobody, one, revive, victim};
use crate::cluster::Disk;

/// How long a replica may take to end of a failed sync: it syncs when it is written to.
const END: Duration = Duration::from_secs(20);

/// Every sync takes longer.
pub(super) const SLOW: Kind = Kind {
    name: "slow-disk",
    about: "every sync of a replica takes 20 to 300 ms more",
    sort: Sort::Disk,
    needs: Needs::SHIM,
    begin: |cluster, id, rng| {
        Box::pin(async move {
            let Some(at) = victim(cluster, rng).await else { return Ok(nobody(id)) };
            let more = Duration::from_millis(rng.random_range(20..300));
            cluster.set_disk(at, Disk::Slow(more))?;
            let mut hit = one(cluster, id, at);
            hit.told.push_str(&format!(", {more:?} more"));
            Ok(hit)
        })
    },
    end: |cluster, hit| {
        Box::pin(
            async move { hit.places.iter().try_for_each(|at| cluster.set_disk(*at, Disk::Good)) },
        )
    },
};

/// Every sync fails: the replica must end by itself, and come back when the disk is good again.
pub(super) const BROKEN: Kind = Kind {
    name: "broken-disk",
    about: "every sync of a replica fails with EIO: it ends by itself",
    begin: |cluster, id, rng| {
        Box::pin(async move {
            let Some(at) = victim(cluster, rng).await else { return Ok(nobody(id)) };
            cluster.set_disk(at, Disk::Broken)?;
            cluster.expect_end(at, true);
            Ok(one(cluster, id, at))
        })
    },
    end: |cluster, hit| {
        Box::pin(async move {
            // One that was paused meanwhile cannot end.
            for &at in &hit.places {
                if cluster.replicas()[at].is_up() {
                    cluster.revive(at)?;
                    // Cut off from the others it may have had nothing to sync: then it goes on.
                    _ = cluster.wait_exit(at, END).await;
                }
                cluster.set_disk(at, Disk::Good)?;
                cluster.expect_end(at, false);
            }
            revive(cluster, hit)
        })
    },
    ..SLOW
};

/// No byte is left: the replica leaves and comes back by itself.
pub(super) const FULL: Kind = Kind {
    name: "full-disk",
    about: "the disk of a replica is full for a while",
    needs: Needs::SMALL_DISKS,
    begin: |cluster, id, rng| {
        Box::pin(async move {
            let Some(at) = victim(cluster, rng).await else { return Ok(nobody(id)) };
            cluster.fill_disk(at, rng.random_range(0..32) << 20)?;
            Ok(one(cluster, id, at))
        })
    },
    end: |cluster, hit| {
        Box::pin(async move { hit.places.iter().try_for_each(|at| cluster.empty_disk(*at)) })
    },
    ..SLOW
};
