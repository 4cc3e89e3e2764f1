//! Brings Raft's membership to what the state says, one change at a time.

use std::time::Duration;

use futures_util::future::BoxFuture;

use super::{Task, Turn};
use crate::raft::{ProposeError, next_change};

/// How often it looks.
const PERIOD: Duration = Duration::from_millis(500);

/// The task that changes the membership.
#[derive(Debug)]
pub struct Members;

impl Task for Members {
    fn name(&self) -> &'static str {
        "members"
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    fn follows_state(&self) -> bool {
        false
    }

    fn pass<'a>(&'a self, turn: &'a Turn) -> BoxFuture<'a, Result<(), ProposeError>> {
        Box::pin(async move {
            let replica = &turn.replica;
            let (membership, status) = (replica.membership(), replica.status());
            let Some(change) = next_change(&replica.state(), &membership, &status) else {
                return Ok(());
            };
            match replica.change(change.clone(), turn.deadline()).await {
                Ok(()) => tracing::info!(%change, "membership changed"),
                // The next pass sees what became of it.
                Err(why) => tracing::warn!(%change, why, "membership not changed"),
            }
            Ok(())
        })
    }
}
