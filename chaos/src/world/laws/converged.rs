//! When everything is delivered and nothing fails, every kernel is in the desired state, and every packet
//! for an address reaches its host.

use romana_agent::routes::Target;

use super::super::agent::wanted;
use super::super::{Agent, Law, World};

pub(in super::super) const LAW: Law = Law {
    name: "converged",
    says: "after all was heard each kernel holds the planned routes, and each address is reached at its host",
    check,
};

fn check(world: &World) -> Result<(), String> {
    if !world.quiet {
        return Ok(());
    }
    for agent in &world.agents {
        let (host, state) = (&agent.host, world.state());
        if !agent.is_current(state) {
            return Err(format!("{host} knows {} of {}", agent.view.revision(), state.revision()));
        }
        let wanted = wanted(&agent.view);
        if agent.kernel.ours != wanted {
            return Err(format!("{host} has {:?}, and wants {wanted:?}", agent.kernel.ours));
        }
        reached(world, agent)?;
    }
    Ok(())
}

/// Follows the longest matching prefix for each address, using the hosts in the log.
fn reached(world: &World, agent: &Agent) -> Result<(), String> {
    let state = world.state();
    for held in state.ipam().addresses_after(None) {
        let routes = agent.kernel.ours.iter().filter(|(prefix, _)| prefix.contains(&held.ip));
        let best = routes.max_by_key(|(prefix, _)| prefix.prefix_len()).map(|(_, target)| target);
        let Some(owner) = state.host(&held.host) else {
            return Err(format!("{} is on {}, which is no host", held.ip, held.host));
        };
        let there = |ip: &std::net::IpAddr| owner.ip == *ip || owner.addresses.contains(ip);
        let right = match best {
            Some(Target::Via(hops)) => {
                hops.iter().all(|hop| there(&hop.via)) && held.host != agent.host
            }
            Some(Target::Unreachable) => held.host == agent.host,
            // A host's own block of one address has no route of ours.
            None => held.host == agent.host,
        };
        if !right {
            let (ip, host) = (held.ip, &held.host);
            return Err(format!("on {} the way to {ip} of {host} is {best:?}", agent.host));
        }
    }
    Ok(())
}
