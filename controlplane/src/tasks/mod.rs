//! # Leader tasks
//!
//! Work that one replica does for the cluster: the one that leads. A [`Task`] is a long-running
//! function of a [`LeaderContext`]: it begins when the replica leads and has seen everything that the leader
//! before acknowledged, and is dropped at any await when the replica no longer leads.
//!
//! ```text
//!   gains leadership ─► linearize ─► one run per task ─► ends? said, and begun again after a pause
//!   loses it ─────────► the runs are dropped
//! ```
//! Most tasks are a [`Pass`]: level-triggered, they look at the state as it is and propose what is missing;
//! [`Passes`] repeats one by timer and when chosen topics change. They remember nothing between passes but how
//! long they have waited, so that it does not matter which replica makes the next one.
//!
//! Two leaders may overlap for a moment. So commands of tasks carry the term in which they were decided, and the
//! state machine refuses those of an earlier one. A task that changes something outside the log asks
//! [`LeaderContext::confirm`] before.

mod context;
pub mod hold;
pub mod liveness;
pub mod members;
mod pass;
pub mod reaper;
pub mod retention;
pub mod services;
pub mod versions;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use ipnet::IpNet;
use romana_daemon::error::chain;
use romana_replica::Replica;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use context::{LeaderContext, NotLeading, Wake};
pub use pass::{Pass, Passes};

/// Pause before a task that ended is begun again: the first one, and the longest; it doubles in between.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Why a task ended. Each has error types of its own.
pub type TaskError = Box<dyn std::error::Error + Send + Sync>;

/// Work for the leader.
pub trait Task: Send + Sync + 'static {
    /// Its name, for logs, metrics and problems; its commands are proposed by `task:NAME`.
    fn name(&self) -> &'static str;

    /// Runs until leadership is lost. One that returns before is begun again after a pause, and its error stands
    /// among the problems of this replica until the task has run for as long as that.
    fn run<'a>(&'a self, context: &'a mut LeaderContext) -> BoxFuture<'a, Result<(), TaskError>>;
}

/// All tasks of every cluster; `services`: the ranges of services, as configured.
#[must_use]
pub fn standard(services: Vec<IpNet>) -> Vec<Arc<dyn Task>> {
    vec![
        Arc::new(Passes(hold::Hold::default())),
        Arc::new(Passes(liveness::Liveness::default())),
        Arc::new(Passes(members::Members)),
        Arc::new(Passes(reaper::Reaper)),
        Arc::new(Passes(retention::Retention)),
        Arc::new(Passes(services::Services { ranges: services })),
        Arc::new(Passes(versions::Versions::default())),
    ]
}

/// Runs tasks while `replica` leads, until `stop`. Returns when all of them have ended.
pub async fn run(replica: Replica, tasks: Vec<Arc<dyn Task>>, stop: CancellationToken) {
    let mut leadership = replica.leadership().watch();
    loop {
        let leads = *leadership.borrow_and_update();
        let turn = stop.child_token();
        let running = TaskTracker::new();
        if let Some(term) = leads {
            tracing::info!(term = term.get(), tasks = tasks.len(), "leader tasks start");
            for task in &tasks {
                let (task, turn) = (Arc::clone(task), turn.clone());
                let context = LeaderContext::new(replica.clone(), term, task.name());
                running.spawn(async move {
                    turn.run_until_cancelled(keep(&*task, context)).await;
                });
            }
        }
        let ended = tokio::select! {
            () = stop.cancelled() => true,
            changed = leadership.changed() => changed.is_err(),
        };
        turn.cancel();
        running.close();
        running.wait().await;
        if let Some(term) = leads {
            tracing::info!(term = term.get(), "leader tasks stop");
        }
        if ended {
            return;
        }
    }
}

/// Runs one task, and again whenever it ends.
async fn keep(task: &dyn Task, mut context: LeaderContext) {
    // What the leader before acknowledged must be seen before anything is decided.
    while let Err(error) = context.confirm().await {
        tracing::debug!(task = task.name(), %error, "leader task cannot start yet");
    }
    let (replica, term) = (context.replica.clone(), context.term);
    let problem = |what| replica.health().problems().set(task.name(), "TaskEnded", what);
    let mut pause = PAUSE_MIN;
    loop {
        // What a panic leaves half done is the context, which has no state of its own, and what is locked.
        let run = AssertUnwindSafe(task.run(&mut context)).catch_unwind();
        let mut run = std::pin::pin!(run);
        let ended = match timeout(PAUSE_MAX, run.as_mut()).await {
            Ok(ended) => ended,
            Err(_) => {
                problem(None);
                pause = PAUSE_MIN;
                run.await
            }
        };
        let why = match ended {
            Ok(Ok(())) => "it ended".to_owned(),
            Ok(Err(error)) => chain(&*error),
            Err(_) => "it panicked: the log says where".to_owned(),
        };
        tracing::error!(
            task = task.name(),
            term = term.get(),
            why,
            ?pause,
            "leader task ended: restarting it"
        );
        problem(Some(why));
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

#[cfg(test)]
mod tests;
