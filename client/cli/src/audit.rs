//! `romana audit`: queries on the history. One file per verb.

mod diff;
mod export;
mod log;
pub(crate) mod moment;
mod replay;
mod show;
mod state;
mod verify;
mod who;

use std::time::Duration;

use clap::Subcommand;

use crate::context::Context;
use crate::failure::Failure;

/// Timeout of queries that read the whole history, unless --timeout is given.
const PATIENCE: Duration = Duration::from_secs(600);

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print the events of the history, oldest first
    Log(log::Log),
    /// Show who held an address: when, on which host, and who requested it
    Who(who::Who),
    /// Show the whole state as it was at a revision or time
    State(state::State),
    /// Show what changed between two revisions or times
    Diff(diff::Diff),
    /// Have every replica verify its whole history, and compare the results
    Verify,
    /// Write the history to a file that can be checked and replayed without a server
    Export(export::Export),
    /// Check an exported history and rebuild the state from it, without a server
    Replay(replay::Replay),
}

impl Command {
    pub(crate) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        match self {
            Self::Log(log) => log.run(ctx).await,
            Self::Who(who) => who.run(ctx).await,
            Self::State(state) => state.run(ctx).await,
            Self::Diff(diff) => diff.run(ctx).await,
            Self::Verify => verify::run(ctx).await,
            Self::Export(export) => export.run(ctx).await,
            Self::Replay(replay) => replay.run(ctx.out).await,
        }
    }
}
