//! The context of a leader task while its replica leads.

use std::time::Duration;

use romana_daemon::problems::Problems;
use romana_replica::{ProposeError, Replica, TopicRevisions};
use romana_statemachine::{Actor, Command, Millis, Outcome, Proposal, Revision, Term, Topic};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// Longest wait for a task's proposal, and for a majority to confirm leadership.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The replica no longer leads in the task's term, or cannot confirm it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this replica does not lead in term {term} any more, as far as a majority confirms: {why}")]
pub struct NotLeading {
    term: Term,
    why: String,
}

/// The interface of a leader task: the state, proposals, log time, wake-ups and problem reports.
pub struct LeaderContext {
    /// The leading replica.
    pub replica: Replica,
    /// The term in which it leads; included in the commands.
    pub term: Term,
    task: &'static str,
}

impl LeaderContext {
    pub(crate) fn new(replica: Replica, term: Term, task: &'static str) -> Self {
        Self { replica, term, task }
    }

    /// Log time: the clock of entry timestamps.
    #[must_use]
    pub fn now(&self) -> Millis {
        self.replica.clocks().log_time()
    }

    /// Deadline of a proposal made now.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        Instant::now() + PROPOSE_TIMEOUT
    }

    /// Proposes commands as this task. Returns one outcome each.
    ///
    /// # Errors
    /// [`ProposeError`]: nothing happened, or the outcome is unknown. The next read of the state tells.
    pub async fn propose(
        &self,
        commands: impl IntoIterator<Item = Command>,
    ) -> Result<Vec<Outcome>, ProposeError> {
        let actor = Actor::from(format!("task:{}", self.task));
        let proposals = commands
            .into_iter()
            .map(|command| Proposal { actor: actor.clone(), command })
            .collect::<Vec<_>>();
        if proposals.is_empty() {
            return Ok(Vec::new());
        }
        self.replica.propose(proposals, self.deadline()).await
    }

    /// Confirms with a majority that this replica still leads in the task's term, and waits until it has applied
    /// everything that was acknowledged. Call it before changing anything outside the log. It holds only up to that
    /// moment: external changes must tolerate that a new leader repeats them shortly afterwards.
    ///
    /// # Errors
    /// [`NotLeading`]: it does not lead, or no majority confirms it.
    pub async fn confirm(&self) -> Result<(), NotLeading> {
        let not = |why: String| NotLeading { term: self.term, why };
        self.replica
            .reads()
            .linearize(self.deadline())
            .await
            .map_err(|error| not(error.to_string()))?;
        let leads = *self.replica.leadership().watch().borrow();
        match leads {
            Some(term) if term == self.term => Ok(()),
            Some(term) => Err(not(format!("it leads in term {term}"))),
            None => Err(not("another one leads".into())),
        }
    }

    /// A wake-up for changes of these topics from now on.
    #[must_use]
    pub fn wake(&self, topics: &'static [Topic]) -> Wake {
        let changes = self.replica.reads().topics();
        let seen = changes.borrow().newest(topics);
        Wake { topics, changes, seen }
    }

    /// Sets a problem of this task, or clears it (`None`). `code` is stable and in CamelCase. Shown by `/v1/cluster`,
    /// the doctor and the metrics of this replica until it no longer leads.
    pub fn report(&self, code: &'static str, problem: Option<String>) {
        self.replica.health().problems().set(self.task, code, problem);
    }

    /// Where this task's reconcile loop reports its problems.
    pub(super) fn problems(&self) -> Problems {
        self.replica.health().problems().clone()
    }
}

impl Drop for LeaderContext {
    fn drop(&mut self) {
        self.replica.health().problems().forget(self.task);
    }
}

/// Waits for changes of topics.
#[derive(Debug)]
pub struct Wake {
    topics: &'static [Topic],
    changes: watch::Receiver<TopicRevisions>,
    seen: Revision,
}

impl Wake {
    /// Waits until one of the topics has changed since the last call, or for `longest`. Returns at once if a topic
    /// changed between two calls.
    pub async fn changed(&mut self, longest: Duration) {
        let Self { topics, changes, seen } = self;
        let newer = async {
            let newest = changes.wait_for(|changes| changes.newest(topics) > *seen).await;
            newest.map(|changes| changes.newest(topics)).ok()
        };
        match timeout(longest, newer).await {
            Ok(Some(newest)) => *seen = newest,
            // The replica has stopped, and this task is about to be dropped.
            Ok(None) => std::future::pending().await,
            Err(_) => {}
        }
    }
}
