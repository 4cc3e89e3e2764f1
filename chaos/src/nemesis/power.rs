//! Power cuts: data that was not fsynced is lost, page by page.

use super::{Hit, Kind, Needs, Sort, nobody, one, revive, victim};

/// Cuts the power of one replica.
pub(super) const ONE: Kind = Kind {
    name: "power",
    about: "power cut of a replica, often the leader: un-fsynced data is lost or torn",
    sort: Sort::Disk,
    needs: Needs::SHIM,
    begin: |cluster, id, rng| {
        Box::pin(async move {
            let Some(at) = victim(cluster, rng).await else { return Ok(nobody(id)) };
            cluster.cut_power(&[at]).await?;
            Ok(one(cluster, id, at))
        })
    },
    end: |cluster, hit| Box::pin(async move { revive(cluster, hit) }),
};

/// Cuts the power of all replicas.
pub(super) const ALL: Kind = Kind {
    name: "power-all",
    about: "power cut of all replicas at once",
    begin: |cluster, id, _| {
        Box::pin(async move {
            let all: Vec<usize> = (0..cluster.replicas().len()).collect();
            let running = |at: &usize| cluster.replicas()[*at].is_running();
            let places: Vec<usize> = all.into_iter().filter(running).collect();
            cluster.cut_power(&places).await?;
            Ok(Hit { places, told: String::from("all"), id })
        })
    },
    ..ONE
};
