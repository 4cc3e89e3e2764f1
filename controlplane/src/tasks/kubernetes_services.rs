//! Writes into Services where their VIPs are shown, as [`romana_kubernetes::writes`] has decided.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use romana_apiserver::{Access, Client, Trouble};
use romana_daemon::error::chain;
use romana_kubernetes::Problem;
use romana_kubernetes::writes::{Refused, Write, refused, send};
use tokio::sync::watch as latest;
use tokio::time::timeout;

use super::LeaderContext;

/// Writes under way at once; before each such batch the replica confirms that it leads.
const AT_ONCE: usize = 16;
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause before what could not be written is tried again: the first and the longest; it doubles in between.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));
/// Code of the problem that Services cannot be written.
const NOT_WRITTEN: &str = "KubernetesServiceNotWritten";

/// Brings what is decided to the API server.
pub(super) struct ServiceWriter<'a> {
    context: &'a LeaderContext,
    access: &'a Access,
    /// Where what the API server does not accept is told.
    refuse: latest::Sender<Vec<Problem>>,
    /// By the uid of each Service: the version for which a change was answered, and its problem if it was refused. The
    /// watch shows a later version soon; until then the change would be decided again.
    answered: BTreeMap<String, (String, Option<Problem>)>,
}

/// What became of a change.
enum Sent {
    /// It was taken, or refused for good.
    Answered(Option<Problem>),
    /// It is to be tried again, and why.
    Failed(String),
}

impl<'a> ServiceWriter<'a> {
    /// A writer that has written nothing yet.
    pub(super) fn new(
        context: &'a LeaderContext,
        access: &'a Access,
        refuse: latest::Sender<Vec<Problem>>,
    ) -> Self {
        Self { context, access, refuse, answered: BTreeMap::new() }
    }

    /// Writes what is decided, again and again.
    pub(super) async fn run(mut self, mut decided: latest::Receiver<Vec<Write>>) {
        let mut pause = None;
        loop {
            // The sender lives as long as this future.
            match pause {
                Some(pause) => _ = timeout(pause, decided.changed()).await,
                None => _ = decided.changed().await,
            }
            let writes = decided.borrow_and_update().clone();
            let failed = self.write(&writes).await;
            pause = failed.as_ref().map(|why| {
                tracing::debug!(why, "cannot write a Service");
                pause.map_or(RETRY.0, |pause: Duration| (pause * 2).min(RETRY.1))
            });
            self.context.report(NOT_WRITTEN, failed);
            self.tell();
        }
    }

    /// Writes what has not been answered yet. Returns why something has to be tried again.
    async fn write(&mut self, writes: &[Write]) -> Option<String> {
        let versions: BTreeMap<&str, &str> =
            writes.iter().map(|write| (&*write.service.uid, &*write.version)).collect();
        self.answered.retain(|uid, (version, _)| versions.get(&**uid) == Some(&&**version));
        let is_due = |write: &&Write| !self.answered.contains_key(&write.service.uid);
        let due: Vec<&Write> = writes.iter().filter(is_due).collect();
        if due.is_empty() {
            return None;
        }
        let client = match self.access.client().await {
            Ok(client) => client,
            Err(error) => return Some(chain(&error)),
        };
        let mut failed = None;
        for batch in due.chunks(AT_ONCE) {
            if let Err(error) = self.context.confirm().await {
                return Some(chain(&error));
            }
            let sent = batch.iter().map(|write| send_one(&client, write));
            for (write, sent) in batch.iter().zip(join_all(sent).await) {
                match sent {
                    Sent::Answered(problem) => {
                        let answer = (write.version.clone(), problem);
                        self.answered.insert(write.service.uid.clone(), answer);
                    }
                    Sent::Failed(why) => failed = Some(why),
                }
            }
        }
        failed
    }

    /// Tells what the API server does not accept.
    fn tell(&self) {
        let problems = self.answered.values().filter_map(|(_, problem)| problem.clone());
        let problems: Vec<Problem> = problems.collect();
        self.refuse.send_if_modified(|told| {
            let modified = *told != problems;
            *told = problems;
            modified
        });
    }
}

async fn send_one(client: &Client, write: &Write) -> Sent {
    match timeout(WRITE_TIMEOUT, send(client, write)).await {
        Ok(Ok(())) => {
            tracing::info!(service = %write.service, status = write.status, "Service written");
            Sent::Answered(None)
        }
        Ok(Err(error)) => match refused(write, &error) {
            Some(Refused::Outdated) => Sent::Answered(None),
            Some(Refused::Forbidden(problem)) => Sent::Answered(Some(problem)),
            None => Sent::Failed(Trouble::request("cannot write a Service", &error).what),
        },
        Err(_) => Sent::Failed("the API server does not take a change of a Service in time".into()),
    }
}
