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
use romana_statemachine::limits::SERVICE_RANGES_MAX;
use romana_statemachine::name::NetworkName;
use serde::Deserialize;

use crate::kubernetes::Access;

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
        let initial_topology =
            initial_topology(given.initial_network, given.cloud, given.region, kubernetes_host);
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
            await_restore: given.await_restore.unwrap_or(false),
            disk_reserve_bytes: reserve,
            log_format: given.log_format.unwrap_or_default(),
            log: given.log.unwrap_or_else(|| LOG_DEFAULT.into()),
        })
    }
}

fn invalid(key: &'static str, value: impl Into<String>, why: impl Into<String>) -> ConfigError {
    ConfigError::Invalid { key, value: value.into(), why: why.into() }
}

fn required<T>(
    given: Option<T>,
    dev: Option<T>,
    key: &'static str,
    flag: &'static str,
) -> Result<T, ConfigError> {
    given.or(dev).ok_or(ConfigError::Missing { key, flag })
}

fn within<T: PartialOrd + ToString>(
    key: &'static str,
    value: T,
    (min, max): (T, T),
) -> Result<(), ConfigError> {
    if value < min || value > max {
        let why = format!("it is not between {} and {}", min.to_string(), max.to_string());
        return Err(invalid(key, value.to_string(), why));
    }
    Ok(())
}

/// How to reach the Kubernetes API server, if it is followed.
fn kubernetes(wanted: bool, kubeconfig: Option<PathBuf>) -> Result<Option<Access>, ConfigError> {
    match (wanted, kubeconfig) {
        #[cfg(not(feature = "kubernetes"))]
        (true, _) => {
            let why = "this program was built without it (the feature `kubernetes`)";
            Err(invalid("kubernetes", "true", why))
        }
        #[cfg(feature = "kubernetes")]
        (true, Some(path)) => Ok(Some(Access::Kubeconfig(path))),
        #[cfg(feature = "kubernetes")]
        (true, None) => Ok(Some(Access::InCluster)),
        (false, Some(path)) => {
            let why = "it is used with kubernetes = true (--kubernetes) only";
            Err(invalid("kubeconfig", path.display().to_string(), why))
        }
        (false, None) => Ok(None),
    }
}

fn founders(pairs: Vec<(String, String)>) -> Result<BTreeMap<u64, String>, ConfigError> {
    let key = "initial_cluster";
    let mut founders = BTreeMap::new();
    for (id, address) in pairs {
        let number = id.parse().ok().filter(|id| *id > 0);
        let number = number.ok_or_else(|| invalid(key, &id, "an id is a number from 1"))?;
        check_address(key, &address)?;
        if founders.values().any(|other| *other == address) {
            return Err(invalid(key, address, "two replicas have this address"));
        }
        if founders.insert(number, address).is_some() {
            return Err(invalid(key, id, "the id is there twice"));
        }
    }
    Ok(founders)
}

fn check_address(key: &'static str, address: &str) -> Result<(), ConfigError> {
    let (host, port) =
        address.rsplit_once(':').ok_or_else(|| invalid(key, address, "write it as HOST:PORT"))?;
    let port: u16 = port.parse().map_err(|_| invalid(key, address, "the port is not a number"))?;
    let bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    if host.is_empty() || bare_v6 || host.contains(char::is_whitespace) || port == 0 {
        return Err(invalid(key, address, "write it as HOST:PORT or [IPV6]:PORT"));
    }
    Ok(())
}

fn cidrs(pairs: Vec<(String, String)>) -> Result<BTreeMap<NetworkName, IpNet>, ConfigError> {
    let key = "network_cidr_overrides";
    let mut overrides = BTreeMap::new();
    for (name, cidr) in pairs {
        let network = NetworkName::from(name);
        network.check().map_err(|why| invalid(key, network.as_str(), why.to_string()))?;
        let cidr = romana_statemachine::parse_cidr(&cidr)
            .map_err(|why| invalid(key, &cidr, why.to_string()))?;
        if overrides.insert(network.clone(), cidr).is_some() {
            return Err(invalid(key, network.as_str(), "the network is there twice"));
        }
    }
    Ok(overrides)
}

/// Parses one service range, or one per address family.
fn service_ranges(given: Option<String>) -> Result<Vec<IpNet>, ConfigError> {
    let key = "service_cluster_ip_range";
    let given = given.unwrap_or_default();
    let ranges = given.split(',').map(str::trim).filter(|text| !text.is_empty());
    let read = |text| {
        romana_statemachine::parse_cidr(text).map_err(|why| invalid(key, text, why.to_string()))
    };
    let ranges: Vec<IpNet> = ranges.map(read).collect::<Result<_, _>>()?;
    match ranges.len() > SERVICE_RANGES_MAX {
        true => Err(invalid(key, given, format!("at most {SERVICE_RANGES_MAX} ranges"))),
        false => Ok(ranges),
    }
}

/// This replica's id; 0 if it joins, because the cluster then assigns it.
fn own_id(join: &[String], given: Option<u64>, dev: bool) -> Result<u64, ConfigError> {
    match given {
        Some(0) => Err(invalid("id", "0", "ids start at 1")),
        Some(id) if !join.is_empty() => {
            let why = "a replica that joins is told its id by the cluster: leave it out";
            Err(invalid("id", id.to_string(), why))
        }
        None if !join.is_empty() => Ok(0),
        given => required(given, dev.then_some(1), "id", "id"),
    }
}

/// `host:port` of each URL.
fn servers(key: &'static str, urls: Vec<String>) -> Result<Vec<String>, ConfigError> {
    let server = |url: String| {
        let server = url.trim().trim_start_matches("http://").trim_end_matches('/').to_owned();
        check_address(key, &server).map(|()| server)
    };
    urls.into_iter().map(server).collect()
}

/// Peer address of this replica: as configured, else from the list of founders, else the listen address.
fn own_address(
    id: u64,
    founders: &BTreeMap<u64, String>,
    told: Option<String>,
    listen: SocketAddr,
) -> Result<String, ConfigError> {
    let list = || {
        let pairs = founders.iter().map(|(id, address)| format!("{id}={address}"));
        pairs.collect::<Vec<_>>().join(",")
    };
    if id == 0 && !founders.is_empty() {
        let why = "a replica that joins is no founder: leave it out";
        return Err(invalid("initial_cluster", list(), why));
    }
    if !founders.is_empty() && !founders.contains_key(&id) {
        let why = format!("this replica's id, {id}, is not in it");
        return Err(invalid("initial_cluster", list(), why));
    }
    if let Some(address) = told {
        check_address("advertise_peer", &address)?;
        return Ok(address);
    }
    if let Some(address) = founders.get(&id) {
        return Ok(address.clone());
    }
    if listen.ip().is_unspecified() {
        return Err(ConfigError::Missing { key: "advertise_peer", flag: "advertise-peer" });
    }
    Ok(listen.to_string())
}

/// API address when it is served on all interfaces: the host of the peer address.
fn api_beside(peer: &str, listen: SocketAddr) -> Option<String> {
    if !listen.ip().is_unspecified() {
        return None; // where it is served, which is known when it is
    }
    let (host, _) = peer.rsplit_once(':')?;
    Some(format!("{host}:{}", listen.port()))
}

fn initial_topology(
    file: Option<PathBuf>,
    cloud: Option<Cloud>,
    region: Option<String>,
    kubernetes_host: Option<&str>,
) -> InitialTopology {
    match (file, cloud, kubernetes_host) {
        (Some(file), ..) => InitialTopology::File(file),
        // kops gives the API server 100.64.0.1, kubeadm gives it 10.96.0.1.
        (None, Some(Cloud::Aws), _) | (None, None, Some("100.64.0.1")) => {
            InitialTopology::Aws(region)
        }
        (None, None, Some("10.96.0.1")) => InitialTopology::Builtin("kubeadm"),
        _ => InitialTopology::Later,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn args(line: &str) -> Args {
        Args::parse_from(std::iter::once("romanad").chain(line.split_whitespace()))
    }

    fn merged(line: &str, toml: &str) -> Result<Config, ConfigError> {
        Config::check(args(line).given.over(toml::from_str(toml).unwrap())?, None)
    }

    #[test]
    fn dev_needs_nothing() {
        let config = merged("--dev", "").unwrap();
        assert_eq!(config.listen, "127.0.0.1:9600".parse().unwrap());
        assert_eq!(config.initial_cluster[&1], "127.0.0.1:9601");
        assert_eq!(config.advertise_api, None);
    }

    #[test]
    fn flags_go_before_the_file_and_the_file_before_defaults() {
        let file = "id = 2\ndata_dir = '/a'\nlisten = '10.0.0.2:1'\n\
                    initial_cluster = { 1 = 'a:9601', 2 = 'b:9601', 3 = 'c:9601' }";
        let config = merged("--data-dir /b", file).unwrap();
        assert_eq!(config.data_dir, Path::new("/b"));
        assert_eq!(config.listen, "10.0.0.2:1".parse().unwrap());
        assert_eq!(config.peer_listen, "0.0.0.0:9601".parse().unwrap());
        assert_eq!(config.advertise_peer, "b:9601");
        let config = merged("--listen 0.0.0.0:7", file).unwrap();
        assert_eq!(config.advertise_api.as_deref(), Some("b:7"));
    }

    #[test]
    fn mistakes_name_the_key() {
        for (line, key) in [
            ("", "id"),
            ("--id 1", "data_dir"),
            ("--id 0 --data-dir d", "id"),
            ("--id 1 --data-dir d", "advertise_peer"),
            ("--id 4 --data-dir d --initial-cluster 1=a:1", "initial_cluster"),
            ("--id 1 --data-dir d --initial-cluster 1=a", "initial_cluster"),
            ("--id 1 --data-dir d --initial-cluster 1=a:1,1=b:1", "initial_cluster"),
            ("--id 1 --data-dir d --initial-cluster 1=a:1,2=a:1", "initial_cluster"),
            ("--id 1 --data-dir d --initial-cluster x=a:1", "initial_cluster"),
            ("--join h:1 --id 4 --data-dir d --advertise-peer a:1", "id"),
            ("--join h:1 --data-dir d --initial-cluster 1=a:1", "initial_cluster"),
            ("--join https://h:1 --data-dir d --advertise-peer a:1", "join"),
            ("--join h:1 --data-dir d", "advertise_peer"),
            ("--dev --rejoin h", "rejoin"),
            ("--dev --network-cidr-overrides net=10.0.0.1/8", "network_cidr_overrides"),
            ("--dev --request-timeout-ms 0", "request_timeout_ms"),
            ("--dev --connections-max 1", "connections_max"),
            ("--dev --kubeconfig k", "kubeconfig"),
        ] {
            let error = merged(line, "").unwrap_err().to_string();
            assert!(error.starts_with(key), "{line}: {error}");
        }
        assert!(toml::from_str::<Given>("colour = 1").is_err());
    }

    #[cfg(feature = "kubernetes")]
    #[test]
    fn kubernetes_is_followed_with_a_kubeconfig_or_from_a_pod() {
        let access = |line| merged(line, "").unwrap().kubernetes;
        assert_eq!(access("--dev"), None);
        assert_eq!(access("--dev --kubernetes"), Some(Access::InCluster));
        let file = Some(Access::Kubeconfig("/k".into()));
        assert_eq!(access("--dev --kubernetes --kubeconfig /k"), file);
    }

    #[test]
    fn who_joins_has_no_id_yet() {
        let line = "--join http://h:1/,g:2 --data-dir d --advertise-peer a:1";
        let config = merged(line, "").unwrap();
        assert_eq!((config.id, config.join), (0, vec![String::from("h:1"), "g:2".into()]));
        assert!(config.initial_cluster.is_empty());
    }

    #[test]
    fn the_annotated_file_is_valid_and_complete() {
        let text = include_str!("../../deploy/config/romanad.toml");
        let file: Given = toml::from_str(text).unwrap();
        assert!(Config::check(file, None).is_ok());
        let everything: String = text
            .lines()
            .map(|line| line.strip_prefix("#> ").unwrap_or(line))
            .flat_map(|line| [line, "\n"])
            .collect();
        let keys: toml::Table = toml::from_str(&everything).unwrap();
        use clap::CommandFactory;
        for flag in Args::command().get_arguments().map(|arg| arg.get_id().as_str()) {
            let only_flags = ["config", "check", "help", "version"].contains(&flag);
            assert!(only_flags || keys.contains_key(flag), "{flag} is not in romanad.toml");
        }
        let _: Given = toml::from_str(&everything).unwrap();
    }

    #[test]
    fn the_initial_topology_is_chosen_in_order() {
        let file = Some(PathBuf::from("f"));
        let aws = Some(Cloud::Aws);
        let kubeadm = InitialTopology::Builtin("kubeadm");
        assert_eq!(initial_topology(file, aws, None, None), InitialTopology::File("f".into()));
        assert_eq!(
            initial_topology(None, aws, None, Some("10.96.0.1")),
            InitialTopology::Aws(None)
        );
        assert_eq!(initial_topology(None, None, None, Some("10.96.0.1")), kubeadm);
        assert_eq!(initial_topology(None, None, None, Some("10.0.0.1")), InitialTopology::Later);
    }
}
