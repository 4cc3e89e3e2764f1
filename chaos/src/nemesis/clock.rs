//! The time of day jumps on one replica, forward or back. Its other clocks are true.

use std::time::Duration;

use rand::RngExt;

use super::{Kind, Needs, Sort, nobody, one, victim};

/// By up to an hour; later it jumps back.
pub(super) const CLOCK: Kind = Kind {
    name: "clock-jump",
    about: "the clock of a replica, often the leader, jumps by up to an hour, forward or back",
    sort: Sort::Clock,
    needs: Needs::SHIM,
    begin: |cluster, id, rng| {
        Box::pin(async move {
            let Some(at) = victim(cluster, rng).await else { return Ok(nobody(id)) };
            // As often by milliseconds as by minutes.
            let by = Duration::from_secs_f64(10_f64.powf(rng.random_range(-2.0..3.55)));
            let back = rng.random_bool(0.5);
            cluster.set_clock(at, by, back)?;
            let mut hit = one(cluster, id, at);
            hit.told.push_str(&format!(", {}{by:.1?}", if back { "-" } else { "+" }));
            Ok(hit)
        })
    },
    end: |cluster, hit| {
        Box::pin(async move {
            hit.places.iter().try_for_each(|at| cluster.set_clock(*at, Duration::ZERO, false))
        })
    },
};
