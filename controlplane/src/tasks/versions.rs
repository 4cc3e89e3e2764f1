//! Raises the version of behaviour when every member's program knows the next one.
//!
//! This is how a rolling upgrade ends: replicas are replaced one by one while the old version is in
//! force, and the last one switches the new one on, in the log, for all at the same entry.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use futures_util::future::BoxFuture;
use romana_statemachine::command::RaiseVersion;
use romana_statemachine::{Actor, Command, Proposal, VERSION_MAX};

use super::{Task, Turn};
use crate::raft::{Facts, ProposeError};

/// How often it asks while there is a version to raise to.
const PERIOD: Duration = Duration::from_secs(1);
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// The task that raises the version.
#[derive(Debug)]
pub struct Versions;

impl Task for Versions {
    fn name(&self) -> &'static str {
        "versions"
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    fn follows_state(&self) -> bool {
        false
    }

    fn pass<'a>(&'a self, turn: &'a Turn) -> BoxFuture<'a, Result<(), ProposeError>> {
        Box::pin(async move {
            let facts = match turn.replica.with_state(romana_statemachine::State::version) {
                VERSION_MAX.. => return Ok(()),
                _ => turn.replica.facts(ASK_TIMEOUT).await,
            };
            while raise(turn, &facts).await? {}
            Ok(())
        })
    }
}

/// Raises the version by one, if all members know the next one. Whether it did.
async fn raise(
    turn: &Turn,
    facts: &BTreeMap<u64, io::Result<Facts>>,
) -> Result<bool, ProposeError> {
    let current = turn.replica.with_state(romana_statemachine::State::version);
    if current >= VERSION_MAX {
        return Ok(false);
    }
    for (id, facts) in facts {
        match facts {
            Ok(facts) if facts.version_max > current => {}
            Ok(facts) => {
                let knows = facts.version_max;
                tracing::info!(current, id, knows, "version not raised: a member is older");
                return Ok(false);
            }
            Err(error) => {
                tracing::debug!(current, id, %error, "version not raised: no answer");
                return Ok(false);
            }
        }
    }
    let command = Command::RaiseVersion(RaiseVersion { version: current + 1 });
    let proposal = Proposal { actor: Actor::from("task:versions"), command };
    let outcomes = turn.replica.propose(vec![proposal], turn.deadline()).await?;
    match outcomes.into_iter().next().map(|outcome| outcome.result) {
        // The founder of a new cluster raises it as well: whoever comes second finds it done.
        Some(Err(refusal)) if refusal.is_raised_already() => Ok(true),
        Some(Err(refusal)) => {
            tracing::warn!(%refusal, "the version was not raised");
            Ok(false)
        }
        _ => {
            tracing::info!(version = current + 1, "version raised");
            Ok(true)
        }
    }
}
