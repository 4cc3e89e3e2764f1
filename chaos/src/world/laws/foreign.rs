//! Law 8: we change only what is ours.

use super::super::{Law, World};

pub(in super::super) const LAW: Law =
    Law { name: "foreign", says: "routes of others are as their owners left them", check };

fn check(world: &World) -> Result<(), String> {
    let touched = world.agents.iter().find(|agent| agent.kernel.foreign != agent.foreign);
    touched.map_or(Ok(()), |agent| {
        let (host, is, was) = (&agent.host, &agent.kernel.foreign, &agent.foreign);
        Err(format!("{host} has {is:?}, and its owners left {was:?}"))
    })
}
