//! Incremental compilation gives the same result as compiling from scratch: the meaning of a
//! policy does not depend on how the agent learned about it. (The effect of rules on packets is
//! tested in `agent/tests/policy`.)

use romana_agent::policy::compile::Compiler;
use romana_agent::policy::options::Options;

use super::super::{Law, World};

pub(in super::super) const LAW: Law = Law {
    name: "policy",
    says: "an agent's filter, made step by step, is the one that its view leads to at once",
    check,
};

fn check(world: &World) -> Result<(), String> {
    if !world.quiet {
        return Ok(());
    }
    for agent in &world.agents {
        let (Some(compiler), Some(known)) = (&agent.compiler, agent.policy()) else { continue };
        let mut fresh = Compiler::new(&known, Options::default());
        fresh.update(known);
        if fresh.filter() != compiler.filter() {
            return Err(format!("the filter of {} depends on how it was made", agent.host));
        }
    }
    Ok(())
}
