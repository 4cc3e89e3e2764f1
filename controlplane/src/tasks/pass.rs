//! Level-triggered tasks: compare, propose the difference, wait.

use std::error::Error;
use std::time::Duration;

use futures_util::future::BoxFuture;
use romana_daemon::error::chain;
use romana_daemon::reconcile::{self, Reconcile, Schedule};
use romana_statemachine::Topic;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{LeaderContext, Task, TaskError, Wake};

/// Minimum pause between passes triggered by changes of the state.
const SETTLE: Duration = Duration::from_millis(20);
/// Back-off after failed passes: the first pause, and the longest unless the period is longer.
const RETRY: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(15);

/// Code of the problem that a pass failed.
pub(super) const PASS_FAILED: &str = "PassFailed";

/// Work done in passes.
pub trait Pass: Send + Sync + 'static {
    /// Why a pass failed.
    type Error: Error + Send + Sync + 'static;

    /// The task's name.
    const NAME: &'static str;

    /// Maximum time between two passes.
    const PERIOD: Duration;

    /// Topics whose changes trigger a pass, in addition to the timer.
    const TOPICS: &'static [Topic] = &[];

    /// Runs one pass: reads the state and proposes what is missing. Dropped at any await when leadership is lost.
    fn pass<'a>(&'a self, context: &'a LeaderContext) -> BoxFuture<'a, Result<(), Self::Error>>;
}

/// A task that repeats passes.
#[derive(Debug, Default)]
pub struct Passes<P>(pub P);

impl<P: Pass> Task for Passes<P> {
    fn name(&self) -> &'static str {
        P::NAME
    }

    fn run<'a>(&'a self, context: &'a mut LeaderContext) -> BoxFuture<'a, Result<(), TaskError>> {
        Box::pin(async move {
            let context = &*context;
            let passes = Repeated { pass: &self.0, context, wake: context.wake(P::TOPICS) };
            let schedule = Schedule {
                period: Some(P::PERIOD),
                retry: RETRY.min(P::PERIOD),
                retry_max: RETRY_MAX.max(P::PERIOD),
            };
            // The task is dropped when the replica no longer leads.
            let stop = CancellationToken::new();
            reconcile::run(passes, schedule, context.problems(), stop).await;
            Ok(())
        })
    }
}

/// A pass, and what triggers it.
struct Repeated<'a, P> {
    pass: &'a P,
    context: &'a LeaderContext,
    wake: Wake,
}

impl<P: Pass> Reconcile for Repeated<'_, P> {
    const PART: &'static str = P::NAME;
    const CODE: &'static str = PASS_FAILED;

    async fn pass(&mut self) -> reconcile::Pass {
        match self.pass.pass(self.context).await {
            Ok(()) => reconcile::Pass::default(),
            Err(error) => reconcile::Pass::failed(chain(&error)),
        }
    }

    async fn wake(&mut self) {
        self.wake.changed(Duration::MAX).await;
        sleep(SETTLE.min(P::PERIOD)).await;
    }
}
