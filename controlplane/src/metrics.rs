//! Metrics in the OpenMetrics text format, served at `/metrics`. One struct, built by the server and
//! passed down; no globals. Values that the replica already has are read at each scrape.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use axum::http::StatusCode;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use romana_daemon::listener::Counters;
use romana_daemon::probe;
use romana_replica::metrics::{DURATION_BUCKETS, DiskTimes, PeerRefusals};

use crate::capacity::NetworkReading;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    method: &'static str,
    path: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabels {
    class: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MemberLabels {
    member: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TaskLabels {
    task: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabels {
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NetworkLabels {
    network: String,
}

/// Values that are read at each scrape.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reading {
    pub revision: u64,
    /// Raft index of the local state.
    pub index: u64,
    pub term: u64,
    pub is_leader: bool,
    /// Whether a leader is known.
    pub has_leader: bool,
    pub members: u64,
    /// Followers of the feed.
    pub followers: u64,
    /// Number of records by which the slowest follower lags behind.
    pub feed_lag: u64,
    pub addresses: u64,
    pub hosts: u64,
    /// The oldest revision in the history.
    pub history_oldest: u64,
    /// Size of the history on disk, in bytes.
    pub history_bytes: u64,
    /// Revision of the last signed checkpoint; 0 if there is none.
    pub signed: u64,
    /// Free bytes on the disk.
    pub disk_free: u64,
    /// Reads of the history that found damage.
    pub history_damaged: u64,
    /// Whether a majority of the voters' clocks agree.
    pub clocks_agreed: bool,
    /// Log time in milliseconds since 1970.
    pub log_time: u64,
    /// How far log time is ahead of the clocks' agreement, in milliseconds.
    pub log_ahead_ms: i64,
}

/// A member's wall clock, read at each scrape.
#[derive(Clone, Copy, Debug)]
pub struct ClockReading {
    pub member: u64,
    pub ahead_ms: i64,
    /// Whether it deviates too far from the majority.
    pub far: bool,
}

/// The metrics of one replica.
pub struct Metrics {
    registry: Registry,
    durations: Family<RouteLabels, Histogram, fn() -> Histogram>,
    routes: Vec<(RouteLabels, OnceLock<Histogram>)>,
    responses: [Counter; 5],
    connections: Counters,
    committed: Counter,
    refused: Counter,
    failed: Family<OutcomeLabels, Counter>,
    refusals: Family<CodeLabels, Counter>,
    reading: ReadingGauges,
    clocks_ahead: Family<MemberLabels, Gauge>,
    clocks_far: Family<MemberLabels, Gauge>,
    task_problems: Family<TaskLabels, Level>,
    networks: NetworkGauges,
}

/// The gauges behind [`NetworkReading`].
#[derive(Default)]
struct NetworkGauges {
    addresses: Family<NetworkLabels, Level>,
    cooling: Family<NetworkLabels, Level>,
    capacity: Family<NetworkLabels, Level>,
    fullest_group: Family<NetworkLabels, Gauge<f64, AtomicU64>>,
}

impl NetworkGauges {
    fn registered(registry: &mut Registry) -> Self {
        let own = Self::default();
        let mut add = |name: &str, help: &str, family: &Family<NetworkLabels, Level>| {
            registry.register(name, help, family.clone());
        };
        add("network_addresses", "Live addresses of a network", &own.addresses);
        let help = "Released addresses of a network that are not given out again yet";
        add("network_cooling", help, &own.cooling);
        add("network_capacity", "All addresses of a network's groups", &own.capacity);
        let help = "Part of the fullest group that cannot be allocated now, 0 to 1";
        registry.register("network_fullest_group", help, own.fullest_group.clone());
        own
    }

    /// Networks that are gone have no values.
    fn set(&self, networks: &[NetworkReading]) {
        for family in [&self.addresses, &self.cooling, &self.capacity] {
            family.clear();
        }
        self.fullest_group.clear();
        for NetworkReading { network, addresses, cooling, capacity, fullest_group } in networks {
            let labels = NetworkLabels { network: network.clone() };
            self.addresses.get_or_create(&labels).set(*addresses);
            self.cooling.get_or_create(&labels).set(*cooling);
            self.capacity.get_or_create(&labels).set(*capacity);
            self.fullest_group.get_or_create(&labels).set(*fullest_group);
        }
    }
}

type Level = Gauge<u64, AtomicU64>;

/// The gauges behind [`Reading`].
#[derive(Default)]
struct ReadingGauges {
    revision: Level,
    index: Level,
    term: Level,
    is_leader: Level,
    has_leader: Level,
    members: Level,
    followers: Level,
    feed_lag: Level,
    addresses: Level,
    hosts: Level,
    history_oldest: Level,
    history_bytes: Level,
    signed: Level,
    disk_free: Level,
    history_damaged: Level,
    clocks_agreed: Level,
    log_time: Level,
    log_ahead: Gauge,
}

impl ReadingGauges {
    fn registered(registry: &mut Registry) -> Self {
        let own = Self::default();
        let mut add = |name: &str, help: &str, gauge: &Level| {
            registry.register(name, help, gauge.clone());
        };
        add("state_revision", "Revision of the local state", &own.revision);
        add("raft_index", "Raft index of the local state", &own.index);
        add("raft_term", "Raft term", &own.term);
        add(
            "raft_is_leader",
            "Whether this replica leads and a majority confirms it (1) or not (0)",
            &own.is_leader,
        );
        add(
            "raft_has_leader",
            "Whether a majority has confirmed a leader within the last second (1) or not (0)",
            &own.has_leader,
        );
        add("raft_members", "Members of the cluster", &own.members);
        add("feed_followers", "Followers of the feed", &own.followers);
        add("feed_lag_records", "Records the slowest follower is behind", &own.feed_lag);
        add("state_addresses", "Live addresses", &own.addresses);
        add("state_hosts", "Hosts", &own.hosts);
        add("history_oldest_revision", "Oldest revision that is kept", &own.history_oldest);
        add("history_bytes", "Size of the history on the disk", &own.history_bytes);
        add("history_signed_revision", "Last checkpoint that the replicas signed", &own.signed);
        add("disk_free_bytes", "Bytes free on the disk of the data", &own.disk_free);
        let help = "Reads of the history since the start that met damage";
        add("history_damaged_reads", help, &own.history_damaged);
        let help = "Whether a majority of the replicas' clocks agree (1) or not (0)";
        add("clocks_agreed", help, &own.clocks_agreed);
        let help = "Time that entries are stamped with, since 1970";
        add("log_time_milliseconds", help, &own.log_time);
        let help = "How far log time is ahead of what the clocks agree on";
        registry.register("log_time_ahead_milliseconds", help, own.log_ahead.clone());
        own
    }

    fn set(&self, reading: &Reading) {
        self.revision.set(reading.revision);
        self.index.set(reading.index);
        self.term.set(reading.term);
        self.is_leader.set(u64::from(reading.is_leader));
        self.has_leader.set(u64::from(reading.has_leader));
        self.members.set(reading.members);
        self.followers.set(reading.followers);
        self.feed_lag.set(reading.feed_lag);
        self.addresses.set(reading.addresses);
        self.hosts.set(reading.hosts);
        self.history_oldest.set(reading.history_oldest);
        self.history_bytes.set(reading.history_bytes);
        self.signed.set(reading.signed);
        self.disk_free.set(reading.disk_free);
        self.history_damaged.set(reading.history_damaged);
        self.clocks_agreed.set(u64::from(reading.clocks_agreed));
        self.log_time.set(reading.log_time);
        self.log_ahead.set(reading.log_ahead_ms);
    }
}

/// How a proposal failed, apart from refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProposalFailure {
    /// Nothing happened.
    Unavailable,
    /// Nothing happened: too many proposals were waiting.
    Busy,
    /// It may have happened.
    Unknown,
    /// Nothing happened: the proposal exceeds one log entry.
    TooLarge,
}

impl ProposalFailure {
    fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Busy => "busy",
            Self::Unknown => "unknown",
            Self::TooLarge => "too_large",
        }
    }
}

impl Metrics {
    /// Metrics for routes given as (method, path), whose durations are recorded by position; includes those of the
    /// disk and of refused peer messages.
    #[must_use]
    pub fn new(
        routes: impl Iterator<Item = (&'static str, &'static str)>,
        disk: &DiskTimes,
        peers: &PeerRefusals,
    ) -> Self {
        let mut registry = Registry::with_prefix("romanad");
        let mut time = |name: &str, help: &str, times: &Histogram| {
            registry.register_with_unit(name, help, Unit::Seconds, times.clone());
        };
        time("wal_sync", "Time to make a group of the log durable", &disk.wal_sync);
        time("snapshot_write", "Time to write a snapshot", &disk.snapshot);
        let constructor: fn() -> Histogram = || Histogram::new(DURATION_BUCKETS);
        let durations = Family::new_with_constructor(constructor);
        let help = "Time from a request's head to its answer's, by route";
        registry.register_with_unit(
            "http_request_duration",
            help,
            Unit::Seconds,
            durations.clone(),
        );
        let routes =
            routes.map(|(method, path)| (RouteLabels { method, path }, OnceLock::new())).collect();
        let responses = Family::<StatusLabels, Counter>::default();
        registry.register("http_responses", "Answers, by class of status", responses.clone());
        let responses = ["1xx", "2xx", "3xx", "4xx", "5xx"]
            .map(|class| responses.get_or_create(&StatusLabels { class }).clone());
        let connections = Counters::default();
        registry.register("http_connections", "Open connections", connections.open.clone());
        let help = "Connections closed at once because there were too many";
        registry.register("http_connections_refused", help, connections.refused.clone());
        let proposals = Family::<OutcomeLabels, Counter>::default();
        registry.register("proposals", "Commands proposed, by outcome", proposals.clone());
        let counter = |outcome| proposals.get_or_create(&OutcomeLabels { outcome }).clone();
        let (committed, refused) = (counter("committed"), counter("refused"));
        let refusals = Family::<CodeLabels, Counter>::default();
        registry.register("refusals", "Commands refused, by code", refusals.clone());
        let help = "Messages and connections of other replicas that were refused, by reason";
        registry.register("peer_messages_refused", help, peers.family());
        let task_problems = Family::<TaskLabels, Level>::default();
        let help = "Problems of the leader tasks that run on this replica, by task";
        registry.register("leader_task_problems", help, task_problems.clone());
        let clocks = |registry: &mut Registry, name: &str, help: &str| {
            let family = Family::<MemberLabels, Gauge>::default();
            registry.register(name, help, family.clone());
            family
        };
        let help = "How far a member's clock is ahead of what a majority agrees on";
        let clocks_ahead = clocks(&mut registry, "clock_ahead_milliseconds", help);
        let help = "Whether a member's clock is far from what a majority agrees on (1) or not (0)";
        let clocks_far = clocks(&mut registry, "clock_far", help);
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The program", build);
        Self {
            reading: ReadingGauges::registered(&mut registry),
            networks: NetworkGauges::registered(&mut registry),
            registry,
            durations,
            routes,
            responses,
            connections,
            committed,
            refused,
            failed: proposals,
            refusals,
            clocks_ahead,
            clocks_far,
            task_problems,
        }
    }

    /// Includes the metrics of a collector.
    pub fn collect(&mut self, collector: Box<dyn Collector>) {
        self.registry.register_collector(collector);
    }

    /// Counts an answered request; `route` is its position, if it matched a route.
    pub fn answered(&self, route: Option<usize>, status: StatusCode, took: Duration) {
        if let Some((labels, duration)) = route.and_then(|route| self.routes.get(route)) {
            // A route's histogram is created at its first use and cached.
            let duration = duration.get_or_init(|| self.durations.get_or_create(labels).clone());
            duration.observe(took.as_secs_f64());
        }
        let class = usize::from(status.as_u16() / 100).saturating_sub(1);
        if let Some(counter) = self.responses.get(class) {
            counter.inc();
        }
    }

    /// Counts a committed command that was accepted.
    pub fn committed(&self) {
        self.committed.inc();
    }

    /// Counts a committed command that was refused.
    pub fn refused(&self, code: &'static str) {
        self.refused.inc();
        self.refusals.get_or_create(&CodeLabels { code }).inc();
    }

    /// Counts commands that were not committed, as far as is known.
    pub fn failed(&self, failure: ProposalFailure, commands: usize) {
        let labels = OutcomeLabels { outcome: failure.as_str() };
        self.failed.get_or_create(&labels).inc_by(commands as u64);
    }

    /// Connection counters.
    #[must_use]
    pub fn connections(&self) -> &Counters {
        &self.connections
    }

    /// Renders all metrics as text.
    ///
    /// # Errors
    /// Never in practice: writing to a string does not fail.
    pub fn render(
        &self,
        reading: &Reading,
        clocks: impl Iterator<Item = ClockReading>,
        problems: &BTreeMap<&'static str, u64>,
        networks: &[NetworkReading],
    ) -> Result<String, std::fmt::Error> {
        self.reading.set(reading);
        self.networks.set(networks);
        // A member that is silent or removed has no clock.
        self.clocks_ahead.clear();
        self.clocks_far.clear();
        for ClockReading { member, ahead_ms, far } in clocks {
            let labels = MemberLabels { member };
            self.clocks_ahead.get_or_create(&labels).set(ahead_ms);
            self.clocks_far.get_or_create(&labels).set(i64::from(far));
        }
        self.task_problems.clear();
        for (task, count) in problems {
            self.task_problems.get_or_create(&TaskLabels { task }).set(*count);
        }
        probe::render(&self.registry)
    }
}
