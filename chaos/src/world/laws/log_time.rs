//! Log time, while one clock of three jumps, drifts or has a random error.

use super::super::{Law, World};

pub(in super::super) const LAW: Law = Law {
    name: "log-time",
    says: "entries are stamped with the true time, whatever one clock shows and whoever leads",
    check,
};

/// Twice the error of the correct clocks, plus a reading.
const OFF_MS_MAX: i64 = 100;

fn check(world: &World) -> Result<(), String> {
    let Some(record) = world.records.last().filter(|_| !world.last.is_empty()) else {
        return Ok(());
    };
    let off = world.clocks.off(world.state().at());
    if off.abs() <= OFF_MS_MAX {
        return Ok(());
    }
    Err(format!(
        "revision {} is followed by an entry that is stamped {off} ms after the true time",
        record.revision
    ))
}
