//! What a leader task has while its replica leads.

use std::time::Duration;

use romana_replica::{ProposeError, Replica, TopicRevisions};
use romana_statemachine::{Actor, Command, Millis, Outcome, Proposal, Revision, Term, Topic};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// Longest wait for a proposal of a task, and for a majority to confirm that the replica leads.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The replica does not lead in the term of the task any more, or cannot tell.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this replica does not lead in term {term} any more, as far as a majority confirms: {why}")]
pub struct NotLeading {
    term: Term,
    why: String,
}

/// The state, a way to change it, log time, wake-ups and a place for problems: all that a leader task has.
pub struct LeaderContext {
    /// The replica that leads.
    pub replica: Replica,
    /// The term it leads in: goes into the commands.
    pub term: Term,
    task: &'static str,
}

impl LeaderContext {
    pub(crate) fn new(replica: Replica, term: Term, task: &'static str) -> Self {
        Self { replica, term, task }
    }

    /// Log time: the clock that entries are stamped with.
    #[must_use]
    pub fn now(&self) -> Millis {
        self.replica.clocks().log_time()
    }

    /// Until when a proposal made now is waited for.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        Instant::now() + PROPOSE_TIMEOUT
    }

    /// Proposes commands in the task's name. One outcome for each.
    ///
    /// # Errors
    /// [`ProposeError`]: nothing happened, or it is unknown. The next look at the state tells.
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

    /// Asks a majority whether this replica still leads in the task's term, and waits until it has seen everything
    /// that was acknowledged. Before anything outside the log is changed, and only then for certain until then: what
    /// is outside must bear that a new leader does the same a moment later.
    ///
    /// # Errors
    /// [`NotLeading`]: it does not, or nobody confirms it.
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

    /// Wakes when topics change from now on.
    #[must_use]
    pub fn wake(&self, topics: &'static [Topic]) -> Wake {
        let changes = self.replica.reads().topics();
        let seen = changes.borrow().newest(topics);
        Wake { topics, changes, seen }
    }

    /// Says what is wrong with the task's work, or that it is right again (`None`). `code` is stable and in
    /// CamelCase. Shown by `/v1/cluster`, the doctor and the metrics of this replica until it no longer leads.
    pub fn report(&self, code: &'static str, problem: Option<String>) {
        self.replica.health().problems().set(self.task, code, problem);
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
    /// Returns when one of the topics has changed since the last call, or after `longest`. Returns at once for a
    /// change that came between two calls.
    pub async fn changed(&mut self, longest: Duration) {
        let Self { topics, changes, seen } = self;
        let newer = async {
            let newest = changes.wait_for(|changes| changes.newest(topics) > *seen).await;
            newest.map(|changes| changes.newest(topics)).ok()
        };
        match timeout(longest, newer).await {
            Ok(Some(newest)) => *seen = newest,
            // The replica is gone, and the task is about to be dropped.
            Ok(None) => std::future::pending().await,
            Err(_) => {}
        }
    }
}
