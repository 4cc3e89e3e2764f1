//! Laws 1 and 3, and all other invariants of the state.

use super::super::{Law, World};

pub(in super::super) const LAW: Law = Law {
    name: "valid",
    says: "the invariants on State hold: an address has one holder, a block is in its group and apart",
    check,
};

fn check(world: &World) -> Result<(), String> {
    if !world.changed {
        return Ok(());
    }
    world.state().validate().map_err(|wrong| wrong.join("; "))
}
