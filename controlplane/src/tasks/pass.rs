//! Level-triggered tasks: compare, propose the difference, wait.

use std::error::Error;
use std::time::Duration;

use futures_util::future::BoxFuture;
use romana_daemon::error::chain;
use romana_statemachine::Topic;
use tokio::time::sleep;

use super::{LeaderContext, Task, TaskError};

/// Minimum pause between passes triggered by changes of the state.
const SETTLE: Duration = Duration::from_millis(20);

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
            let mut wake = context.wake(P::TOPICS);
            let mut failed = None;
            loop {
                let problem = self.0.pass(context).await.err().map(|error| chain(&error));
                if let Some(why) = problem.as_ref().filter(|_| failed != problem) {
                    // The next pass sees the outcome.
                    tracing::warn!(
                        task = P::NAME,
                        term = context.term.get(),
                        why,
                        "leader task pass failed"
                    );
                }
                if failed != problem {
                    context.report("PassFailed", problem.clone());
                    failed = problem;
                }
                wake.changed(P::PERIOD).await;
                if !P::TOPICS.is_empty() {
                    sleep(SETTLE.min(P::PERIOD)).await;
                }
            }
        })
    }
}
