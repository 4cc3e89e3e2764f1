//! Reconciles the configured service ranges into the log, so that no network, host or endpoint gets their addresses:
//! including ranges that are configured later, or on a cluster from before version 4.

use std::time::Duration;

use futures_util::future::BoxFuture;
use ipnet::IpNet;
use romana_replica::ProposeError;
use romana_statemachine::command::ReserveServices;
use romana_statemachine::{Command, State};

use super::{LeaderContext, Pass};

/// Interval between passes.
const PERIOD: Duration = Duration::from_secs(5);

/// The task that reserves the service ranges.
#[derive(Debug)]
pub struct Services {
    /// The configured ranges; empty: the ranges in the log stay.
    pub ranges: Vec<IpNet>,
}

impl Services {
    fn missing(&self, state: &State) -> bool {
        let kept: Vec<IpNet> = state.service_ranges().collect();
        self.ranges.iter().any(|range| !kept.contains(range))
    }
}

impl Pass for Services {
    type Error = ProposeError;

    const NAME: &'static str = "services";
    const PERIOD: Duration = PERIOD;

    fn pass<'a>(&'a self, context: &'a LeaderContext) -> BoxFuture<'a, Result<(), ProposeError>> {
        Box::pin(async move {
            let ranges = self.ranges.iter().map(ToString::to_string).collect();
            let command = Command::ReserveServices(ReserveServices { ranges });
            let wanted = |state: &State| state.knows(&command) && self.missing(state);
            if !context.replica.with_state(wanted) {
                context.report("ServiceRangeNotReserved", None);
                return Ok(());
            }
            let outcomes = context.propose([command]).await?;
            let refused = outcomes.into_iter().find_map(|outcome| outcome.result.err());
            let what = refused.map(|refusal| {
                format!(
                    "service_cluster_ip_range is not kept for services: {refusal} ({})",
                    refusal.hint()
                )
            });
            context.report("ServiceRangeNotReserved", what);
            Ok(())
        })
    }
}
