//! kill -9.

use super::{Hit, Kind, Needs, Sort, leader, nobody, one, revive, victim};

/// Kills the leader.
pub(super) const LEADER: Kind = Kind {
    name: "kill-leader",
    about: "kill -9 of the leader",
    sort: Sort::Process,
    needs: Needs::NOTHING,
    begin: |cluster, id, rng| {
        Box::pin(async move {
            // Without a leader, kill any replica.
            let at = match leader(cluster).await {
                Some(at) => Some(at),
                None => victim(cluster, rng).await,
            };
            let Some(at) = at else { return Ok(nobody(id)) };
            cluster.kill(at)?;
            Ok(one(cluster, id, at))
        })
    },
    end: |cluster, hit| Box::pin(async move { revive(cluster, hit) }),
};

/// Kills any replica.
pub(super) const ONE: Kind = Kind {
    name: "kill",
    about: "kill -9 of a replica, often the leader",
    begin: |cluster, id, rng| {
        Box::pin(async move {
            let Some(at) = victim(cluster, rng).await else { return Ok(nobody(id)) };
            cluster.kill(at)?;
            Ok(one(cluster, id, at))
        })
    },
    ..LEADER
};

/// Kills all replicas at once.
pub(super) const ALL: Kind = Kind {
    name: "kill-all",
    about: "kill -9 of all replicas at once",
    begin: |cluster, id, _| {
        Box::pin(async move {
            let all: Vec<usize> = (0..cluster.replicas().len()).collect();
            let places: Vec<usize> =
                all.into_iter().filter(|at| cluster.replicas()[*at].is_up()).collect();
            places.iter().try_for_each(|at| cluster.kill(*at))?;
            Ok(Hit { places, told: String::from("all"), id })
        })
    },
    ..LEADER
};
