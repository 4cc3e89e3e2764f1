//! Keeps the kernel's filter as the compiler wants it: on news, on what is attached, and on a timer.
//!
//! What is believed to be in the kernel is compared with it at the start, after a failure, and on the timer;
//! in between only steps are written. Before the agent has caught up with a replica only what is missing is
//! put in: the kernel may know better than the copy.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use romana_statemachine::Revision;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::compile::{Compiler, Options};
use super::diff::{Changes, repair, step};
use super::model::{Family, Filter, Style};
use super::world::{Attached, Attachments, World};
use crate::follow::Seen;
use crate::kernel::packet_filter::{Backend, FilterError, PacketFilter};
use crate::status::PolicyStatus;
use crate::wire::Key;

/// How often the kernel is read when nothing happens.
const PERIOD: Duration = Duration::from_secs(30);
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(1);
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
    compiler: Option<Compiler>,
    /// What the kernel holds, and when it was last read.
    held: Option<(Filter, Instant)>,
    writes: u64,
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
        compiler: None,
        held: None,
        writes: 0,
    };
    (enforcer, Gate(send), shown)
}

impl Enforcer {
    /// Runs until `stop`. What is in the kernel stays.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut taken_away = self.settings.enabled;
        // What is believed of the kernel is checked by the timer: not while somebody waits for a change.
        let mut look = true;
        while !stop.is_cancelled() {
            while let Ok(ask) = self.asks.try_recv() {
                self.take(ask);
            }
            let pause = if self.settings.enabled {
                self.pass(look).await
            } else {
                if !taken_away {
                    taken_away = self.take_away().await;
                }
                self.waiting.drain(..).for_each(|(_, done)| _ = done.send(()));
                PERIOD
            };
            let wake = async {
                tokio::select! {
                    () = stop.cancelled() => None,
                    ask = self.asks.recv() => ask,
                    changed = self.seen.changed() => {
                        if changed.is_err() { stop.cancelled().await }
                        None
                    }
                }
            };
            let woken = timeout(pause, wake).await;
            look = woken.is_err();
            if let Ok(Some(ask)) = woken {
                self.take(ask);
            }
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

    /// Compiles what is known, and writes what differs. Says when to look again.
    async fn pass(&mut self, look: bool) -> Duration {
        let Seen { view, caught_up, .. } = self.seen.borrow_and_update().clone();
        let world = view.and_then(|view| World::new(view, self.attached.clone()));
        let Some(world) = world.filter(|_| self.begun) else { return PERIOD };
        let revision = world.revision();
        let started = Instant::now();
        let options = &self.settings.options;
        let compiler = self.compiler.get_or_insert_with(|| Compiler::new(&world, options.clone()));
        compiler.update(world);
        let (wanted, problems) = (compiler.filter(), compiler.problems());
        let policies = compiler.policies().count();
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
                let read = self.held.as_ref().map(|(_, read)| *read + PERIOD);
                read.map_or(PERIOD, |at| at.saturating_duration_since(Instant::now()))
            }
            Err(error) => {
                self.held = None;
                let text = full(&error);
                tracing::warn!(error = text, "the kernel's filter is not as wanted");
                self.status.send_modify(|status| {
                    if let Some(status) = status {
                        status.applied = None;
                        status.problems = vec![format!("policy: {text}")];
                    }
                });
                RETRY
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
        let styles = |family| self.style(family);
        let known = self.held.as_ref().filter(|_| caught_up && !look);
        let (changes, read) = match known {
            Some((held, read)) => (step(held, wanted, &styles), *read),
            None => {
                let actual = self.filter.read().await?;
                (repair(&actual, wanted, &styles, !caught_up), Instant::now())
            }
        };
        if !changes.is_empty() {
            tracing::debug!(?changes, caught_up, "writing");
            self.filter.apply(&changes).await?;
        }
        self.held = caught_up.then(|| (wanted.clone(), read));
        Ok(changes.len())
    }

    fn style(&self, family: Family) -> Style {
        Style { family, mark: self.settings.mark, log_group: self.settings.log_group }
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
