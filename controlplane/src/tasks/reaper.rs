//! Ends cool-downs: frees released addresses, and returns empty blocks to their groups.

use std::time::Duration;

use futures_util::future::BoxFuture;
use romana_replica::ProposeError;
use romana_statemachine::command::EndCooldowns;
use romana_statemachine::{Command, Refusal};

use super::{LeaderContext, Pass};

/// Interval between passes: bounds the delay of a cool-down's end.
const PERIOD: Duration = Duration::from_millis(250);
/// Maximum commands per pass; each returns a bounded number of blocks.
const COMMANDS_MAX: usize = 64;

/// The task that ends cool-downs.
#[derive(Debug)]
pub struct Reaper;

impl Pass for Reaper {
    type Error = ProposeError;

    const NAME: &'static str = "reaper";
    const PERIOD: Duration = PERIOD;

    fn pass<'a>(&'a self, context: &'a LeaderContext) -> BoxFuture<'a, Result<(), ProposeError>> {
        Box::pin(async move {
            for _ in 0..COMMANDS_MAX {
                let now = context.now();
                if !context.replica.with_state(|state| state.cooldowns_due(now)) {
                    return Ok(());
                }
                let command = Command::EndCooldowns(EndCooldowns { term: context.term });
                let outcomes = context.propose([command]).await?;
                match outcomes.into_iter().next().map(|outcome| outcome.result) {
                    // Another replica leads by now and continues.
                    Some(Err(Refusal::StaleTerm { .. })) => return Ok(()),
                    Some(Err(refusal)) => {
                        tracing::error!(%refusal, "cannot end cool-downs");
                        return Ok(());
                    }
                    _ => {}
                }
            }
            Ok(())
        })
    }
}
