//! Keeps the ranges of services that this replica is configured with in the log, so that no network, host or endpoint
//! gets their addresses: a range that is set later, or on a cluster from before version 4, counts as well.

use std::time::Duration;

use futures_util::future::BoxFuture;
use ipnet::IpNet;
use romana_statemachine::address::ReserveServices;
use romana_statemachine::{Actor, Command, Proposal, State};

use super::{Task, Turn};
use crate::raft::ProposeError;

/// How often it looks.
const PERIOD: Duration = Duration::from_secs(5);

/// The task that reserves the ranges of services.
#[derive(Debug)]
pub struct Services {
    /// As configured; empty: whatever the log has stays.
    pub ranges: Vec<IpNet>,
}

impl Services {
    fn missing(&self, state: &State) -> bool {
        let kept: Vec<IpNet> = state.service_ranges().collect();
        state.version() >= 4 && self.ranges.iter().any(|range| !kept.contains(range))
    }
}

impl Task for Services {
    fn name(&self) -> &'static str {
        "services"
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    fn follows_state(&self) -> bool {
        false
    }

    fn pass<'a>(&'a self, turn: &'a Turn) -> BoxFuture<'a, Result<(), ProposeError>> {
        Box::pin(async move {
            if !turn.replica.with_state(|state| self.missing(state)) {
                return Ok(());
            }
            let ranges = self.ranges.iter().map(ToString::to_string).collect();
            let command = Command::ReserveServices(ReserveServices { ranges });
            let proposal = Proposal { actor: Actor::from("task:services"), command };
            let outcomes = turn.replica.propose(vec![proposal], turn.deadline()).await?;
            if let Some(Err(refusal)) = outcomes.into_iter().next().map(|outcome| outcome.result) {
                let hint = refusal.hint();
                tracing::warn!(%refusal, hint, "service_cluster_ip_range is not kept for services");
            }
            Ok(())
        })
    }
}
