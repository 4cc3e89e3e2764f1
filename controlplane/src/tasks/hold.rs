//! Ends the hold on allocations after a restore once the configured time has passed.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use romana_replica::ProposeError;
use romana_statemachine::command::EndHold;
use romana_statemachine::{Command, Revision, Term};
use tokio::time::Instant;

use super::{LeaderContext, Pass};

/// Interval between passes.
const PERIOD: Duration = Duration::from_millis(500);

/// The task that ends the hold. A new leader waits for the whole time again, because waiting is safe.
#[derive(Debug, Default)]
pub struct Hold {
    /// The current hold with its term, and when it was first seen.
    begun: Mutex<Option<((Term, Revision), Instant)>>,
}

impl Pass for Hold {
    type Error = ProposeError;

    const NAME: &'static str = "hold";
    const PERIOD: Duration = PERIOD;

    fn pass<'a>(&'a self, context: &'a LeaderContext) -> BoxFuture<'a, Result<(), ProposeError>> {
        Box::pin(async move {
            let command = Command::EndHold(EndHold { term: context.term });
            let (held, longest, known) = context.replica.with_state(|state| {
                let held = state.held().map(|held| (held.since, held.waiting.len()));
                (held, state.agent_settings().restore_hold_max_ms, state.knows(&command))
            });
            let Some((since, waiting)) = held else { return Ok(()) };
            let begun = {
                let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
                let which = (context.term, since);
                let known = begun.filter(|(known, _)| *known == which);
                begun.insert(known.unwrap_or_else(|| (which, Instant::now()))).1
            };
            if !known || longest == 0 || begun.elapsed() < Duration::from_millis(longest) {
                return Ok(());
            }
            context.propose([command]).await?;
            tracing::warn!(waiting, longest, "allocation resumes without reports from all hosts");
            Ok(())
        })
    }
}
