//! Starts a replica: opens its files, connects its components, and spawns its tasks.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use romana_daemon::problems::Problems;
use romana_storage::platform::blocking;
use romana_storage::platform::net::TcpListener;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::identity::Identity;
use crate::metrics::PeerRefusals;
use crate::raft::begin::founding;
use crate::raft::begin::open::{self, Stores};
use crate::raft::config::{ReplicaConfig, StartError, Tuning};
use crate::raft::fault::Fault;
use crate::raft::known::clocks::{Clocks, Exchange};
use crate::raft::known::heartbeats::{self, Pulse};
use crate::raft::known::leases::Leases;
use crate::raft::known::peers::{Peers, Poll};
use crate::raft::known::positions::{self, ParticipationGate, Positions};
use crate::raft::known::quorum;
use crate::raft::known::slow::{self, Slowness};
use crate::raft::known::view::{self, View};
use crate::raft::peer::dial::{Complaints, Dialer, Directory};
use crate::raft::peer::message::{PeerRequest, PeerResponse};
use crate::raft::peer::network::{Network, PeerPool};
use crate::raft::peer::server;
use crate::raft::peer::service::PeerService;
use crate::raft::proposer::Proposer;
use crate::raft::reads::{ROUND_MAX, Reads};
use crate::raft::store::log::LogStore;
use crate::raft::store::machine::Machine;
use crate::raft::store::machine::Raft;
use crate::raft::{Replica, Shared};

/// How often the size of the log is checked.
const SIZE_EVERY: Duration = Duration::from_millis(250);

impl Replica {
    /// Starts a replica: opens its data, listens for other replicas, and takes part in elections.
    /// Returns before there is a leader; [`crate::Health::wait_ready`] waits for one. Must be called
    /// in a tokio runtime.
    ///
    /// # Errors
    /// [`StartError`], worded for operators.
    pub async fn start(config: ReplicaConfig) -> Result<Self, StartError> {
        let address = config.peer_listen;
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|source| StartError::Listen { address, source })?;
        Self::start_on(config, listener).await
    }

    /// Like [`Self::start`], with a listener that is already open instead of `peer_listen`.
    ///
    /// # Errors
    /// See [`Self::start`].
    pub async fn start_on(
        config: ReplicaConfig,
        listener: TcpListener,
    ) -> Result<Self, StartError> {
        let ReplicaConfig { id, initial_cluster, cluster_token, .. } = &config;
        let identity = Identity::new(*id, initial_cluster.clone(), cluster_token);
        open::check_advertised(&config)?;
        open::check_wiped(&config, &identity).await?;
        let fault = Fault::none();
        let (to_open, opened_fault) = (config.clone(), fault.clone());
        let open = move || open::open(&to_open, identity, opened_fault);
        let Stores { identity, log, machine, missing } =
            blocking(open).await.map_err(|error| StartError::Raft { why: error.to_string() })??;

        let (directory, positions) = (Directory::default(), Positions::default());
        let cluster = identity.cluster_id.clone();
        let (api, refused) = (config.advertise_api.clone(), PeerRefusals::default());
        let dialer = Dialer::counting(cluster, *id, api, directory.clone(), refused.clone());
        let links = PeerPool::new(dialer.clone());
        let network = Network {
            dialer: dialer.clone(),
            links: links.clone(),
            history: machine.history().clone(),
            log: log.clone(),
            positions: positions.clone(),
        };
        let audit = machine.audit().clone();
        let (raft, fresh) = raft(&config, network, &log, &machine).await?;
        let (view, clocks) = (View::new(initial_cluster), Clocks::new(config.wall.clone()));
        let proposer = Proposer::start(raft.clone(), clocks.clone());
        let host = Arc::new(PeerService {
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
            pods: OnceLock::new(),
            problems: Problems::default(),
            pulse: Pulse::default(),
            leases: Leases::default(),
            clocks,
            positions,
            gate: ParticipationGate::new(fresh),
            missing,
        });
        let reads = reads(&host, &links);
        host.leases.confirm_by(reads.clone());
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let replica = Self(Arc::new(Shared {
            host,
            log,
            links,
            reads,
            peers: Peers::default(),
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
        tasks.spawn(heartbeats::pass_on(Arc::clone(host), links.clone(), stop.clone()));
        spawn(Box::pin(quorum::confirm(self.0.reads.clone(), view.clone())));
        let dir = config.data_dir.clone();
        spawn(Box::pin(positions::watch(Arc::clone(host), links.dialer().clone(), dir)));
        spawn(Box::pin(recover(host.raft.clone(), view.clone())));
        spawn(Box::pin(founding::found(
            host.raft.clone(),
            config.id,
            config.initial_cluster.clone(),
        )));
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
            let leadership = self.leadership().watch();
            spawn(Box::pin(async move {
                founding::propose_initial(leadership, || replica.upgrade().map(Replica), proposals)
                    .await;
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

/// Starts Raft on the opened files. Also returns whether they are empty: a replica without data has forgotten
/// nothing and may vote at once.
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

/// The read-index source: this replica if it leads, else the leader.
fn reads(host: &Arc<PeerService>, links: &PeerPool) -> Reads {
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
            match link.call(PeerRequest::ReadIndex, Instant::now() + ROUND_MAX).await {
                Ok(PeerResponse::ReadIndex(Ok(index))) => match log.known().index(index) {
                    Ok(()) => Ok(index),
                    Err(implausible) => {
                        links.dialer().refuse_error(&peer, &implausible.clone().into());
                        Err(implausible.to_string())
                    }
                },
                Ok(PeerResponse::ReadIndex(Err(why))) => Err(why),
                Ok(other) => Err(other.misfit()),
                Err(error) => Err(error.to_string()),
            }
        })
    })
}

/// Waits until everything that this replica acknowledged before its restart is applied.
async fn recover(raft: Raft, view: View) {
    match raft.wait_for_recovery(None).await {
        Ok(_) => view.set_recovered(),
        Err(error) => tracing::debug!(%error, "stopped while recovering"),
    }
}

/// Triggers a snapshot when enough bytes of log were applied since the last one, and purges the entries before it
/// that exceed `keep_bytes`.
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
