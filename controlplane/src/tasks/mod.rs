//! # Leader tasks
//!
//! Work that one replica does for the cluster: the one that leads. A task is level-triggered: each
//! pass looks at the state as it is, and proposes what is missing; it remembers nothing between
//! passes but how long it has waited, so that it does not matter which replica makes the next one.
//!
//! ```text
//!   gains leadership ─► one loop per task: pass · wait for signal or timer · pass …
//!   loses it ─────────► the loops end; a pass in progress is dropped
//! ```
//! Two leaders may overlap for a moment. So commands of tasks carry the term in which they were
//! decided, and the state machine refuses those of an earlier one.

pub mod hold;
pub mod liveness;
pub mod members;
pub mod reaper;
pub mod retention;
pub mod services;
pub mod versions;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use ipnet::IpNet;
use romana_statemachine::{Millis, Term};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::raft::{ProposeError, Replica};

/// Longest wait for a proposal of a task.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Shortest pause between passes that changes of the state ask for.
const SETTLE: Duration = Duration::from_millis(20);

/// What a task has during its turn.
pub struct Turn {
    /// The replica that leads.
    pub replica: Replica,
    /// The term it leads in: goes into the commands.
    pub term: Term,
}

impl Turn {
    /// Log time: the clock that entries are stamped with.
    #[must_use]
    pub fn now(&self) -> Millis {
        self.replica.log_time()
    }

    /// Until when a proposal made now is waited for.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        Instant::now() + PROPOSE_TIMEOUT
    }
}

/// Work for the leader.
pub trait Task: Send + Sync + 'static {
    /// Its name, for logs; commands are proposed by `task:NAME`.
    fn name(&self) -> &'static str;

    /// Longest time between two passes.
    fn period(&self) -> Duration;

    /// Whether changes of the state ask for a pass, besides the timer.
    fn follows_state(&self) -> bool;

    /// Looks once, and proposes what is missing. Dropped at any await when leadership is lost.
    fn pass<'a>(&'a self, turn: &'a Turn) -> BoxFuture<'a, Result<(), ProposeError>>;
}

/// All tasks of every cluster; `services`: the ranges of services, as configured.
#[must_use]
pub fn standard(services: Vec<IpNet>) -> Vec<Arc<dyn Task>> {
    vec![
        Arc::new(hold::Hold::default()),
        Arc::new(liveness::Liveness::default()),
        Arc::new(members::Members),
        Arc::new(reaper::Reaper),
        Arc::new(retention::Retention),
        Arc::new(services::Services { ranges: services }),
        Arc::new(versions::Versions::default()),
    ]
}

/// Runs tasks while `replica` leads, until `stop`. Returns when all of them have ended.
pub async fn run(replica: Replica, tasks: Vec<Arc<dyn Task>>, stop: CancellationToken) {
    let mut leadership = replica.leadership();
    loop {
        let leads = *leadership.borrow_and_update();
        let turn = stop.child_token();
        let running = TaskTracker::new();
        if let Some(term) = leads {
            tracing::info!(term, tasks = tasks.len(), "leader tasks start");
            for task in &tasks {
                let (task, turn) = (Arc::clone(task), turn.clone());
                let held = Turn { replica: replica.clone(), term };
                running.spawn(async move {
                    tokio::select! {
                        () = turn.cancelled() => {}
                        () = repeat(&*task, &held) => {}
                    }
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
            tracing::info!(term, "leader tasks stop");
        }
        if ended {
            return;
        }
    }
}

async fn repeat(task: &dyn Task, turn: &Turn) {
    let mut changes = turn.replica.applied();
    // What the leader before acknowledged must be seen before anything is decided.
    while let Err(error) = turn.replica.linearize(turn.deadline()).await {
        tracing::debug!(task = task.name(), %error, "not begun yet");
    }
    loop {
        changes.borrow_and_update();
        if let Err(error) = task.pass(turn).await {
            // The next pass sees what became of it.
            tracing::warn!(task = task.name(), term = turn.term, %error, "pass not finished");
        }
        let wake = wait(&mut changes, task.follows_state());
        // Neither outcome matters: in both cases it is time to look.
        _ = timeout(task.period(), wake).await;
    }
}

async fn wait(changes: &mut watch::Receiver<u64>, follow: bool) {
    if follow {
        tokio::time::sleep(SETTLE).await;
        if changes.changed().await.is_ok() {
            return;
        }
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests;
