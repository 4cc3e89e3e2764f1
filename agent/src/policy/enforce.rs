//! Keeps the kernel's filter as the compiler wants it: on news, on what is attached, and on a timer.
//!
//! What is believed to be in the kernel is compared with it at the start, after a failure, and on the timer;
//! in between only steps are written. Before the agent has caught up with a replica only what is missing is
//! put in: the kernel may know better than the copy.

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
use super::gate::{Addresses, Ask, Gate};
use super::model::{Filter, Style};
use super::options::Options;
use super::status::PolicyStatus;
use super::world::{Attachments, World};
use crate::follow::Seen;
use crate::kernel::disturbance;
use crate::policy::packet_filter::{Backend, FilterError, PacketFilter};
use crate::wire::Key;

/// How often the kernel is read when nothing happens.
const PERIOD: Duration = Duration::from_secs(30);
/// How often sets are counted and a failure is tried again, and the shortest time between two looks because of other programs' changes.
const DRIFT_PERIOD: Duration = Duration::from_secs(1);

/// How policy is enforced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether at all; if not, everything of ours is taken away.
    pub enabled: bool,
    /// Which iptables.
    pub backend: Backend,
    /// The bit of the packet mark.
    pub mark: u32,
    /// The group of NFLOG.
    pub log_group: u16,
    /// What is compiled.
    pub options: Options,
}

/// Enforces policy.
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
    /// The look that is under way.
    look: Option<Look>,
    compiler: Option<Compiler>,
    /// What the kernel holds.
    held: Option<Filter>,
    /// When it was last read; `None`: not yet, or something failed since.
    read: Option<Instant>,
    writes: u64,
    /// Another program has changed rules or sets since the kernel was read last.
    disturbed: bool,
    /// How often what the kernel held was not what was written.
    drifts: u64,
    /// Whether what is of ours was taken away, because policy is not enforced.
    taken_away: bool,
    disturbance: Arc<Notify>,
    clock: Interval,
}

/// It waits for its own reasons to look, the timer among them.
pub const SCHEDULE: Schedule =
    Schedule { period: None, retry: DRIFT_PERIOD, retry_max: DRIFT_PERIOD };

/// An enforcer, the way to it, and what it says.
#[must_use]
pub fn enforcer(
    settings: Settings,
    seen: watch::Receiver<Seen>,
    filter: PacketFilter,
) -> (Enforcer, Gate, watch::Receiver<Option<PolicyStatus>>) {
    let (send, asks) = mpsc::unbounded_channel();
    let (status, shown) =
        watch::channel(settings.enabled.then(|| PolicyStatus::new(filter.name())));
    let disturbance = Arc::new(Notify::new());
    if let Err(error) = disturbance::watch(filter.own_writers(), Arc::clone(&disturbance)) {
        tracing::warn!(%error, "changes of rules by other programs are found by the timer only");
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
    (enforcer, Gate(send), shown)
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

    /// Dropped at the stop only.
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

    /// Whether the kernel is to be read: on the timer, which changes do not put off, soon after another program's
    /// change, and when somebody asks.
    fn is_due(&self) -> bool {
        let soon = self.disturbed || !self.filter.tells();
        let period = if soon { DRIFT_PERIOD } else { PERIOD };
        let due =
            !self.verifying.is_empty() || self.read.is_none_or(|read| read.elapsed() >= period);
        due && self.look.is_none()
    }

    /// Begins to read the kernel, if that is due and what it holds is known.
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

    /// Compares what a look saw with what the kernel is to hold, and restores that.
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

    /// Undoes what another program did. Whether it did nothing.
    async fn restore(&mut self, actual: &Actual, held: &Filter) -> Result<bool, FilterError> {
        let Settings { mark, log_group, .. } = self.settings;
        let styles = |family| Style { family, mark, log_group };
        let drift = repair(actual, held, &styles, false);
        if drift.is_empty() {
            return Ok(true);
        }
        self.drifts += 1;
        let lines = drift.len();
        tracing::warn!(lines, "another program changed Romana's rules or sets: restored");
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
            // Another attachment may have the address by now.
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

    /// Compiles what is known, and writes what differs.
    async fn compile_and_write(&mut self) {
        let Seen { view, caught_up, .. } = self.seen.borrow_and_update().clone();
        let world = view.and_then(|view| World::new(view, self.attached.clone()));
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
                // An ADD that has given up is undone.
                ready.into_iter().for_each(|(_, done)| _ = done.send(()));
                if self.held.is_none() {
                    // The kernel may know better than the copy, and has been read just now.
                    self.verifying.drain(..).for_each(|done| _ = done.send(true));
                }
            }
            Err(error) => self.failed(&error),
        }
    }

    /// What the kernel holds is not known any more: the next pass reads it first.
    fn failed(&mut self, error: &FilterError) {
        (self.held, self.read) = (None, None);
        let text = chain(error);
        tracing::warn!(error = text, "the kernel's filter is not as wanted");
        self.status.send_modify(|status| {
            if let Some(status) = status {
                status.applied = None;
                status.problems = vec![format!("policy: {text}")];
            }
        });
    }

    /// Writes what differs. Returns how many lines that was.
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
                // What a look under way sees is older than what is written now.
                if let Some(look) = self.look.take() {
                    self.verifying.extend(look.verifying);
                }
                let actual = self.filter.read().await?;
                self.read = Some(Instant::now());
                repair(&actual, wanted, &styles, !caught_up)
            }
        };
        if !changes.is_empty() {
            tracing::debug!(?changes, caught_up, "writing");
            self.filter.apply(&changes).await?;
        }
        self.held = caught_up.then(|| wanted.clone());
        Ok(changes.len())
    }

    /// Takes everything of ours away. Says whether that is done.
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
            // Without iptables there is nothing to take away.
            Err(FilterError::Run { .. }) => true,
            Err(error) => {
                tracing::warn!(%error, "rules of an earlier run are not taken away");
                false
            }
        }
    }
}

/// When a look has ended; never, if there is none.
async fn end(look: &mut Option<Look>) -> Result<drift::Seen, FilterError> {
    match look {
        Some(look) => look.end().await,
        None => std::future::pending().await,
    }
}
