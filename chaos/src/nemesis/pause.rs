//! SIGSTOP: a replica keeps its connections but does not answer, and later continues with its old state.

use super::{Kind, Needs, Sort, nobody, one, revive, victim};

/// Pauses any replica.
pub(super) const PAUSE: Kind = Kind {
    name: "pause",
    about: "SIGSTOP of a replica, often the leader; SIGCONT later",
    sort: Sort::Process,
    needs: Needs::NOTHING,
    begin: |cluster, id, rng| {
        Box::pin(async move {
            let Some(at) = victim(cluster, rng).await else { return Ok(nobody(id)) };
            cluster.pause(at)?;
            Ok(one(cluster, id, at))
        })
    },
    end: |cluster, hit| Box::pin(async move { revive(cluster, hit) }),
};
