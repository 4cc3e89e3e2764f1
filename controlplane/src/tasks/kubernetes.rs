//! Follows the Kubernetes API server and keeps the log as its objects ask: hosts, tenants, endpoints, policies, VIPs.
//!
//! Level-triggered: objects that changed, or a state that changed, lead to a pass, which compares all of both and
//! proposes the difference. The first pass waits until every kind of object has been listed completely; while the API
//! server is away, its last objects stay in force. What cannot be honoured becomes a Kubernetes Event. A list that
//! lacks much of what the log has is not acted on before that is confirmed ([`Guard`]). Services show the VIPs that
//! the log has.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use romana_apiserver::{Access, Trouble};
use romana_daemon::error::chain;
use romana_daemon::reconcile::{self, Reconcile};
use romana_kubernetes::events::{self, Due, Schedule};
use romana_kubernetes::guard::{Guard, Guarded};
use romana_kubernetes::watch::{self, Listener, News, Segments, Status};
use romana_kubernetes::writes::{Write, writes};
use romana_kubernetes::{Objects, Plan, Problem, Translation, translate};
use romana_replica::ProposeError;
use romana_statemachine::{Command, Revision, Topic, plural};
use tokio::sync::watch as latest;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::kubernetes_services::ServiceWriter;
use super::pass::PASS_FAILED;
use super::{LeaderContext, Task, TaskError, Wake};

/// The task's name.
const NAME: &str = "kubernetes";
/// When the state is looked at without a change.
const SCHEDULE: reconcile::Schedule = reconcile::Schedule {
    period: Some(Duration::from_secs(5)),
    retry: Duration::from_millis(500),
    retry_max: Duration::from_secs(5),
};
/// What else in the log decides about imports.
const TOPICS: &[Topic] = &[
    Topic::Topology,
    Topic::Hosts,
    Topic::Tenants,
    Topic::Policies,
    Topic::Endpoints,
    Topic::Vips,
    Topic::Sources,
];
/// Time in which changes are collected before a pass: at least, and at most. In between it is twice the length of the
/// last pass, so that passes over many objects take a third of one processor at most.
const SETTLE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// Commands in one proposal.
const BATCH: usize = 2048;
/// Interval at which due Events are looked for without a change.
const EVENTS_PERIOD: Duration = Duration::from_secs(10);
const EVENT_TIMEOUT: Duration = Duration::from_secs(10);

/// The task that follows the Kubernetes API server.
#[derive(Debug)]
pub struct Kubernetes {
    access: Access,
    status: Arc<Status>,
    segments: Arc<Segments>,
}

/// Forgets the pods when the task is dropped: the next leader knows them.
struct Forget<'a>(&'a Segments);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.clear();
    }
}

impl Kubernetes {
    /// A task with these credentials, whose progress is in `status`, and the segments of pods in `segments`.
    #[must_use]
    pub fn new(access: Access, status: Arc<Status>, segments: Arc<Segments>) -> Self {
        Self { access, status, segments }
    }

    fn listener(&self) -> Listener {
        let (status, segments) = (Arc::clone(&self.status), Arc::clone(&self.segments));
        Listener::new(self.access.clone(), status, segments)
    }

    /// Writes Events for the latest problems: those of objects, and those with what is written into Services.
    async fn write_events(
        &self,
        context: &LeaderContext,
        mut problems: latest::Receiver<Vec<Problem>>,
        mut unshown: latest::Receiver<Vec<Problem>>,
    ) {
        let mut schedule = Schedule::default();
        loop {
            // The senders live as long as this future.
            let news = async {
                tokio::select! {
                    _ = problems.changed() => {}
                    _ = unshown.changed() => {}
                }
            };
            _ = timeout(EVENTS_PERIOD, news).await;
            let mut all = problems.borrow_and_update().clone();
            all.extend_from_slice(&unshown.borrow_and_update());
            let due = schedule.due(&all, std::time::Instant::now());
            if due.is_empty() {
                continue;
            }
            let failed = self.write_all(context, &due).await;
            if let Some((at, why)) = &failed {
                tracing::debug!(why, "cannot write a Kubernetes Event");
                due[*at..].iter().for_each(|due| schedule.failed(due));
            }
            context.report("KubernetesEventNotWritten", failed.map(|(_, why)| why));
        }
    }

    /// Writes Events. Returns the first that could not be written, and why.
    async fn write_all(&self, context: &LeaderContext, due: &[Due]) -> Option<(usize, String)> {
        if let Err(error) = context.confirm().await {
            return Some((0, chain(&error)));
        }
        let client = match self.access.client().await {
            Ok(client) => client,
            Err(error) => return Some((0, chain(&error))),
        };
        let instance = format!("romanad-{}", context.replica.id());
        for (at, due) in due.iter().enumerate() {
            let written = timeout(EVENT_TIMEOUT, events::write(&client, due, &instance)).await;
            match written {
                Ok(Ok(())) => self.status.event(),
                Ok(Err(error)) if events::is_pointless(&error) => {}
                Ok(Err(error)) => {
                    return Some((at, Trouble::request("cannot write an Event", &error).what));
                }
                Err(_) => {
                    return Some((at, "the API server does not take an Event in time".into()));
                }
            }
        }
        None
    }
}

impl Task for Kubernetes {
    fn name(&self) -> &'static str {
        NAME
    }

    fn run<'a>(&'a self, context: &'a mut LeaderContext) -> BoxFuture<'a, Result<(), TaskError>> {
        Box::pin(async move {
            let context = &*context;
            let (_running, _forget) = (self.status.begin(), Forget(&self.segments));
            let (tell, told) = latest::channel(Vec::new());
            let (show, shown) = latest::channel(Vec::new());
            let (refuse, unshown) = latest::channel(Vec::new());
            let writer = ServiceWriter::new(context, &self.access, refuse);
            let follower = Follower {
                context,
                status: &self.status,
                listener: self.listener(),
                wake: context.wake(TOPICS),
                objects: None,
                translation: None,
                guard: Guard::default(),
                held: None,
                settled: None,
                oldest: None,
                pause: SETTLE.0,
                trouble: None,
                tell,
                show,
            };
            // The task is dropped when the replica no longer leads.
            let (problems, stop) = (context.problems(), CancellationToken::new());
            tokio::select! {
                () = Box::pin(reconcile::run(follower, SCHEDULE, problems, stop)) => {}
                () = Box::pin(self.write_events(context, told, unshown)) => {}
                () = Box::pin(writer.run(shown)) => {}
            }
            Ok(())
        })
    }
}

/// The state of the task while it runs.
struct Follower<'a> {
    context: &'a LeaderContext,
    status: &'a Status,
    listener: Listener,
    wake: Wake,
    /// The objects of the API server; `None` until all have been listed.
    objects: Option<Objects>,
    /// Of these objects, once translated.
    translation: Option<Arc<Translation>>,
    guard: Guard,
    /// Why objects are held back, as reported.
    held: Option<String>,
    /// The state in which a pass found nothing to propose for this translation.
    settled: Option<Revision>,
    /// Arrival of the oldest change that no pass has committed.
    oldest: Option<Instant>,
    pause: Duration,
    /// Code of the reported trouble with the API server.
    trouble: Option<&'static str>,
    tell: latest::Sender<Vec<Problem>>,
    show: latest::Sender<Vec<Write>>,
}

impl Reconcile for Follower<'_> {
    const PART: &'static str = NAME;
    const CODE: &'static str = PASS_FAILED;

    async fn pass(&mut self) -> reconcile::Pass {
        let begun = Instant::now();
        let passed = self.catch_up().await;
        self.pause = (begun.elapsed() * 2).clamp(SETTLE.0, SETTLE.1);
        match passed {
            Ok(()) => reconcile::Pass::default(),
            // The next pass sees the outcome.
            Err(error) => reconcile::Pass::failed(chain(&error)),
        }
    }

    /// Waits until objects or the state change, and then for what follows shortly.
    async fn wake(&mut self) {
        let news = tokio::select! {
            news = self.listener.news() => Some(news),
            () = self.wake.changed(Duration::MAX) => None,
        };
        if let Some(news) = news {
            self.take(news);
        }
        let until = Instant::now() + self.pause;
        while let Ok(news) = timeout_at(until, self.listener.news()).await {
            self.take(news);
        }
    }
}

impl Follower<'_> {
    fn take(&mut self, news: News) {
        match news {
            News::All(all) => {
                let mut objects = Objects::default();
                all.into_iter()
                    .for_each(|object| watch::apply(&mut objects, watch::Change::Apply(object)));
                tracing::info!(
                    pods = objects.pods.len(),
                    nodes = objects.nodes.len(),
                    "following Kubernetes"
                );
                self.objects = Some(objects);
                self.guard.listed(std::time::Instant::now());
                self.report_trouble(None);
            }
            News::Changes(changes) => {
                // All objects came first.
                let Some(objects) = &mut self.objects else { return };
                changes.into_iter().for_each(|change| watch::apply(objects, change));
            }
            News::Trouble(trouble) => return self.report_trouble(Some(trouble)),
        }
        self.translation = None;
        self.oldest.get_or_insert_with(Instant::now);
        if let Some(objects) = &self.objects {
            self.status.objects(watch::count(objects));
        }
    }

    fn report_trouble(&mut self, trouble: Option<Trouble>) {
        if let Some(trouble) = &trouble {
            tracing::info!(why = trouble.what, "lost the Kubernetes API server");
        }
        let now = trouble.as_ref().and_then(|trouble| trouble.code);
        if let Some(before) = self.trouble.filter(|before| Some(*before) != now) {
            self.context.report(before, None);
        }
        if let (Some(code), Some(trouble)) = (now, trouble) {
            let kept = match self.objects {
                Some(_) => "its last objects stay in force",
                None => "nothing has been read from it yet",
            };
            self.context.report(code, Some(format!("{}; {kept}", trouble.what)));
        }
        self.trouble = now;
    }

    /// Compares objects and state, and proposes the difference.
    async fn catch_up(&mut self) -> Result<(), ProposeError> {
        let state = self.context.replica.state();
        let revision = state.revision();
        if self.translation.is_some() && self.settled == Some(revision) {
            return Ok(());
        }
        let Some(objects) = self.objects.take() else { return Ok(()) };
        let (term, translation) = (self.context.term, self.translation.take());
        let mut guard = std::mem::take(&mut self.guard);
        // Both take time proportional to the number of objects.
        let planned = spawn_blocking(move || {
            let translation = translation.unwrap_or_else(|| Arc::new(translate(&objects)));
            let guarded = guard.plan(&state, &objects, &translation, term);
            let foreign = guarded.foreign;
            let writes = (!foreign).then(|| writes(&state, &objects, &translation));
            (objects, translation, guard, guarded, writes.unwrap_or_default())
        });
        let (objects, translation, guard, guarded, writes) =
            planned.await.unwrap_or_else(|error| resume_unwind(error.into_panic()));
        self.objects = Some(objects);
        self.translation = Some(Arc::clone(&translation));
        self.guard = guard;
        self.show.send_if_modified(|shown| {
            let modified = *shown != writes;
            *shown = writes;
            modified
        });
        let plan = self.hold(guarded);
        self.settled = plan.commands.is_empty().then_some(revision);
        let problems = self.propose(plan, &translation).await?;
        if let Some(oldest) = self.oldest.take() {
            self.status.lag(oldest.elapsed());
        }
        self.report_problems(problems);
        Ok(())
    }

    /// Reports what is held back. Returns the plan for the rest.
    fn hold(&mut self, guarded: Guarded) -> Plan {
        let Guarded { plan, held, count, list_after, .. } = guarded;
        if let Some(pause) = list_after {
            self.listener.list_after(pause);
        }
        self.status.held(count);
        if held != self.held {
            match &held {
                Some(why) => tracing::warn!(count, why, "objects of Kubernetes are held back"),
                None => tracing::info!("no objects of Kubernetes are held back any more"),
            }
            self.context.report("KubernetesHeldBack", held.clone());
            self.held = held;
        }
        plan
    }

    /// Proposes a plan. Returns all present problems.
    async fn propose(
        &self,
        plan: Plan,
        translation: &Translation,
    ) -> Result<Vec<Problem>, ProposeError> {
        let mut problems = plan.problems;
        let mut batches: Vec<Vec<Command>> =
            plan.commands.chunks(BATCH).rev().map(<[Command]>::to_vec).collect();
        while let Some(mut batch) = batches.pop() {
            let outcomes = match self.context.propose(batch.iter().cloned()).await {
                Ok(outcomes) => outcomes,
                Err(ProposeError::TooLarge { .. }) if batch.len() > 1 => {
                    let second = batch.split_off(batch.len() / 2);
                    batches.extend([second, batch]);
                    continue;
                }
                Err(error) => return Err(error),
            };
            for (command, outcome) in batch.iter().zip(outcomes) {
                if let Err(refusal) = outcome.result {
                    tracing::debug!(%refusal, "an object of Kubernetes was refused");
                    problems.extend(translation.refused(command, &refusal));
                }
            }
        }
        Ok(problems)
    }

    fn report_problems(&self, problems: Vec<Problem>) {
        self.status.problems(problems.len());
        let what = problems.first().map(|first| {
            let count = plural(problems.len(), "problem");
            format!(
                "{count} with objects of Kubernetes, which their Events tell; the first: {first}"
            )
        });
        self.context.report("KubernetesObjectsRefused", what);
        self.tell.send_if_modified(|told| {
            let modified = *told != problems;
            *told = problems;
            modified
        });
    }
}
