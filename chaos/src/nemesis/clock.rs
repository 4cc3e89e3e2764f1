//! The wall clock of one replica is wrong: it jumps, runs too fast or too slow, or has a random error. Its
//! monotonic clocks and the other replicas' clocks are correct, so the law `log-time` holds throughout.

use std::ops::Range;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::SmallRng;

use super::{End, Kind, Needs, Sort, nobody, one, victim};
use crate::cluster::{Cluster, WrongClock};

/// Jumps by up to 400 days, and later back.
pub(super) const JUMP: Kind = Kind {
    name: "clock-jump",
    about: "the clock of a replica, often the leader, jumps by up to 400 days, forward or back",
    sort: Sort::Clock,
    needs: Needs::SHIM,
    begin: |cluster, id, rng| {
        // Log-uniform: milliseconds are as likely as days.
        let by = signed(seconds(-2.0..7.54, rng).as_nanos(), rng);
        let told = format!("{:+.1} s", by as f64 / 1e9);
        Box::pin(set(cluster, id, rng, WrongClock { ahead: by, ..WrongClock::default() }, told))
    },
    end: RIGHT,
};

/// Drifts, and is corrected later.
pub(super) const DRIFT: Kind = Kind {
    name: "clock-drift",
    about: "the clock of a replica, often the leader, gains or loses up to half of the time that passes",
    sort: Sort::Clock,
    needs: Needs::SHIM,
    begin: |cluster, id, rng| {
        let drift = signed(seconds(-4.0..-0.3, rng).as_micros(), rng);
        let told = format!("{drift:+} millionths");
        Box::pin(set(cluster, id, rng, WrongClock { drift, ..WrongClock::default() }, told))
    },
    end: RIGHT,
};

/// Has a random error, which ends later.
pub(super) const LIE: Kind = Kind {
    name: "clock-lie",
    about: "the clock of a replica, often the leader, shows another time whenever it is read",
    sort: Sort::Clock,
    needs: Needs::SHIM,
    begin: |cluster, id, rng| {
        let most = seconds(-1.0..3.6, rng);
        let told = format!("by up to {most:.1?}");
        let lies = u32::try_from(most.as_micros()).unwrap_or(u32::MAX);
        let clock = WrongClock { lies, ..WrongClock::default() };
        Box::pin(set(cluster, id, rng, clock, told))
    },
    end: RIGHT,
};

const RIGHT: End = |cluster, hit| {
    Box::pin(async move {
        hit.places.iter().try_for_each(|at| cluster.set_clock(*at, WrongClock::default()))
    })
};

/// Log-uniform: small values are as likely as large ones.
fn seconds(power: Range<f64>, rng: &mut SmallRng) -> Duration {
    Duration::from_secs_f64(10_f64.powf(rng.random_range(power)))
}

fn signed(size: u128, rng: &mut SmallRng) -> i64 {
    let size = i64::try_from(size).unwrap_or(i64::MAX);
    if rng.random_bool(0.5) { -size } else { size }
}

async fn set(
    cluster: &mut Cluster,
    id: u64,
    rng: &mut SmallRng,
    clock: WrongClock,
    told: String,
) -> anyhow::Result<super::Hit> {
    let Some(at) = victim(cluster, rng).await else { return Ok(nobody(id)) };
    cluster.set_clock(at, clock)?;
    let mut hit = one(cluster, id, at);
    hit.told.push_str(&format!(", {told}"));
    Ok(hit)
}
