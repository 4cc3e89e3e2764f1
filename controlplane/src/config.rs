//! Configuration of `romanad`: flags, environment, file, defaults, in this order of precedence.
//!
//! Everything that must agree across replicas is a command in the log (settings, topology), not a key
//! here. `Given` is the raw input, [`Config`] is checked and complete.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
pub use romana_api::{API_PORT, PEER_PORT};
use romana_daemon::config::{Layers, LayersError};
use romana_daemon::log::Form;
use romana_statemachine::name::NetworkName;
use serde::Deserialize;

use crate::kubernetes::Access;

mod values;

use values::{
    api_beside, check_ports, check_region, check_restore, cidrs, founders, initial_topology,
    invalid, kubernetes, own_address, own_id, required, servers, service_ranges, within,
};

/// Bounds of the request deadline, in milliseconds.
const REQUEST_TIMEOUT_MS: (u64, u64) = (1, 60_000);
/// Bounds of the number of connections.
const CONNECTIONS: (usize, usize) = (16, 1_000_000);
/// Bounds of the feed's memory, in bytes.
const FEED_BYTES: (usize, usize) = (1 << 20, 16 << 30);
/// Bounds of the disk reserve, in bytes.
const DISK_RESERVE: (u64, u64) = (0, 1 << 40);

/// Default log filter: openraft logs errors only, and the Kubernetes client nothing, as its errors are reported.
const LOG_DEFAULT: &str = "info,openraft=error,kube_client=off,kube_runtime=off";

/// Clouds for which there are built-in topologies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Cloud {
    /// Amazon Web Services.
    Aws,
}

/// A replica of the Romana control plane.
#[derive(Clone, Debug, Default, Parser)]
#[command(name = "romanad", version, about, max_term_width = 100)]
pub struct Args {
    /// Configuration file (TOML). Flags and environment go before it.
    #[arg(long, env = "ROMANAD_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    given: Layers<Given>,
    /// Validate the configuration and the initial topology, then exit.
    #[arg(long)]
    pub check: bool,
    /// Something else than running a replica.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What `romanad` can do while no replica runs.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Make a backup from what is left when a majority is lost for good.
    ///
    /// A cluster whose majority is gone cannot go on: nobody can know what the lost replicas had
    /// acknowledged. This command reads what the survivors have on their disks, applies all of it, and
    /// writes a backup. It changes nothing in their directories. It prints what may be lost, and what may
    /// appear that was never acknowledged.
    ///
    /// Then start a new cluster from it: `romanad --restore FILE …` on each of its replicas, with empty
    /// data directories. Never start the old replicas again.
    Recover(RecoverArgs),
}

/// What to read, and what to write.
#[derive(Clone, Debug, clap::Args)]
pub struct RecoverArgs {
    /// Data directory of a survivor that is stopped; several times for several of them.
    #[arg(long, value_name = "DIR", required = true)]
    pub data_dir: Vec<PathBuf>,
    /// The backup to write. It must not exist.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

/// What a flag, a variable or a key of the file can say.
#[derive(Clone, Debug, Default, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Given {
    /// One replica on loopback with data in ./romana-data: to try things out.
    #[arg(long, env = "ROMANAD_DEV", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    dev: Option<bool>,
    /// Id of this replica: 1 or more, never used again after it was removed.
    #[arg(long, env = "ROMANAD_ID", value_name = "N")]
    id: Option<u64>,
    /// Directory for the log, snapshots and the history.
    #[arg(long, env = "ROMANAD_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Address to serve the API on [default: 0.0.0.0:9600].
    #[arg(long, env = "ROMANAD_LISTEN", value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// Address to serve peers on [default: 0.0.0.0:9601].
    #[arg(long, env = "ROMANAD_PEER_LISTEN", value_name = "ADDR:PORT")]
    peer_listen: Option<SocketAddr>,
    /// Where clients reach this replica's API [default: host of the peer address, port of --listen].
    #[arg(long, env = "ROMANAD_ADVERTISE_API", value_name = "HOST:PORT")]
    advertise_api: Option<String>,
    /// Where peers reach this replica [default: its address in --initial-cluster].
    #[arg(long, env = "ROMANAD_ADVERTISE_PEER", value_name = "HOST:PORT")]
    advertise_peer: Option<String>,
    /// The replicas that found the cluster, this one included. The same on all of them.
    #[arg(long, env = "ROMANAD_INITIAL_CLUSTER", value_name = "1=HOST:PORT,2=…")]
    initial_cluster: Option<Pairs>,
    /// Join the cluster whose API is at one of these, after `romana cluster add`: in place of --id and --initial-cluster.
    #[arg(long, env = "ROMANAD_JOIN", value_delimiter = ',', value_name = "URL,…")]
    join: Option<Vec<String>>,
    /// Where a replica that has lost its data directory asks for a new place: APIs of the cluster. Without it, an operator
    /// gives it one with `romana cluster replace`.
    #[arg(long, env = "ROMANAD_REJOIN", value_delimiter = ',', value_name = "URL,…")]
    rejoin: Option<Vec<String>>,
    /// Tells clusters with the same founders apart: part of the cluster's id. Not a secret.
    #[arg(long, env = "ROMANAD_CLUSTER_TOKEN", value_name = "TEXT")]
    cluster_token: Option<String>,
    /// Topology document for a new cluster.
    #[arg(long, env = "ROMANAD_INITIAL_NETWORK", value_name = "FILE")]
    initial_network: Option<PathBuf>,
    /// Replaces CIDRs of networks in the initial topology.
    #[arg(long, env = "ROMANAD_NETWORK_CIDR_OVERRIDES", value_name = "NAME=CIDR,…")]
    network_cidr_overrides: Option<Pairs>,
    /// Use the built-in topology of a cloud for a new cluster.
    #[arg(long, env = "ROMANAD_CLOUD", value_name = "CLOUD")]
    cloud: Option<Cloud>,
    /// Region of the cloud; without it, the instance metadata is asked.
    #[arg(long, env = "ROMANAD_REGION", value_name = "REGION")]
    region: Option<String>,
    /// Follow a Kubernetes API server: its nodes, namespaces, pods, policies and services become hosts, tenants,
    /// endpoints, policies and VIPs. The same on all replicas.
    #[arg(long, env = "ROMANAD_KUBERNETES", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    kubernetes: Option<bool>,
    /// Address of the API server and credentials for it [default: those of this program's pod].
    #[arg(long, env = "ROMANAD_KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Ranges of service addresses: no network, host or endpoint gets them.
    #[arg(long, env = "ROMANAD_SERVICE_CLUSTER_IP_RANGE", value_name = "CIDR,...")]
    service_cluster_ip_range: Option<String>,
    /// Deadline of requests that name none, milliseconds [default: 5000].
    #[arg(long, env = "ROMANAD_REQUEST_TIMEOUT_MS", value_name = "MS")]
    request_timeout_ms: Option<u64>,
    /// Connections to the API at the same time [default: 16384].
    #[arg(long, env = "ROMANAD_CONNECTIONS_MAX", value_name = "N")]
    connections_max: Option<usize>,
    /// Memory for recent records of the feed, bytes [default: 67108864].
    #[arg(long, env = "ROMANAD_FEED_MEMORY_BYTES", value_name = "BYTES")]
    feed_memory_bytes: Option<usize>,
    /// Begin a new cluster with this backup, in an empty data directory. The same on all founders.
    #[arg(long, env = "ROMANAD_RESTORE", value_name = "FILE")]
    restore: Option<PathBuf>,
    /// With an empty data directory: wait until somebody sends a backup, and begin with it.
    #[arg(long, env = "ROMANAD_AWAIT_RESTORE", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    await_restore: Option<bool>,
    /// Room to keep free on the disk of the data, bytes [default: 268435456; 0: none].
    #[arg(long, env = "ROMANAD_DISK_RESERVE_BYTES", value_name = "BYTES")]
    disk_reserve_bytes: Option<u64>,
    /// Log lines for people or for programs [default: text].
    #[arg(long, env = "ROMANAD_LOG_FORMAT", value_name = "FORMAT")]
    log_format: Option<Form>,
    /// What to log: a level or target=level,… [default: info, and less of libraries].
    #[arg(long, env = "ROMANAD_LOG", value_name = "FILTER")]
    log: Option<String>,
}

/// Names and values: `a=b,c=d` in a flag or a variable, a table in the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "BTreeMap<String, String>")]
enum Pairs {
    Text(String),
    Table(BTreeMap<String, String>),
}

impl From<String> for Pairs {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<BTreeMap<String, String>> for Pairs {
    fn from(table: BTreeMap<String, String>) -> Self {
        Self::Table(table)
    }
}

impl Pairs {
    fn split(self, key: &'static str) -> Result<Vec<(String, String)>, ConfigError> {
        let text = match self {
            Self::Table(table) => return Ok(table.into_iter().collect()),
            Self::Text(text) => text,
        };
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts
            .map(|part| match part.split_once('=') {
                Some((left, right)) => Ok((left.trim().into(), right.trim().into())),
                None => Err(invalid(key, part, "write it as left=right,left=right")),
            })
            .collect()
    }
}

/// Errors in the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file or the arguments cannot be read.
    #[error(transparent)]
    Layers(#[from] LayersError),
    /// A value is missing.
    #[error("{key} is missing: give --{flag}, or --dev to try things out")]
    Missing {
        /// Key in the file.
        key: &'static str,
        flag: &'static str,
    },
    /// A value is invalid.
    #[error("{key} = {value:?} is not valid: {why}")]
    Invalid {
        /// Key in the file; the flag is the same with hyphens.
        key: &'static str,
        /// The given value.
        value: String,
        /// The reason.
        why: String,
    },
}

/// Source of a new cluster's topology, in order of preference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InitialTopology {
    /// A document.
    File(PathBuf),
    /// The built-in topology of an AWS region; `None`: the region is looked up.
    Aws(Option<String>),
    /// The built-in topology with this name.
    Builtin(&'static str),
    /// None: it is set later.
    Later,
}

/// A complete configuration.
#[derive(Clone, Debug)]
pub struct Config {
    pub id: u64,
    pub data_dir: PathBuf,
    /// Address on which the API is served.
    pub listen: SocketAddr,
    /// Address on which peers are served.
    pub peer_listen: SocketAddr,
    /// Address at which clients reach the API; `None`: the address on which it is served.
    pub advertise_api: Option<String>,
    /// Address at which peers reach this replica.
    pub advertise_peer: String,
    /// The founding members, by id.
    pub initial_cluster: BTreeMap<u64, String>,
    /// `host:port` of the APIs of the cluster to join. `id` is then 0 until [`crate::join::prepare`].
    pub join: Vec<String>,
    /// `host:port` of the APIs that are asked for a new place if the data directory is empty.
    pub rejoin: Vec<String>,
    /// Distinguishes clusters with the same founders.
    pub cluster_token: String,
    /// Source of a new cluster's topology.
    pub initial_topology: InitialTopology,
    /// CIDRs to replace in the initial topology.
    pub network_cidr_overrides: BTreeMap<NetworkName, IpNet>,
    /// Service ranges, which no network, host or endpoint may overlap.
    pub service_cluster_ip_range: Vec<IpNet>,
    /// How to reach the Kubernetes API server; `None`: it is not followed.
    pub kubernetes: Option<Access>,
    /// Deadline of requests that do not name one.
    pub request_timeout: Duration,
    /// Maximum number of concurrent connections.
    pub connections_max: usize,
    /// Memory for recent records of the feed, in bytes.
    pub feed_memory_bytes: usize,
    /// The backup from which a new cluster starts.
    pub restore: Option<PathBuf>,
    /// Whether to wait for a backup.
    pub await_restore: bool,
    /// Bytes to keep free on the disk of the data directory.
    pub disk_reserve_bytes: u64,
    pub log_format: Form,
    pub log: String,
}

impl Config {
    /// Reads the configuration file, if the arguments name one, and completes the configuration.
    /// `kubernetes_host` is the value of `KUBERNETES_SERVICE_HOST`.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key.
    pub fn load(args: Args, kubernetes_host: Option<&str>) -> Result<Self, ConfigError> {
        let given = args.given.over_file(args.config.as_deref())?;
        Self::check(given, kubernetes_host)
    }

    fn check(given: Given, kubernetes_host: Option<&str>) -> Result<Self, ConfigError> {
        let kubernetes = kubernetes(given.kubernetes.unwrap_or(false), given.kubeconfig)?;
        let dev = given.dev.unwrap_or(false);
        let interface = IpAddr::V4(if dev { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED });
        let listen = given.listen.unwrap_or_else(|| SocketAddr::new(interface, API_PORT));
        let peer_listen = given.peer_listen;
        let peer_listen = peer_listen.unwrap_or_else(|| SocketAddr::new(interface, PEER_PORT));
        let join = servers("join", given.join.unwrap_or_default())?;
        let rejoin = servers("rejoin", given.rejoin.unwrap_or_default())?;
        let id = own_id(&join, given.id, dev)?;
        let dev_dir = dev.then(|| PathBuf::from("romana-data"));
        let data_dir = required(given.data_dir, dev_dir, "data_dir", "data-dir")?;
        let founders = match given.initial_cluster {
            Some(pairs) => founders(pairs.split("initial_cluster")?)?,
            None if dev && join.is_empty() => BTreeMap::from([(id, peer_listen.to_string())]),
            None => BTreeMap::new(),
        };
        let overrides = match given.network_cidr_overrides {
            Some(pairs) => cidrs(pairs.split("network_cidr_overrides")?)?,
            None => BTreeMap::new(),
        };
        let advertise_peer = own_address(id, &founders, given.advertise_peer, peer_listen)?;
        let api = given.advertise_api.or_else(|| api_beside(&advertise_peer, listen));
        let region = given.region.clone();
        let initial_topology =
            initial_topology(given.initial_network, given.cloud, given.region, kubernetes_host);
        check_region(region.as_ref(), &initial_topology)?;
        check_ports(listen, peer_listen)?;
        let await_restore = given.await_restore.unwrap_or(false);
        check_restore(given.restore.as_ref(), await_restore)?;
        let timeout_ms = given.request_timeout_ms.unwrap_or(5_000);
        within("request_timeout_ms", timeout_ms, REQUEST_TIMEOUT_MS)?;
        let connections = given.connections_max.unwrap_or(16_384);
        within("connections_max", connections, CONNECTIONS)?;
        let feed_bytes = given.feed_memory_bytes.unwrap_or(64 << 20);
        within("feed_memory_bytes", feed_bytes, FEED_BYTES)?;
        let reserve = given.disk_reserve_bytes.unwrap_or(256 << 20);
        within("disk_reserve_bytes", reserve, DISK_RESERVE)?;
        Ok(Self {
            id,
            data_dir,
            listen,
            peer_listen,
            advertise_api: api,
            advertise_peer,
            initial_cluster: founders,
            join,
            rejoin,
            cluster_token: given.cluster_token.unwrap_or_default(),
            initial_topology,
            network_cidr_overrides: overrides,
            service_cluster_ip_range: service_ranges(given.service_cluster_ip_range)?,
            kubernetes,
            request_timeout: Duration::from_millis(timeout_ms),
            connections_max: connections,
            feed_memory_bytes: feed_bytes,
            restore: given.restore,
            await_restore,
            disk_reserve_bytes: reserve,
            log_format: given.log_format.unwrap_or_default(),
            log: given.log.unwrap_or_else(|| LOG_DEFAULT.into()),
        })
    }
}

#[cfg(test)]
mod tests;
