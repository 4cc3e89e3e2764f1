//! The tasks of a program. They run until the program is told to stop; a task that ends or panics earlier
//! ends the program, because a daemon with a dead part looks healthy but does not do its work.

use std::any::Any;
use std::collections::HashMap;
use std::future::Future;
use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::error::AnyError;
use crate::problems::Problems;
use crate::reconcile::{self, Reconcile, Schedule};

/// Returns a token that the first SIGTERM or SIGINT cancels.
///
/// # Errors
/// The signal handlers cannot be installed.
pub fn stop_signal() -> io::Result<CancellationToken> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = CancellationToken::new();
    let cancel = stop.clone();
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        cancel.cancel();
    });
    Ok(stop)
}

/// How a task ended unexpectedly.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// It returned before the stop.
    #[error("task {task} ended before the program was told to stop")]
    Ended { task: &'static str },
    #[error("task {task} failed")]
    Failed { task: &'static str, source: AnyError },
    #[error("task {task} panicked: {message}")]
    Panicked { task: &'static str, message: String },
}

/// The return value of a task: nothing, or a result.
pub trait Outcome: Send + 'static {
    /// Converts it into a result.
    ///
    /// # Errors
    /// The task's error.
    fn into_result(self) -> Result<(), AnyError>;
}

impl Outcome for () {
    fn into_result(self) -> Result<(), AnyError> {
        Ok(())
    }
}

impl<E: Into<AnyError> + Send + 'static> Outcome for Result<(), E> {
    fn into_result(self) -> Result<(), AnyError> {
        self.map_err(Into::into)
    }
}

/// The supervised tasks of a program, or of a part that is stopped separately. They are aborted if this is
/// dropped before [`Tasks::stop_all`].
#[derive(Debug, Default)]
pub struct Tasks {
    stop: CancellationToken,
    running: JoinSet<Result<(), AnyError>>,
    names: HashMap<Id, (&'static str, Kind)>,
}

/// Whether a task may end before the stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Lasting,
    Job,
}

impl Tasks {
    /// Starts without tasks; `stop` tells them to end.
    #[must_use]
    pub fn new(stop: CancellationToken) -> Self {
        Self { stop, ..Self::default() }
    }

    /// The token that tells the tasks to end.
    #[must_use]
    pub fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Starts a task that runs until [`Tasks::stop`] is cancelled.
    pub fn spawn<T>(&mut self, name: &'static str, task: T)
    where
        T: Future<Output: Outcome> + Send + 'static,
    {
        self.start(name, Kind::Lasting, task);
    }

    /// Starts a task that may end before the stop, but must not fail.
    pub fn spawn_job<T>(&mut self, name: &'static str, task: T)
    where
        T: Future<Output: Outcome> + Send + 'static,
    {
        self.start(name, Kind::Job, task);
    }

    /// Starts a reconciliation loop under the name of its part.
    pub fn reconcile<R: Reconcile + 'static>(
        &mut self,
        reconciler: R,
        when: Schedule,
        problems: &Problems,
    ) {
        self.spawn(R::PART, reconcile::run(reconciler, when, problems.clone(), self.stop()));
    }

    fn start<T>(&mut self, name: &'static str, kind: Kind, task: T)
    where
        T: Future<Output: Outcome> + Send + 'static,
    {
        let task = self.running.spawn(async move { task.await.into_result() });
        self.names.insert(task.id(), (name, kind));
    }

    /// Runs until the stop, or until a task ends unexpectedly; then stops all tasks and waits for them.
    ///
    /// # Errors
    /// [`TaskError`] of the task that ended too early, or that failed during the stop.
    pub async fn run(mut self) -> Result<(), TaskError> {
        let stop = self.stop();
        let early = tokio::select! {
            // The stop is checked first: a task that ends because of it has not ended early.
            biased;
            () = stop.cancelled() => None,
            error = self.first_end() => Some(error),
        };
        tracing::info!("stopping");
        let stopped = self.stop_all().await;
        early.map_or(stopped, Err)
    }

    /// Waits until a task ends unexpectedly; pending forever if none does. Cancel safe.
    pub async fn first_end(&mut self) -> TaskError {
        while let Some(end) = self.next_end().await {
            match end {
                Ok((_, Kind::Job)) => {}
                Ok((task, Kind::Lasting)) => return TaskError::Ended { task }.logged(),
                Err(error) => return error.logged(),
            }
        }
        std::future::pending().await
    }

    /// Tells all tasks to stop and waits for them.
    ///
    /// # Errors
    /// [`TaskError`] of the first task that failed.
    pub async fn stop_all(mut self) -> Result<(), TaskError> {
        self.stop.cancel();
        let mut first = Ok(());
        while let Some(end) = self.next_end().await {
            if let Err(error) = end {
                first = first.and(Err(error.logged()));
            }
        }
        first
    }

    /// The next task that ends, and its result.
    async fn next_end(&mut self) -> Option<Result<(&'static str, Kind), TaskError>> {
        let ended = self.running.join_next_with_id().await?;
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let (task, kind) = self.names.remove(&id).unwrap_or(("unnamed", Kind::Lasting));
        Some(match ended {
            Ok((_, Ok(()))) => Ok((task, kind)),
            Ok((_, Err(source))) => Err(TaskError::Failed { task, source }),
            Err(error) => Err(TaskError::Panicked { task, message: message(error) }),
        })
    }
}

impl TaskError {
    fn logged(self) -> Self {
        tracing::error!(error = &self as &dyn std::error::Error, "task ended unexpectedly");
        self
    }
}

fn message(error: JoinError) -> String {
    let text = |panic: Box<dyn Any + Send>| match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => (*panic.downcast::<&str>().unwrap_or_else(|_| Box::new("no message"))).into(),
    };
    error.try_into_panic().map_or_else(|error| error.to_string(), text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::chain;

    fn tasks() -> Tasks {
        let mut tasks = Tasks::new(CancellationToken::new());
        let stop = tasks.stop();
        tasks.spawn("patient", async move { stop.cancelled().await });
        tasks
    }

    #[tokio::test]
    async fn a_stop_ends_all_tasks() {
        let tasks = tasks();
        tasks.stop().cancel();
        tasks.run().await.unwrap();
    }

    #[tokio::test]
    async fn a_task_that_dies_ends_the_others_and_is_named() {
        let mut some = tasks();
        some.spawn_job("job", async {});
        some.spawn("short", async {});
        let error = some.run().await.unwrap_err();
        assert_eq!(error.to_string(), "task short ended before the program was told to stop");

        let mut some = tasks();
        some.spawn("failing", async { Err::<(), _>(io::Error::other("no disk")) });
        assert_eq!(chain(&some.run().await.unwrap_err()), "task failing failed: no disk");

        let mut some = tasks();
        let n = some.names.len();
        some.spawn("panicking", async move { assert!(n > 1, "{n} is not enough") });
        let error = some.run().await.unwrap_err();
        assert_eq!(error.to_string(), "task panicking panicked: 1 is not enough");
    }

    #[tokio::test]
    async fn a_failure_during_the_stop_is_reported() {
        let mut some = tasks();
        let stop = some.stop();
        some.spawn("unclean", async move {
            stop.cancelled().await;
            Err::<(), _>(io::Error::other("not written"))
        });
        some.stop().cancel();
        assert_eq!(chain(&some.run().await.unwrap_err()), "task unclean failed: not written");
    }
}
