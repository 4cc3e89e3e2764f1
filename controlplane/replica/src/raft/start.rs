//! Starting a replica: open what is on disk, join the others, and found the cluster if it is new.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use romana_statemachine::{Command, Proposal, Term, VERSION_MAX};
use romana_storage::history::{History, HistoryOptions};
use romana_storage::platform::net::TcpListener;
use romana_storage::platform::{blocking, fs};
use romana_storage::wal::{Wal, WalOptions};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::bounds::NUMBER_MAX;
use super::clocks::{Clocks, Exchange};
use super::config::{ReplicaConfig, StartError, Tuning};
use super::dial::{Complaints, Dialer, Directory};
use super::facts::{self, Facts};
use super::fault::Fault;
use super::held::{self, Gate, Positions};
use super::log::LogStore;
use super::machine::Machine;
use super::message::{Ask, Reply};
use super::network::{Links, Network};
use super::peers::{Peers, Poll};
use super::problems::Problems;
use super::proposer::Proposer;
use super::pulse::{self, Pulse};
use super::quorum;
use super::reads::{ROUND_MAX, Reads};
use super::server::{self, Host};
use super::slow::{self, Slowness};
use super::snapshot::{Found, SnapshotError, SnapshotStore};
use super::types::{Member, Raft};
use super::view::{self, View};
use super::{Replica, Shared};
use crate::audit::Audit;
use crate::feed::Feed;
use crate::identity::Identity;
use crate::metrics::PeerRefusals;

/// How much longer each next replica waits before it founds the cluster: whoever is first is
/// elected without a contest, and if it is missing, the next one goes ahead.
const FOUND_STAGGER: Duration = Duration::from_millis(400);
/// How often the size of the log is looked at.
const SIZE_EVERY: Duration = Duration::from_millis(250);
const INITIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a new cluster waits for members that have not started before it begins with the oldest
/// behaviour.
const STARTERS_PATIENCE: Duration = Duration::from_secs(2);
const FACTS_TIMEOUT: Duration = Duration::from_millis(500);
const FACTS_PAUSE: Duration = Duration::from_millis(50);

/// What is on disk.
struct Stores {
    identity: Identity,
    log: LogStore,
    machine: Machine,
}

impl Replica {
    /// Starts a replica: opens its data, listens for the others, and takes part in elections.
    /// Returns before there is a leader; [`Replica::wait_ready`] waits for one. Must be called
    /// inside a runtime.
    ///
    /// # Errors
    /// [`StartError`], in sentences for operators.
    pub async fn start(config: ReplicaConfig) -> Result<Self, StartError> {
        let address = config.peer_listen;
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|source| StartError::Listen { address, source })?;
        Self::start_on(config, listener).await
    }

    /// [`Self::start`] with a listener that is open already, in place of `peer_listen`.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start_on(
        config: ReplicaConfig,
        listener: TcpListener,
    ) -> Result<Self, StartError> {
        let ReplicaConfig { id, initial_cluster, cluster_token, .. } = &config;
        let identity = Identity::new(*id, initial_cluster.clone(), cluster_token);
        check_advertised(&config)?;
        check_wiped(&config, &identity).await?;
        let fault = Fault::none();
        let (to_open, opened_fault) = (config.clone(), fault.clone());
        let open = move || open(&to_open, identity, opened_fault);
        let Stores { identity, log, machine } =
            blocking(open).await.map_err(|error| StartError::Raft { why: error.to_string() })??;

        let directory = Directory::default();
        let cluster = identity.cluster_id.clone();
        let (api, refused) = (config.advertise_api.clone(), PeerRefusals::default());
        let dialer = Dialer::counting(cluster, *id, api, directory.clone(), refused.clone());
        let links = Links::new(dialer.clone());
        let positions = Positions::default();
        let network = Network {
            dialer: dialer.clone(),
            links: links.clone(),
            history: machine.history().clone(),
            log: log.clone(),
            positions: positions.clone(),
        };
        let audit = machine.audit().clone();
        let (raft, fresh) = raft(&config, network, &log, &machine).await?;

        let view = View::new(initial_cluster);
        let clocks = Clocks::new(config.wall.clone());
        let proposer = Proposer::start(raft.clone(), clocks.clone());
        let host = Arc::new(Host {
            identity,
            api: config.advertise_api.clone(),
            raft,
            log: log.clone(),
            machine,
            proposer,
            view: view.clone(),
            fault: fault.clone(),
            directory,
            complaints: Complaints::counting(refused.clone()),
            checkpoints: OnceLock::new(),
            problems: Problems::default(),
            pulse: Pulse::default(),
            clocks,
            positions,
            gate: Gate::new(fresh),
        });
        let reads = reads(&host, &links);
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let peers = Peers::default();
        let replica = Self(Arc::new(Shared {
            host,
            log,
            links,
            reads,
            peers,
            view,
            fault,
            stop,
            tasks,
            audit,
            refused,
        }));
        replica.spawn_tasks(config, listener);
        Ok(replica)
    }

    fn spawn_tasks(&self, config: ReplicaConfig, listener: TcpListener) {
        let Shared { host, log, links, peers, view, fault, stop, tasks, .. } = &*self.0;
        let spawn = |task| _ = tasks.spawn(until_stopped(stop.clone(), task));
        tasks.spawn(server::serve(Arc::clone(host), listener, stop.clone(), tasks.clone()));
        let faults = (log.wal().clone(), fault.clone());
        tasks.spawn(view::observe(host.raft.clone(), view.clone(), faults, stop.clone()));
        let poll = Poll {
            id: config.id,
            machine: host.machine.clone(),
            links: links.clone(),
            view: view.clone(),
            peers: peers.clone(),
            fault: fault.clone(),
            log: log.clone(),
        };
        tasks.spawn(poll.run(stop.clone()));
        let exchange = Exchange {
            id: config.id,
            clocks: host.clocks.clone(),
            dialer: links.dialer().clone(),
            view: view.clone(),
            machine: host.machine.clone(),
        };
        tasks.spawn(exchange.run(stop.clone()));
        tasks.spawn(pulse::pass_on(Arc::clone(host), links.clone(), stop.clone()));
        spawn(Box::pin(quorum::confirm(self.0.reads.clone(), view.clone())));
        let dir = config.data_dir.clone();
        spawn(Box::pin(held::watch(Arc::clone(host), links.dialer().clone(), dir)));
        spawn(Box::pin(recover(host.raft.clone(), view.clone())));
        spawn(Box::pin(found(host.raft.clone(), config.id, config.initial_cluster.clone())));
        spawn(Box::pin(bound_log(
            host.raft.clone(),
            log.clone(),
            host.machine.clone(),
            config.tuning.clone(),
        )));
        let (slowness, times) = (Slowness::default(), host.machine.times().clone());
        let noted = slowness.clone();
        log.wal().on_sync(Box::new(move |took| {
            times.wal_sync.observe(took.as_secs_f64());
            noted.note(took, Instant::now());
        }));
        let replica = Arc::downgrade(&self.0);
        spawn(Box::pin(slow::watch(move || replica.upgrade().map(Replica), slowness)));
        if !config.initial.is_empty() {
            // A weak handle: this task must not keep the replica alive.
            let (replica, proposals) = (Arc::downgrade(&self.0), config.initial);
            let leadership = self.leadership();
            spawn(Box::pin(async move {
                propose_initial(leadership, || replica.upgrade().map(Replica), proposals).await;
            }));
        }
    }
}

type Task = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

async fn until_stopped(stop: CancellationToken, task: Task) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = task => {}
    }
}

/// A founder whose disk was lost must not come back under its id: it has forgotten its vote. One that
/// starts with nothing asks the others whether they know a directory of its id. If nobody answers, it is
/// taken for a first start.
async fn check_wiped(config: &ReplicaConfig, identity: &Identity) -> Result<(), StartError> {
    if config.joined || Identity::load(&config.data_dir)?.is_some() {
        return Ok(());
    }
    let cluster = identity.cluster_id.clone();
    let (api, directory) = (config.advertise_api.clone(), Directory::default());
    let dialer = Dialer::new(cluster, config.id, api, directory);
    if facts::is_taken(&dialer, config.id, &config.initial_cluster).await {
        let (id, dir) = (config.id, config.data_dir.clone());
        return Err(StartError::Wiped { id, dir });
    }
    Ok(())
}

fn check_advertised(config: &ReplicaConfig) -> Result<(), StartError> {
    let (id, advertised) = (config.id, config.advertise_peer.clone());
    match config.initial_cluster.get(&id) {
        Some(listed) if *listed != advertised => {
            Err(StartError::Advertise { id, advertised, listed: listed.clone() })
        }
        _ => Ok(()),
    }
}

/// Opens everything on disk, after checking whose it is. Blocks.
fn open(config: &ReplicaConfig, identity: Identity, fault: Fault) -> Result<Stores, StartError> {
    let dir = &config.data_dir;
    fs::create_dir_all(dir).map_err(|source| {
        let what = format!("cannot make the data directory {}", dir.display());
        StartError::Io { what, source }
    })?;
    let has_data = ["wal", "snapshots", "history"].iter().any(|part| has_files(&dir.join(part)));
    let identity = match Identity::load(dir)?.filter(|_| config.joined) {
        Some(stored) => stored.named(dir)?,
        None => identity.claim(dir, has_data)?,
    };
    let Tuning { wal_segment_bytes, history_segment_bytes, log_tail_bytes, feed_bytes, .. } =
        config.tuning;
    // The mark is beside the log: a log that is gone as a whole is missed.
    let (segment_bytes, owner) = (wal_segment_bytes, identity.owner());
    let options = WalOptions { segment_bytes, mark: Some(dir.join("wal.mark")), owner };
    let (wal, recovered) = Wal::open(&dir.join("wal"), options)?;
    let options = HistoryOptions { segment_bytes: history_segment_bytes };
    let history = History::open(&dir.join("history"), options)?;
    let feed = Feed::new(history.clone(), feed_bytes);
    let unusable = |error: SnapshotError| StartError::State(Box::new(error));
    let snapshots = dir.join("snapshots");
    let store = SnapshotStore::open(snapshots.clone(), identity.cluster_id.clone());
    let store = store.map_err(unusable)?;
    let Found { newest, damaged } = store.newest().map_err(unusable)?;
    let applied = newest.as_ref().and_then(|(file, _)| file.head().last).map_or(0, |id| id.index);
    if let Some((purged, _)) = &recovered.purged
        && *purged > applied
    {
        let damaged = damaged.iter().map(|(_, error)| format!("; {error}")).collect();
        let (dir, first, snapshot) = (snapshots, purged + 1, applied);
        return Err(StartError::Gap { dir, first, snapshot, damaged });
    }
    let audit = Audit::start(history.clone(), dir, config.tuning.checkpoint_records);
    let audit = audit.map_err(|source| {
        let what = format!("cannot use {} for the audit", dir.display());
        StartError::Io { what, source }
    })?;
    let machine = Machine::open(store.clone(), newest, history, feed, audit, fault)
        .map_err(|error| StartError::State(Box::new(error)))?;
    let log = LogStore::open(wal, &recovered, log_tail_bytes)
        .map_err(|source| StartError::Io { what: "the log does not parse".into(), source })?;
    let log = log.joining(config.joined);
    let (term, index) = (log.known().term, log.known().index);
    if term > NUMBER_MAX || index > NUMBER_MAX {
        return Err(StartError::Exhausted { dir: dir.clone(), term, index });
    }
    store.set_aside(&damaged).map_err(unusable)?;
    Ok(Stores { identity, log, machine })
}

fn has_files(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
}

/// Raft over what was opened, and whether that is nothing yet: a replica that has nothing has forgotten nothing, and
/// may vote at once.
async fn raft(
    config: &ReplicaConfig,
    network: Network,
    log: &LogStore,
    machine: &Machine,
) -> Result<(Raft, bool), StartError> {
    let fresh = log.position() == (0, 0, 0) && machine.snapshot_next() == 0;
    let tuning = config.tuning.raft(fresh);
    let tuning = Arc::new(tuning.map_err(|error| StartError::Tuning(Box::new(error)))?);
    let raft = Raft::new(config.id, tuning, network, log.clone(), machine.clone()).await;
    Ok((raft.map_err(|error| StartError::Raft { why: error.to_string() })?, fresh))
}

/// The gate for reads: asks itself when this replica leads, else the leader.
fn reads(host: &Arc<Host>, links: &Links) -> Reads {
    let (host, links) = (Arc::downgrade(host), links.clone());
    Reads::start(move || {
        let (host, links) = (host.upgrade(), links.clone());
        Box::pin(async move {
            let host = host.ok_or("this replica is stopping")?;
            let leader = host.view.leader().ok_or("no leader is known")?;
            if leader == host.identity.id {
                return host.read_index().await;
            }
            let peer = host.view.peer(leader).ok_or("the leader's address is not known")?;
            let log = host.log.clone();
            drop(host);
            let link = links.to(leader, &peer);
            match link.call(Ask::ReadIndex, Instant::now() + ROUND_MAX).await {
                Ok(Reply::ReadIndex(Ok(index))) => match log.known().index(index) {
                    Ok(()) => Ok(index),
                    Err(implausible) => {
                        links.dialer().refuse_error(&peer, &implausible.clone().into());
                        Err(implausible.to_string())
                    }
                },
                Ok(Reply::ReadIndex(Err(why))) => Err(why),
                Ok(other) => Err(other.misfit()),
                Err(error) => Err(error.to_string()),
            }
        })
    })
}

/// Waits until everything that this replica had acknowledged before it was restarted is applied.
async fn recover(raft: Raft, view: View) {
    match raft.wait_for_recovery(None).await {
        Ok(_) => view.set_recovered(),
        Err(error) => tracing::debug!(%error, "stopped while recovering"),
    }
}

/// Founds the cluster, if this replica has no log: all begin with the same first entry.
async fn found(raft: Raft, id: u64, initial: std::collections::BTreeMap<u64, String>) {
    if initial.is_empty() {
        // It joins a cluster that exists.
        return;
    }
    let rank = u32::try_from(initial.keys().filter(|other| **other < id).count()).unwrap_or(0);
    let mut metrics = raft.metrics();
    let heard = async {
        loop {
            if metrics.borrow_watched().last_log_index.is_some() || metrics.changed().await.is_err()
            {
                return;
            }
        }
    };
    tokio::select! {
        () = heard => return,
        () = sleep(FOUND_STAGGER * rank) => {}
    }
    let members: std::collections::BTreeMap<u64, Member> =
        initial.into_iter().map(|(id, peer)| (id, Member { peer })).collect();
    match raft.is_initialized().await {
        Ok(false) => match raft.initialize(members).await {
            Ok(()) => tracing::info!(id, "founding the cluster"),
            // Somebody else was faster.
            Err(error) => tracing::debug!(%error, "not founding the cluster"),
        },
        Ok(true) => {}
        Err(error) => tracing::debug!(%error, "stopped before founding the cluster"),
    }
}

/// Asks for a snapshot when too many bytes of log were applied since the last one, and drops what is
/// kept of the log before it and is too much.
async fn bound_log(raft: Raft, log: LogStore, machine: Machine, tuning: Tuning) {
    let mut clock = interval(SIZE_EVERY);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut bytes, mut last) = (0, None);
    loop {
        clock.tick().await;
        bytes += machine.take_applied_bytes();
        let snapshot = raft.metrics().borrow_watched().snapshot;
        if snapshot != last {
            (bytes, last) = (0, snapshot);
            let covered = last.map_or(0, |id| id.index);
            if let Some(keep) = log.first_within(tuning.keep_bytes)
                && raft.trigger().purge_log(covered.min(keep.saturating_sub(1))).await.is_err()
            {
                return;
            }
        }
        let enough = tuning.snapshot_bytes.max(machine.snapshot_bytes());
        if bytes >= enough && log.last_index() > last.map_or(0, |id| id.index) {
            bytes = 0;
            if raft.trigger().snapshot().await.is_err() {
                return;
            }
        }
    }
}

/// Proposes what a new cluster begins with, when this replica leads and the state is empty.
async fn propose_initial(
    mut leadership: tokio::sync::watch::Receiver<Option<Term>>,
    replica: impl Fn() -> Option<Replica>,
    mut proposals: Vec<Proposal>,
) {
    loop {
        if leadership.wait_for(Option::is_some).await.is_err() {
            return;
        }
        let Some(replica) = replica() else { return };
        if replica.linearize(Instant::now() + INITIAL_TIMEOUT).await.is_err() {
            continue;
        }
        if replica.with_state(|state| state.revision()) > 0 {
            return;
        }
        if !all_know_newest(&replica, Instant::now() + STARTERS_PATIENCE).await {
            proposals.retain(|proposal| !matches!(proposal.command, Command::RaiseVersion(_)));
        }
        let deadline = Instant::now() + INITIAL_TIMEOUT;
        match replica.propose(proposals.clone(), deadline).await {
            Ok(outcomes) => {
                for (proposal, outcome) in proposals.iter().zip(outcomes) {
                    if let Err(refusal) = outcome.result
                        && !refusal.is_raised_already()
                    {
                        let command = &proposal.command;
                        tracing::error!(%command, %refusal, "initial command refused");
                    }
                }
                return;
            }
            Err(error) => tracing::warn!(%error, "initial commands not proposed yet"),
        }
    }
}

/// Whether every member's program knows the newest version: a cluster that is upgraded before anything
/// was stored in it looks like a new one. Where one does not, or does not answer in time, the version is
/// raised later, by a leader task.
async fn all_know_newest(replica: &Replica, deadline: Instant) -> bool {
    loop {
        let facts = replica.facts(FACTS_TIMEOUT).await;
        let newest = |facts: &Facts| facts.version_max >= VERSION_MAX;
        if facts.values().flatten().any(|facts| !newest(facts)) {
            return false;
        }
        if facts.values().all(Result::is_ok) {
            return true;
        }
        if Instant::now() + FACTS_TIMEOUT > deadline {
            return false;
        }
        sleep(FACTS_PAUSE).await;
    }
}
