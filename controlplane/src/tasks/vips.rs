//! Decides which host has each virtual IP, and proposes the moves.
//!
//! What is decided is pure ([`romana_statemachine::lease`]): which move is wanted, and whether the grant of the last
//! holder is over. This task only repeats it: when the state changes, when a host gives an address up, and by timer.

use std::time::Duration;

use futures_util::future::BoxFuture;
use romana_statemachine::command::PlaceVip;
use romana_statemachine::name::HostName;
use romana_statemachine::{Command, Refusal, State, Topic, plural, version};

use super::{LeaderContext, Task, TaskError};

/// Interval between passes while there are VIPs: how late the end of a grant is noticed at most.
const PERIOD: Duration = Duration::from_millis(25);
/// The same without VIPs.
const IDLE: Duration = Duration::from_secs(5);
/// Moves proposed at once.
const MOVES_MAX: usize = 256;
/// Changes of these can change where a VIP goes.
const TOPICS: &[Topic] = &[Topic::Topology, Topic::Hosts, Topic::Vips];

/// The task that places virtual IPs.
#[derive(Debug, Default)]
pub struct Vips;

impl Task for Vips {
    fn name(&self) -> &'static str {
        "vips"
    }

    fn run<'a>(&'a self, context: &'a mut LeaderContext) -> BoxFuture<'a, Result<(), TaskError>> {
        Box::pin(async move {
            let mut wake = context.wake(TOPICS);
            loop {
                let serves = |state: &State| {
                    let any = state.vips().next().is_some();
                    any && state.version() >= version::VIP_PLACEMENT
                };
                let serves = context.replica.with_state(serves);
                if serves {
                    pass(context).await;
                }
                let vips = context.replica.vips();
                tokio::select! {
                    () = wake.changed(if serves { PERIOD } else { IDLE }) => {}
                    () = vips.given_up() => {}
                }
            }
        })
    }
}

/// Proposes the moves that are due.
async fn pass(context: &LeaderContext) {
    let mut moves = context.replica.vips().step(context.term);
    moves.truncate(MOVES_MAX);
    if moves.is_empty() {
        return;
    }
    let outcomes = match context.propose(moves.iter().cloned().map(Command::PlaceVip)).await {
        Ok(outcomes) => outcomes,
        // The moves may be committed later: their addresses stay barred until a later pass knows.
        Err(error) => {
            let moves = plural(moves.len(), "VIP");
            tracing::warn!(term = context.term.get(), %error, "cannot move VIPs");
            context.report("VipsNotMoved", Some(format!("cannot move {moves}: {error}")));
            return;
        }
    };
    context.report("VipsNotMoved", None);
    for (place, outcome) in moves.iter().zip(outcomes) {
        context.replica.vips().decided(context.term, place);
        let PlaceVip { name, from, to, reason, .. } = place;
        match outcome.result {
            Ok(_) => {
                let (from, to) = (from.as_ref(), to.as_ref());
                let (from, to) = (from.map(HostName::as_str), to.map(HostName::as_str));
                tracing::info!(vip = %name, from, to, %reason, "VIP moved");
            }
            // Another replica leads by now, or an operator changed the VIP or the host since.
            Err(
                Refusal::StaleTerm { .. }
                | Refusal::VipNotFound { .. }
                | Refusal::VipHolderDiffers { .. }
                | Refusal::HostNotFound { .. }
                | Refusal::HostNotCandidate { .. },
            ) => {}
            Err(refusal) => tracing::error!(vip = %name, %refusal, "cannot move the VIP"),
        }
    }
}
