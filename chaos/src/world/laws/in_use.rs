//! Law 1 as seen by the hosts: an address in use by a container is not allocated to another.

use super::super::{Law, World};

pub(in super::super) const LAW: Law = Law {
    name: "in-use",
    says: "an address that a container has belongs to that container in the log",
    check,
};

fn check(world: &World) -> Result<(), String> {
    for agent in &world.agents {
        for (name, ip) in &agent.running {
            let holder = world.state().ipam().by_ip(*ip);
            if holder
                .as_ref()
                .is_none_or(|holder| holder.name != *name || holder.host != agent.host)
            {
                let host = &agent.host;
                return Err(format!(
                    "{ip} is used by {name} on {host}, and the log has {holder:?}"
                ));
            }
        }
    }
    Ok(())
}
