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
    /// Print what was decided, oldest first
    Log(log::Log),
    /// Who held an address, when, where, and who asked for it
    Who(who::Who),
    /// The whole state as it was at some point
    State(state::State),
    /// What changed from one point to another
    Diff(diff::Diff),
    /// Have every replica check its whole history, and compare them
    Verify,
    /// Write the history to a file that anybody can check and replay
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
