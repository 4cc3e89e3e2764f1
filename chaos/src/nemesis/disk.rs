//! Slow, failing and full disks.

use std::time::Duration;

use rand::RngExt;

use super::{Kind, Needs, Sort, nobody, one, revive, victim};
use crate::cluster::Disk;

/// How long a replica may take to exit after a failed sync: it syncs only on writes.
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

/// Every sync fails: the replica must exit, and is restarted once the disk works again.
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
            // A replica that another fault has paused cannot exit.
            for &at in &hit.places {
                if cluster.replicas()[at].is_up() {
                    cluster.revive(at)?;
                    // A replica without quorum may have had nothing to sync, and continues.
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

/// The disk is completely full: the replica leaves the quorum and returns without a restart.
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
