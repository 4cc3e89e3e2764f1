//! Configuration of `romana-dns`: flags, environment, file, defaults, in this order of precedence.

mod stub_domains;
mod upstreams;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::Parser;
use hickory_proto::rr::Name;
use ipnet::IpNet;
use romana_client::{API_PORT, Client, ClientConfig, Server};
use romana_daemon::config::{ConfigError, Layers};
use romana_daemon::log::Form;
use serde::Deserialize;

use crate::forward::StubDomain;
use crate::zone::{Part, Pods, ServiceName, Settings};

/// Port of the metrics endpoint: that of CoreDNS.
pub const METRICS_PORT: u16 = 9153;
/// The metrics endpoint, unless configured.
const METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), METRICS_PORT);
/// The port of DNS.
const PORT: u16 = 53;
/// Directory for the copies of what the sources said.
const STATE_DIR: &str = "/var/lib/romana-dns";
/// Upstreams of the machine.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Default limits: connections by TCP, answers in the cache, questions of a client per second.
const CONNECTIONS: usize = 1_024;
const CACHE: usize = 20_000;
const RATE: u32 = 10_000;
/// Longest time to live, seconds: a week.
const TTL_MAX: u32 = 604_800;
/// Networks that are not routed on the Internet: whose clients may ask for any name.
const PRIVATE: [&str; 9] = [
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "::1/128",
    "fc00::/7",
    "fe80::/10",
];

/// DNS for Romana: Services, endpoints and VIPs; forwards other names.
#[derive(Clone, Debug, Default, Parser)]
#[command(name = "romana-dns", version, about, max_term_width = 100)]
pub struct Args {
    /// Configuration file (TOML). Flags and environment go before it.
    #[arg(long, env = "ROMANA_DNS_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    given: Layers<Given>,
    /// Validate the configuration, then exit.
    #[arg(long)]
    pub check: bool,
}

/// What a flag, a variable or a key of the file can say.
#[derive(Clone, Debug, Default, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Given {
    /// Addresses to answer at, by UDP and TCP [default: 0.0.0.0:53].
    #[arg(long, env = "ROMANA_DNS_LISTEN", value_delimiter = ',', value_name = "ADDR:PORT,…")]
    listen: Option<Vec<SocketAddr>>,
    /// The zone of all names but those of addresses [default: cluster.local].
    #[arg(long, env = "ROMANA_DNS_ZONE", value_name = "ZONE")]
    zone: Option<String>,
    /// Time to live of its records, seconds [default: 5].
    #[arg(long, env = "ROMANA_DNS_TTL", value_name = "SECONDS")]
    ttl: Option<u32>,
    /// What the name of a Service answers, in this order [default: endpoint,cluster-ip,vip]. The Kubernetes specification
    /// alone: cluster-ip.
    #[arg(long, env = "ROMANA_DNS_ANSWER", value_delimiter = ',', value_name = "PART,…")]
    answer: Option<Vec<Part>>,
    /// Which names of pods are answered [default: insecure].
    #[arg(long, env = "ROMANA_DNS_PODS", value_name = "WHICH")]
    pods: Option<Pods>,
    /// Networks in which an address without a name does not exist; questions for others are forwarded.
    #[arg(long, env = "ROMANA_DNS_REVERSE", value_delimiter = ',', value_name = "CIDR,…")]
    reverse: Option<Vec<IpNet>>,
    /// The Service of this server, which is the name server of the zone [default: kube-system/kube-dns].
    #[arg(long, env = "ROMANA_DNS_SERVICE", value_name = "NAMESPACE/NAME")]
    service: Option<ServiceName>,
    /// Where other names are asked: addresses, or a file like resolv.conf [default: /etc/resolv.conf].
    #[arg(long, env = "ROMANA_DNS_UPSTREAM", value_delimiter = ',', value_name = "ADDR|FILE,…")]
    upstream: Option<Vec<String>>,
    /// A zone of others and the servers that are asked for its names, instead of the upstreams. May be repeated.
    #[arg(long, env = "ROMANA_DNS_STUB_DOMAIN", value_delimiter = ';', value_name = "ZONE=ADDR,…")]
    stub_domain: Option<Vec<String>>,
    /// Networks whose clients may ask for other names [default: private ones]; Romana's always may.
    #[arg(long, env = "ROMANA_DNS_ALLOW", value_delimiter = ',', value_name = "CIDR,…")]
    allow: Option<Vec<IpNet>>,
    /// Questions per second of one client; 0: any number [default: 10000].
    #[arg(long, env = "ROMANA_DNS_RATE", value_name = "N")]
    rate: Option<u32>,
    /// Connections by TCP [default: 1024].
    #[arg(long, env = "ROMANA_DNS_CONNECTIONS", value_name = "N")]
    connections: Option<usize>,
    /// Answers of upstreams to keep; 0: none [default: 20000].
    #[arg(long, env = "ROMANA_DNS_CACHE", value_name = "N")]
    cache: Option<usize>,
    /// Ask upstreams in random case, which answers must repeat: harder to forge.
    #[arg(long, env = "ROMANA_DNS_RANDOM_CASE", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    random_case: Option<bool>,
    /// Follow the Kubernetes API server.
    #[arg(long, env = "ROMANA_DNS_KUBERNETES", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    kubernetes: Option<bool>,
    /// Credentials for the API server [default: those of this program's pod].
    #[arg(long, env = "ROMANA_DNS_KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Replicas of the control plane, for VIPs and endpoints; any of them will do.
    #[arg(long, env = "ROMANA_DNS_SERVER", value_delimiter = ',', value_name = "URL,…")]
    server: Option<Vec<String>>,
    /// Directory for what must outlive a restart [default: /var/lib/romana-dns].
    #[arg(long, env = "ROMANA_DNS_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Address of /healthz, /readyz, /status and /metrics [default: 127.0.0.1:9153].
    #[arg(long, env = "ROMANA_DNS_METRICS", value_name = "ADDR:PORT")]
    metrics: Option<SocketAddr>,
    /// Log lines for people or for programs [default: text].
    #[arg(long, env = "ROMANA_DNS_LOG_FORMAT", value_name = "FORMAT")]
    log_format: Option<Form>,
    /// What to log: a level or target=level,… [default: info].
    #[arg(long, env = "ROMANA_DNS_LOG", value_name = "FILTER")]
    log: Option<String>,
}

/// The validated configuration.
#[derive(Clone, Debug)]
pub struct Config {
    pub listen: Vec<SocketAddr>,
    pub settings: Settings,
    pub upstreams: Vec<SocketAddr>,
    pub stub_domains: Vec<StubDomain>,
    pub allow: Vec<IpNet>,
    pub rate: u32,
    pub connections: usize,
    pub cache: usize,
    pub random_case: bool,
    /// How to follow Kubernetes; `None`: not at all.
    pub kubernetes: Option<Kubernetes>,
    /// Replicas of the control plane; empty: the feed is not followed.
    pub servers: Vec<Server>,
    pub state_dir: PathBuf,
    pub metrics: SocketAddr,
    pub log_format: Form,
    pub log: String,
}

/// How to follow Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubernetes {
    /// `None`: the credentials of this program's pod.
    pub kubeconfig: Option<PathBuf>,
}

/// The client of the control plane cannot be created.
#[derive(Debug, thiserror::Error)]
#[error("the control plane cannot be reached as configured")]
pub struct ClientError(#[from] romana_client::Error);

impl Config {
    /// Merges flags and environment (both in `args`) with the file, and validates the result.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(args: &Args) -> Result<Self, ConfigError> {
        Self::check(args.given.over_file(args.config.as_deref())?)
    }

    fn check(given: Given) -> Result<Self, ConfigError> {
        let listen = given.listen.clone().unwrap_or_else(|| vec![any(PORT)]);
        if listen.is_empty() {
            return Err(wrong("listen", "no address is given; write 0.0.0.0:53".into()));
        }
        let servers = servers(given.server.as_deref().unwrap_or_default())?;
        let kubernetes = given.kubernetes.unwrap_or(false);
        if cfg!(not(feature = "kubernetes")) && kubernetes {
            return Err(wrong("kubernetes", "this program was built without it".into()));
        }
        if !kubernetes && given.kubeconfig.is_some() {
            return Err(wrong("kubeconfig", "it has no effect without `kubernetes`".into()));
        }
        if servers.is_empty() && !kubernetes {
            let why = "there is nothing to answer from: give --kubernetes, --server URL, or both";
            return Err(wrong("kubernetes", why.into()));
        }
        let asked = given.upstream.clone().unwrap_or_else(|| vec![RESOLV_CONF.into()]);
        let upstreams = upstreams::read(&asked, &listen).map_err(|why| wrong("upstream", why))?;
        let settings = settings(&given)?;
        let stubs = given.stub_domain.as_deref().unwrap_or_default();
        let stub_domains = stub_domains::read(stubs, &settings.zone, &listen)
            .map_err(|why| wrong("stub_domain", why))?;
        let private = || PRIVATE.iter().filter_map(|network| network.parse().ok()).collect();
        Ok(Self {
            settings,
            listen,
            upstreams,
            stub_domains,
            allow: given.allow.unwrap_or_else(private),
            rate: given.rate.unwrap_or(RATE),
            connections: given.connections.unwrap_or(CONNECTIONS).max(1),
            cache: given.cache.unwrap_or(CACHE),
            random_case: given.random_case.unwrap_or(false),
            kubernetes: kubernetes.then_some(Kubernetes { kubeconfig: given.kubeconfig }),
            servers,
            state_dir: given.state_dir.unwrap_or_else(|| STATE_DIR.into()),
            metrics: given.metrics.unwrap_or(METRICS),
            log_format: given.log_format.unwrap_or_default(),
            log: given.log.unwrap_or_else(|| "info".into()),
        })
    }

    /// A client of the control plane.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn client(&self) -> Result<Client, ClientError> {
        let actor = String::from("dns");
        Ok(Client::new(ClientConfig { actor, ..ClientConfig::new(self.servers.clone()) })?)
    }
}

fn settings(given: &Given) -> Result<Settings, ConfigError> {
    let usual = Settings::default();
    let zone = match given.zone.as_deref() {
        None => usual.zone,
        Some(text) => zone(text).ok_or_else(|| {
            wrong("zone", format!("{text:?} is not a zone such as cluster.local"))
        })?,
    };
    let ttl = given.ttl.unwrap_or(usual.ttl);
    if ttl > TTL_MAX {
        return Err(wrong("ttl", format!("{ttl} is more than a week ({TTL_MAX} s)")));
    }
    let parts = given.answer.clone().unwrap_or(usual.parts);
    if parts.is_empty() {
        return Err(wrong("answer", "no part is given: Services would have no addresses".into()));
    }
    let pods = given.pods.unwrap_or_default();
    let service = given.service.clone().unwrap_or_default();
    let reverse = given.reverse.clone().unwrap_or_default();
    let reverse = reverse.iter().map(IpNet::trunc).collect();
    Ok(Settings { zone, ttl, parts, pods, reverse, service })
}

/// Reads a zone: not the root, and short enough for names below it.
fn zone(text: &str) -> Option<Name> {
    const BYTES_MAX: usize = 100;
    let mut name = Name::from_ascii(text).ok()?.to_lowercase();
    name.set_fqdn(true);
    let labels =
        name.iter().all(|label| !label.is_empty() && label.iter().all(u8::is_ascii_graphic));
    (labels && !name.is_root() && name.len() <= BYTES_MAX).then_some(name)
}

fn servers(given: &[String]) -> Result<Vec<Server>, ConfigError> {
    if given.is_empty() {
        return Ok(Vec::new());
    }
    let servers = Server::list(&given.join(","), API_PORT);
    servers.map_err(|error| wrong("server", error.to_string()))
}

fn any(port: u16) -> SocketAddr {
    (IpAddr::from(Ipv4Addr::UNSPECIFIED), port).into()
}

fn wrong(key: &'static str, why: String) -> ConfigError {
    ConfigError::Value { key, why }
}

#[cfg(test)]
mod tests;
