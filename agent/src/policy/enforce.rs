//! Reconciles the kernel's filter with the compiled one: on changes of the view or
//! of attachments, and on a timer.
//!
//! The whole filter is compared with the kernel at the start, after a failure, and on the timer; in between
//! only differences are written. Until the agent has caught up with a replica, it only adds what is missing:
//! the kernel may be more recent than the saved view.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use romana_daemon::error::chain;
use romana_daemon::reconcile::{Next, Pass, Reconcile, Schedule};
use romana_statemachine::Revision;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::compile::Compiler;
use super::diff::{Actual, removal, repair, step};
use super::drift::{self, Look};
use super::gate::{Addresses, Ask, EnforcerHandle};
use super::inputs::{Attachments, PolicyInputs};
use super::model::{Filter, Style};
use super::options::Options;
use super::status::PolicyStatus;
use crate::follow::Seen;
use crate::ipc::Key;
use crate::kernel::disturbance;
use crate::policy::packet_filter::{Backend, FilterError, PacketFilter};

/// Interval of full checks without events.
const PERIOD: Duration = Duration::from_secs(30);
/// Interval of set counts and of retries, and the minimum time between checks
/// caused by other programs' changes.
const DRIFT_PERIOD: Duration = Duration::from_secs(1);

/// How policy is enforced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `false`: everything that is ours is removed.
    pub enabled: bool,
    pub backend: Backend,
    /// The bit of the packet mark.
    pub mark: u32,
    pub log_group: u16,
    pub options: Options,
}

/// The policy reconciler.
pub struct Enforcer {
    settings: Settings,
    seen: watch::Receiver<Seen>,
    asks: mpsc::UnboundedReceiver<Ask>,
    status: watch::Sender<Option<PolicyStatus>>,
    filter: PacketFilter,
    begun: bool,
    keys: BTreeMap<Key, Addresses>,
    attached: Attachments,
    waiting: Vec<(Revision, oneshot::Sender<()>)>,
    verifying: Vec<oneshot::Sender<bool>>,
    /// The check in progress.
    look: Option<Look>,
    compiler: Option<Compiler>,
    /// The filter in the kernel, as far as it is known.
    held: Option<Filter>,
    /// When the kernel was last read; `None`: not yet, or an operation has failed since.
    read: Option<Instant>,
    writes: u64,
    /// Another program has changed rules or sets since the kernel was last read.
    disturbed: bool,
    /// How often the kernel's filter differed from what was written.
    drifts: u64,
    /// Whether our rules were removed because policy is not enforced.
    taken_away: bool,
    disturbance: Arc<Notify>,
    clock: Interval,
}

/// The enforcer waits for its own triggers, including the timer.
pub const SCHEDULE: Schedule =
    Schedule { period: None, retry: DRIFT_PERIOD, retry_max: DRIFT_PERIOD };

/// Creates an enforcer, its handle, and a receiver of its status.
#[must_use]
pub fn enforcer(
    settings: Settings,
    seen: watch::Receiver<Seen>,
    filter: PacketFilter,
) -> (Enforcer, EnforcerHandle, watch::Receiver<Option<PolicyStatus>>) {
    let (send, asks) = mpsc::unbounded_channel();
    let (status, shown) =
        watch::channel(settings.enabled.then(|| PolicyStatus::new(filter.name())));
    let disturbance = Arc::new(Notify::new());
    if let Err(error) = disturbance::watch(filter.own_writers(), Arc::clone(&disturbance)) {
        tracing::warn!(%error, "watching nf_tables failed: changes are found by the timer only");
    }
    let mut clock = interval(DRIFT_PERIOD);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let enforcer = Enforcer {
        settings,
        seen,
        asks,
        status,
        filter,
        begun: false,
        keys: BTreeMap::new(),
        attached: Attachments::new(),
        waiting: Vec::new(),
        verifying: Vec::new(),
        look: None,
        compiler: None,
        held: None,
        read: None,
        writes: 0,
        disturbed: false,
        drifts: 0,
        taken_away: false,
        disturbance,
        clock,
    };
    (enforcer, EnforcerHandle(send), shown)
}

impl Reconcile for Enforcer {
    const PART: &'static str = "policy";

    async fn pass(&mut self) -> Pass {
        while let Ok(ask) = self.asks.try_recv() {
            self.take(ask);
        }
        if self.settings.enabled {
            self.compile_and_write().await;
            self.begin_look();
        } else {
            if !self.taken_away {
                self.taken_away = self.take_away().await;
            }
            self.read = Some(Instant::now());
            self.waiting.drain(..).for_each(|(_, done)| _ = done.send(()));
            self.verifying.drain(..).for_each(|done| _ = done.send(true));
        }
        let problems = self.status.borrow().as_ref().map(|status| status.problems.clone());
        Pass { problems: problems.unwrap_or_default(), next: Next::Period }
    }

    /// Closed only when the agent stops.
    async fn wake(&mut self) {
        self.wait().await;
    }
}

impl Enforcer {
    /// Waits until there is something to do.
    async fn wait(&mut self) {
        loop {
            let mut look = self.look.take();
            let seen = tokio::select! {
                ask = self.asks.recv() => {
                    self.look = look;
                    return ask.into_iter().for_each(|ask| self.take(ask));
                }
                changed = self.seen.changed() => {
                    self.look = look;
                    if changed.is_err() { std::future::pending().await }
                    return;
                }
                () = self.disturbance.notified() => { self.disturbed = true; None }
                _ = self.clock.tick() => { self.count_sets(&mut look); None }
                seen = end(&mut look) => Some(seen),
            };
            match (seen, look) {
                (Some(seen), Some(look)) => self.looked(look, seen).await,
                (_, look) => self.look = look,
            }
            if self.is_due() {
                return;
            }
        }
    }

    /// Whether the kernel has to be read: on the timer, which writes do not postpone, soon after another
    /// program's change, and on request.
    fn is_due(&self) -> bool {
        let soon = self.disturbed || !self.filter.tells();
        let period = if soon { DRIFT_PERIOD } else { PERIOD };
        let due =
            !self.verifying.is_empty() || self.read.is_none_or(|read| read.elapsed() >= period);
        due && self.look.is_none()
    }

    /// Starts a check, if one is due and the expected filter is known.
    fn begin_look(&mut self) {
        if self.held.is_none() || !self.is_due() {
            return;
        }
        self.disturbed = false;
        self.look = Some(Look::whole(&self.filter, std::mem::take(&mut self.verifying)));
    }

    fn count_sets(&mut self, look: &mut Option<Look>) {
        if self.held.is_some() && look.is_none() {
            *look = Some(Look::sizes(&self.filter));
        }
    }

    /// Compares the result of a check with the expected filter, and restores that.
    async fn looked(&mut self, look: Look, seen: Result<drift::Seen, FilterError>) {
        let Some(held) = self.held.clone() else { return };
        let done = match seen {
            Ok(drift::Seen::Sizes(sizes)) => {
                self.disturbed |= drift::miscounted(&look.written, &held, &sizes);
                return;
            }
            Ok(drift::Seen::Whole(mut actual)) => {
                let wanted = drift::steady(&look.written, &held, &mut actual);
                self.restore(&actual, &wanted).await
            }
            Err(error) => Err(error),
        };
        match done {
            Ok(intact) => {
                self.read = Some(Instant::now());
                look.verifying.into_iter().for_each(|done| _ = done.send(intact));
            }
            Err(error) => self.failed(&error),
        }
    }

    /// Reverts changes of other programs. Returns whether there were none.
    async fn restore(&mut self, actual: &Actual, held: &Filter) -> Result<bool, FilterError> {
        let Settings { mark, log_group, .. } = self.settings;
        let styles = |family| Style { family, mark, log_group };
        let drift = repair(actual, held, &styles, false);
        if drift.is_empty() {
            return Ok(true);
        }
        self.drifts += 1;
        let lines = drift.len();
        tracing::warn!(lines, "restored rules or sets that another program changed");
        self.filter.apply(&drift).await?;
        let drifts = self.drifts;
        self.status.send_modify(|status| {
            if let Some(status) = status {
                status.drifts = drifts;
            }
        });
        Ok(false)
    }

    fn take(&mut self, ask: Ask) {
        match ask {
            Ask::Begin(all) => {
                self.begun = true;
                all.into_iter().for_each(|(key, addresses)| self.note(key, addresses));
            }
            Ask::Note(key, addresses) => self.note(key, addresses),
            Ask::Settle(revision, done) => self.waiting.push((revision, done)),
            Ask::Verify(done) => self.verifying.push(done),
        }
    }

    fn note(&mut self, key: Key, addresses: Addresses) {
        for (ip, attached) in self.keys.remove(&key).unwrap_or_default() {
            // Another attachment may have taken over the address.
            if self.attached.get(&ip) == Some(&attached) {
                self.attached.remove(&ip);
            }
        }
        for (ip, attached) in &addresses {
            self.attached.insert(*ip, attached.clone());
        }
        if !addresses.is_empty() {
            self.keys.insert(key, addresses);
        }
    }

    /// Compiles the view, and writes the differences.
    async fn compile_and_write(&mut self) {
        let Seen { view, caught_up, .. } = self.seen.borrow_and_update().clone();
        let world = view.and_then(|view| PolicyInputs::new(view, self.attached.clone()));
        let Some(world) = world.filter(|_| self.begun) else { return };
        let revision = world.revision();
        let started = Instant::now();
        let options = &self.settings.options;
        let compiler = self.compiler.get_or_insert_with(|| Compiler::new(&world, options.clone()));
        compiler.update(world);
        let (wanted, problems) = (compiler.filter(), compiler.problems());
        let policies = compiler.policies().count();
        match self.write(&wanted, caught_up).await {
            Ok(changed) => {
                self.writes += u64::try_from(changed).unwrap_or(u64::MAX);
                self.status.send_modify(|status| {
                    let Some(status) = status else { return };
                    if changed > 0 {
                        status.took_us =
                            started.elapsed().as_micros().try_into().unwrap_or(u64::MAX);
                    }
                    *status = PolicyStatus {
                        applied: Some(revision),
                        policies,
                        drifts: self.drifts,
                        sets: wanted.sets.len(),
                        rules: wanted.chains.values().map(|chain| chain.rules.len()).sum(),
                        writes: self.writes,
                        problems,
                        ..std::mem::take(status)
                    };
                });
                let (ready, waiting) = std::mem::take(&mut self.waiting)
                    .into_iter()
                    .partition::<Vec<_>, _>(|(wanted, _)| *wanted <= revision);
                self.waiting = waiting.into_iter().filter(|(_, done)| !done.is_closed()).collect();
                // A send error means that the ADD has timed out; it is undone.
                ready.into_iter().for_each(|(_, done)| _ = done.send(()));
                if self.held.is_none() {
                    // The kernel may be more recent than the saved view, and was read just now.
                    self.verifying.drain(..).for_each(|done| _ = done.send(true));
                }
            }
            Err(error) => self.failed(&error),
        }
    }

    /// Marks the kernel's filter as unknown: the next pass reads it first.
    fn failed(&mut self, error: &FilterError) {
        (self.held, self.read) = (None, None);
        let text = chain(error);
        tracing::warn!(error = text, "policy reconciliation failed");
        self.status.send_modify(|status| {
            if let Some(status) = status {
                status.applied = None;
                status.problems = vec![format!("policy: {text}")];
            }
        });
    }

    /// Writes the differences. Returns the number of lines.
    async fn write(&mut self, wanted: &Filter, caught_up: bool) -> Result<usize, FilterError> {
        let Settings { mark, log_group, .. } = self.settings;
        let styles = |family| Style { family, mark, log_group };
        let changes = match self.held.as_ref().filter(|_| caught_up) {
            Some(held) => {
                if let Some(look) = &mut self.look {
                    look.written.note(held, wanted);
                }
                step(held, wanted, &styles)
            }
            None => {
                self.disturbed = false;
                // A check in progress would see state older than this write.
                if let Some(look) = self.look.take() {
                    self.verifying.extend(look.verifying);
                }
                let actual = self.filter.read().await?;
                self.read = Some(Instant::now());
                repair(&actual, wanted, &styles, !caught_up)
            }
        };
        if !changes.is_empty() {
            tracing::debug!(?changes, caught_up, "writing policy changes");
            self.filter.apply(&changes).await?;
        }
        self.held = caught_up.then(|| wanted.clone());
        Ok(changes.len())
    }

    /// Removes everything that is ours. Returns whether that is complete.
    async fn take_away(&self) -> bool {
        let done = async {
            let actual = self.filter.read().await?;
            let changes = removal(&actual);
            if changes.is_empty() {
                return Ok::<_, FilterError>(());
            }
            self.filter.apply(&changes).await
        };
        match done.await {
            Ok(()) => true,
            // Without iptables there is nothing to remove.
            Err(FilterError::Run { .. }) => true,
            Err(error) => {
                tracing::warn!(%error, "removal of policy rules failed");
                false
            }
        }
    }
}

/// Waits for the result of a check; pending forever if there is none.
async fn end(look: &mut Option<Look>) -> Result<drift::Seen, FilterError> {
    match look {
        Some(look) => look.end().await,
        None => std::future::pending().await,
    }
}
