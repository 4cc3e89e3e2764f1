//! # Leader tasks
//!
//! Work that the leader does for the cluster. A [`Task`] is a long-running function of a [`LeaderContext`]: it starts
//! when the replica leads and has applied everything that the previous leader acknowledged, and is dropped at any
//! await when the replica no longer leads.
//!
//! ```text
//!   gains leadership ─► linearize ─► one run per task ─► ends? logged, and restarted after a pause
//!   loses it ─────────► the runs are dropped
//! ```
//! Most tasks are a [`Pass`]: level-triggered, they compare the state with what it should be and propose the
//! difference; [`Passes`] repeats a pass by timer and when selected topics change. They keep no state between passes
//! except waiting times, so it does not matter which replica runs the next one.
//!
//! Two leaders may overlap briefly. So commands of tasks carry the term in which they were decided, and the
//! state machine refuses those of an earlier term. A task that changes something outside the log calls
//! [`LeaderContext::confirm`] first.

mod context;
pub mod hold;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
#[cfg(feature = "kubernetes")]
mod kubernetes_services;
pub mod liveness;
pub mod members;
mod pass;
pub mod reaper;
pub mod retention;
pub mod services;
pub mod versions;
pub mod vips;

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

/// Back-off before an ended task restarts: the first pause and the longest; it doubles in between.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Why a task ended. Each task has its own error types.
pub type TaskError = Box<dyn std::error::Error + Send + Sync>;

/// Work done by the leader.
pub trait Task: Send + Sync + 'static {
    /// The task's name in logs, metrics and problems; its commands are proposed as `task:NAME`.
    fn name(&self) -> &'static str;

    /// Runs until leadership is lost. If it returns earlier, it is restarted after a pause, and its error is listed
    /// in the problems of this replica until the task has run for as long as that pause.
    fn run<'a>(&'a self, context: &'a mut LeaderContext) -> BoxFuture<'a, Result<(), TaskError>>;
}

/// All tasks of every cluster; `services`: the configured service ranges.
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
        Arc::new(vips::Vips),
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

/// Runs one task, and restarts it whenever it ends.
async fn keep(task: &dyn Task, mut context: LeaderContext) {
    // Apply everything that the previous leader acknowledged before the first decision.
    while let Err(error) = context.confirm().await {
        tracing::debug!(task = task.name(), %error, "leader task cannot start yet");
    }
    let (replica, term) = (context.replica.clone(), context.term);
    let problem = |what| replica.health().problems().set(task.name(), "TaskEnded", what);
    let mut pause = PAUSE_MIN;
    loop {
        // Unwind safe: a panic can only interrupt changes of the context, which holds no state, and of locked data.
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
