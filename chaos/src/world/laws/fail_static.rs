//! Law 4: an agent that has not caught up removes nothing.

use super::super::{Law, World};

pub(in super::super) const LAW: Law = Law {
    name: "fail-static",
    says: "before it has caught up, an agent changes and removes no route: it puts in what is missing",
    check,
};

fn check(world: &World) -> Result<(), String> {
    for agent in &world.agents {
        let Some((before, false)) = &agent.before else { continue };
        for (prefix, target) in before {
            // Routes removed by other programs are not the agent's doing.
            let now = agent.kernel.ours.get(prefix);
            if now.is_some_and(|now| now != target) || now.is_none() && !agent.lost.contains(prefix)
            {
                return Err(format!("{} had {prefix} to {target:?}, now {now:?}", agent.host));
            }
        }
    }
    Ok(())
}
