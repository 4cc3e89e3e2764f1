//! Reconciles Raft's membership with the state, one change at a time.

use std::time::Duration;

use futures_util::future::BoxFuture;
use romana_replica::{ProposeError, next_change};

use super::{LeaderContext, Pass};

/// Interval between passes.
const PERIOD: Duration = Duration::from_millis(500);

/// The task that changes the membership.
#[derive(Debug)]
pub struct Members;

impl Pass for Members {
    type Error = ProposeError;

    const NAME: &'static str = "members";
    const PERIOD: Duration = PERIOD;

    fn pass<'a>(&'a self, context: &'a LeaderContext) -> BoxFuture<'a, Result<(), ProposeError>> {
        Box::pin(async move {
            let replica = &context.replica;
            let (membership, status) = (replica.members().membership(), replica.members().status());
            let Some(change) = next_change(&replica.state(), &membership, &status) else {
                context.report("MembershipNotChanged", None);
                return Ok(());
            };
            match replica.members().change(change.clone(), context.deadline()).await {
                Ok(()) => {
                    tracing::info!(%change, "membership changed");
                    context.report("MembershipNotChanged", None);
                }
                // The next pass sees the outcome.
                Err(why) => {
                    context.report("MembershipNotChanged", Some(format!("{change}: {why}")));
                }
            }
            Ok(())
        })
    }
}
