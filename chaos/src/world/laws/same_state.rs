//! Law 2: applying entries, applying events and restoring a snapshot lead to the same state.

use super::super::{Law, World};

pub(in super::super) const LAW: Law = Law {
    name: "same-state",
    says: "replicas, the fold of the events and what comes back from a snapshot have one digest",
    check,
};

fn check(world: &World) -> Result<(), String> {
    if !world.changed {
        return Ok(());
    }
    let first = world.state();
    let snapshot = first.snapshot();
    for (at, replica) in world.replicas.iter().enumerate() {
        if replica.digest() != first.digest() || replica.snapshot() != snapshot {
            return Err(format!(
                "replica {at} has another state at revision {}",
                replica.revision()
            ));
        }
    }
    if world.fold.digest() != first.digest() || world.fold.state_digest() != first.state_digest() {
        return Err(format!("the events lead to another state at {}", world.fold.revision()));
    }
    Ok(())
}
