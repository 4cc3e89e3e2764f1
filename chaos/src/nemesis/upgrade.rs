//! A rolling upgrade.

use super::{Kind, Needs, Sort, nobody, one, revive, victim};

/// Upgrades one replica after the other.
pub(super) const UPGRADE: Kind = Kind {
    name: "upgrade",
    about: "a replica that runs the previous program is stopped, and goes on with the present one",
    sort: Sort::Process,
    needs: Needs::PREVIOUS,
    begin: |cluster, id, rng| {
        Box::pin(async move {
            let at = match cluster.outdated() {
                Some(at) => Some(at),
                None => victim(cluster, rng).await,
            };
            let Some(at) = at else { return Ok(nobody(id)) };
            cluster.stop(at).await?;
            cluster.set_old(at, false);
            Ok(one(cluster, id, at))
        })
    },
    end: |cluster, hit| Box::pin(async move { revive(cluster, hit) }),
};
