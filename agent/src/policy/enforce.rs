//! Keeps the kernel's filter as the compiler wants it: on news, on what is attached, and on a timer.
//!
//! What is believed to be in the kernel is compared with it at the start, after a failure, and on the timer;
//! in between only steps are written. Before the agent has caught up with a replica only what is missing is
//! put in: the kernel may know better than the copy.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use romana_statemachine::Revision;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::compile::{Compiler, Options};
use super::diff::{Changes, repair, step};
use super::model::{Filter, Style};
use super::world::{Attached, Attachments, World};
use crate::follow::Seen;
use crate::kernel::disturbance;
use crate::kernel::packet_filter::{Backend, FilterError, PacketFilter};
use crate::status::PolicyStatus;
use crate::wire::Key;

/// How often the kernel is read when nothing happens.
const PERIOD: Duration = Duration::from_secs(30);
/// How often sets are counted and a failure is tried again, and the shortest time between two looks because of other programs' changes.
const DRIFT_PERIOD: Duration = Duration::from_secs(1);
/// How long an ADD waits for its policy.
const PATIENCE: Duration = Duration::from_secs(10);

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

type Addresses = Vec<(IpAddr, Attached)>;

enum Ask {
    /// All that is attached; nothing is done before this is known.
    Begin(Vec<(Key, Addresses)>),
    /// What an attachment has now.
    Note(Key, Addresses),
    /// When the kernel has all of this revision, and all that was noted before.
    Settle(Revision, oneshot::Sender<()>),
    /// Whether the kernel holds what was written to it; what it does not is put back.
    Verify(oneshot::Sender<bool>),
}

/// The way to the enforcer.
#[derive(Clone, Debug)]
pub struct Gate(mpsc::UnboundedSender<Ask>);

/// The policy of a container is not in place.
#[derive(Debug, thiserror::Error)]
#[error("the policy of the container is not in place within {PATIENCE:?}")]
pub struct NotSettled;

impl Gate {
    /// Says what is attached when the agent starts.
    pub fn begin(&self, all: Vec<(Key, Addresses)>) {
        // A task that has ended needs nothing.
        _ = self.0.send(Ask::Begin(all));
    }

    /// Says what an attachment has now; nothing, when it goes.
    pub fn note(&self, key: Key, addresses: Addresses) {
        _ = self.0.send(Ask::Note(key, addresses));
    }

    /// Waits until the kernel has the policies of a revision for everything that was noted.
    ///
    /// # Errors
    /// [`NotSettled`]: it stays closed meanwhile.
    pub async fn settled(&self, revision: Revision) -> Result<(), NotSettled> {
        let (done, waits) = oneshot::channel();
        _ = self.0.send(Ask::Settle(revision, done));
        match timeout(PATIENCE, waits).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(NotSettled),
        }
    }

    /// Whether the kernel holds what was written to it. If not, that is restored on return.
    ///
    /// # Errors
    /// [`NotSettled`]: it cannot be read.
    pub async fn is_intact(&self) -> Result<bool, NotSettled> {
        let (done, waits) = oneshot::channel();
        _ = self.0.send(Ask::Verify(done));
        match timeout(PATIENCE, waits).await {
            Ok(Ok(intact)) => Ok(intact),
            _ => Err(NotSettled),
        }
    }
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
}

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
        compiler: None,
        held: None,
        read: None,
        writes: 0,
        disturbed: false,
        drifts: 0,
    };
    (enforcer, Gate(send), shown)
}

impl Enforcer {
    /// Runs until `stop`. What is in the kernel stays.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut taken_away = self.settings.enabled;
        let disturbance = Arc::new(Notify::new());
        if let Err(error) = disturbance::watch(self.filter.own_writers(), Arc::clone(&disturbance))
        {
            tracing::warn!(%error, "changes of rules by other programs are found by the timer only");
        }
        let mut clock = interval(DRIFT_PERIOD);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !stop.is_cancelled() {
            while let Ok(ask) = self.asks.try_recv() {
                self.take(ask);
            }
            if self.settings.enabled {
                self.pass(self.is_due()).await;
            } else {
                if !taken_away {
                    taken_away = self.take_away().await;
                }
                self.read = Some(Instant::now());
                self.waiting.drain(..).for_each(|(_, done)| _ = done.send(()));
                self.verifying.drain(..).for_each(|done| _ = done.send(true));
            }
            self.wait(&disturbance, &mut clock, &stop).await;
        }
    }

    /// Waits until there is something to do.
    async fn wait(&mut self, disturbance: &Notify, clock: &mut Interval, stop: &CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                ask = self.asks.recv() => return ask.into_iter().for_each(|ask| self.take(ask)),
                changed = self.seen.changed() => {
                    if changed.is_err() { stop.cancelled().await }
                    return;
                }
                () = disturbance.notified() => self.disturbed = true,
                _ = clock.tick() => self.count_sets().await,
            }
            if self.is_due() {
                return;
            }
        }
    }

    /// Whether to read the kernel before writing: on the timer, which changes do not put off, and soon after
    /// another program's change.
    fn is_due(&self) -> bool {
        let period = if self.disturbed { DRIFT_PERIOD } else { PERIOD };
        !self.verifying.is_empty() || self.read.is_none_or(|read| read.elapsed() >= period)
    }

    /// Sets tell nothing when they are changed: members that are missing or too many show in their number.
    async fn count_sets(&mut self) {
        let Some(held) = &self.held else { return };
        let wanted = held
            .sets
            .iter()
            .map(|((family, name), set)| (super::diff::full(*family, name), set.members.len()));
        let wanted: BTreeMap<String, usize> = wanted.collect();
        match self.filter.set_sizes().await {
            Ok(sizes) => self.disturbed |= sizes != wanted,
            // A look says why.
            Err(_) => self.disturbed = true,
        }
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
    async fn pass(&mut self, look: bool) {
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
        let (drifts, verifying) = (self.drifts, std::mem::take(&mut self.verifying));
        match self.write(&wanted, caught_up, look).await {
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
                verifying.into_iter().for_each(|done| _ = done.send(self.drifts == drifts));
            }
            Err(error) => {
                (self.held, self.read) = (None, None);
                let text = full(&error);
                tracing::warn!(error = text, "the kernel's filter is not as wanted");
                self.status.send_modify(|status| {
                    if let Some(status) = status {
                        status.applied = None;
                        status.problems = vec![format!("policy: {text}")];
                    }
                });
            }
        }
    }

    /// Writes what differs. Returns how many lines that was.
    async fn write(
        &mut self,
        wanted: &Filter,
        caught_up: bool,
        look: bool,
    ) -> Result<usize, FilterError> {
        let Settings { mark, log_group, .. } = self.settings;
        let styles = |family| Style { family, mark, log_group };
        let known = self.held.as_ref().filter(|_| caught_up && !look);
        let changes = match known {
            Some(held) => step(held, wanted, &styles),
            None => {
                self.disturbed = false;
                let actual = self.filter.read().await?;
                if let Some(held) = self.held.as_ref().filter(|_| caught_up) {
                    let drift = repair(&actual, held, &styles, false);
                    if !drift.is_empty() {
                        self.drifts += 1;
                        let lines = drift.len();
                        tracing::warn!(
                            lines,
                            "another program changed Romana's rules or sets: restored"
                        );
                    }
                }
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

/// Everything of ours goes.
fn removal(actual: &super::diff::Actual) -> Changes {
    let mut changes = Changes::default();
    for ((family, hook), lines) in &actual.hooks {
        let jumps = super::names::HOOKS.map(|(_, chain)| format!("-j {chain}"));
        let jumps = lines.iter().filter(|line| jumps.contains(line));
        let gone: Vec<String> = jumps.map(|jump| format!("-D {hook} {jump}")).collect();
        if !gone.is_empty() {
            changes.rules.entry(*family).or_default().extend(gone);
        }
    }
    for action in ["-F", "-X"] {
        for (family, chain) in actual.chains.keys() {
            changes.rules.entry(*family).or_default().push(format!("{action} {chain}"));
        }
    }
    let sets: BTreeSet<&String> = actual.sets.keys().collect();
    changes.after = sets.into_iter().map(|set| format!("destroy {set}")).collect();
    changes
}

fn full(error: &dyn std::error::Error) -> String {
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}")
}
