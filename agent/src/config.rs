//! Configuration of `romana-agent`: flags, environment, file, defaults, in this order of precedence.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use romana_client::{API_PORT, Client, ClientConfig, Server};
use romana_daemon::config::{ConfigError, Layers};
use romana_daemon::log::Form;
use romana_statemachine::name::HostName;
use serde::Deserialize;

use crate::kernel::routes::MAIN_TABLE;
use crate::nat::Nat;
use crate::ownership;
use crate::policy::enforce::Settings;
use crate::policy::options::Options;
use crate::policy::packet_filter::Backend;
use crate::sysctl::{SYSCTL_DIR, Sysctls};

/// Port of the metrics endpoint.
pub const METRICS_PORT: u16 = 9607;
/// Kubernetes uses bits 14 and 15, other systems bits below 24.
const MARK_BIT: u32 = 24;
/// The NFLOG group that other systems use too.
const LOG_GROUP: u16 = 100;
/// Valid MTUs: the minimum of IPv4, and the largest packet.
pub(crate) const MTU_BOUNDS: RangeInclusive<u32> = 68..=65_535;
/// Route tables that the kernel manages: unspecified, default, local.
const RESERVED_TABLES: [u32; 3] = [0, 253, 255];

/// Romana on a host: routes to the blocks of the other hosts, and containers' links.
#[derive(Clone, Debug, Default, Parser)]
#[command(name = "romana-agent", version, about, max_term_width = 100)]
pub struct Args {
    /// Configuration file (TOML). Flags and environment go before it.
    #[arg(long, env = "ROMANA_AGENT_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    given: Layers<Given>,
    /// Validate the configuration, then exit.
    #[arg(long)]
    pub check: bool,
    /// Something else than running the agent.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Other commands of `romana-agent`.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Puts the CNI plugin and its configuration in place
    Install(crate::install::Install),
    /// Takes all rules, sets, routes and links of Romana out of this kernel
    ///
    /// For a host that leaves Romana for good; stop the agent first. Links of containers that run stay, unless forced.
    Cleanup(crate::cleanup::Cleanup),
    /// What the agent on this host sees and has done
    Status {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Holds virtual IPs for the agent, which starts it
    #[command(hide = true)]
    VipWatchdog,
}

/// Longer than an upgrade or reboot of a host takes.
const TAKEOVER_SECONDS: u64 = 300;

/// What a flag, a variable or a key of the file can say.
#[derive(Clone, Debug, Default, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Given {
    /// Replicas of the control plane; any of them will do.
    #[arg(long, env = "ROMANA_AGENT_SERVER", value_delimiter = ',', value_name = "URL,…")]
    server: Option<Vec<String>>,
    /// Name of this host in Romana [default: the kernel's].
    #[arg(long, env = "ROMANA_AGENT_HOSTNAME", value_name = "NAME")]
    hostname: Option<String>,
    /// Directory for what must outlive the agent [default: /var/lib/romana].
    #[arg(long, env = "ROMANA_AGENT_STATE_DIR", value_name = "DIR", global = true)]
    state_dir: Option<PathBuf>,
    /// Program routes to the blocks of the other hosts [default: true].
    #[arg(long, env = "ROMANA_AGENT_ROUTES", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    routes: Option<bool>,
    /// Number of the route table [default: 254, the main one]. Another one needs a rule of yours.
    #[arg(long, env = "ROMANA_AGENT_ROUTE_TABLE", value_name = "N")]
    route_table: Option<u32>,
    /// Also route to hosts behind a gateway, through it.
    #[arg(long, env = "ROMANA_AGENT_MULTIHOP_BLOCKS", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    multihop_blocks: Option<bool>,
    /// Use all addresses of a host that are on a link here, not only the first.
    #[arg(long, env = "ROMANA_AGENT_ECMP", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    ecmp: Option<bool>,
    /// Add this host to the cluster, and follow its addresses.
    #[arg(long, env = "ROMANA_AGENT_REGISTER", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    register: Option<bool>,
    /// Addresses of this host in the physical network, the main one first: for --register.
    #[arg(long, env = "ROMANA_AGENT_HOST_IP", value_delimiter = ',', value_name = "IP,…")]
    host_ip: Option<Vec<IpAddr>>,
    /// Seconds of silence of another agent under this host's name after which this one takes its place [default:
    /// 300]. What the other one has attached is given up then.
    #[arg(long, env = "ROMANA_AGENT_TAKEOVER_AFTER", value_name = "SECONDS")]
    takeover_after: Option<u64>,
    /// Labels of this host: for --register.
    #[arg(
        long,
        env = "ROMANA_AGENT_HOST_LABELS",
        value_delimiter = ',',
        value_name = "KEY=VALUE,…"
    )]
    host_labels: Option<Vec<String>>,
    /// Socket for the CNI plugin [default: /run/romana/agent.sock].
    #[arg(long, env = "ROMANA_AGENT_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
    /// MTU of containers' links [default: the smallest of the links to the other hosts].
    #[arg(long, env = "ROMANA_AGENT_MTU", value_name = "BYTES")]
    mtu: Option<u32>,
    /// Enforce policy [default: true]. With false, rules of an earlier run are taken away.
    #[arg(long, env = "ROMANA_AGENT_POLICY", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    policy: Option<bool>,
    /// Log what policies deny, by NFLOG.
    #[arg(long, env = "ROMANA_AGENT_POLICY_LOG", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    policy_log: Option<bool>,
    /// The group of NFLOG [default: 100].
    #[arg(long, env = "ROMANA_AGENT_POLICY_LOG_GROUP", value_name = "N")]
    policy_log_group: Option<u16>,
    /// Bit of the packet mark that rules use among themselves, 0 to 31 [default: 24].
    #[arg(long, env = "ROMANA_AGENT_POLICY_MARK_BIT", value_name = "N")]
    policy_mark_bit: Option<u32>,
    /// Which iptables [default: auto, that in which this host has rules].
    #[arg(long, env = "ROMANA_AGENT_IPTABLES", value_name = "WHICH")]
    iptables: Option<Backend>,
    /// Answer for the virtual IPs that are placed on this host [default: true].
    #[arg(long, env = "ROMANA_AGENT_VIPS", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    vips: Option<bool>,
    /// Link for virtual IPs [default: for each, the one that has its subnet].
    #[arg(long, env = "ROMANA_AGENT_VIP_LINK", value_name = "NAME")]
    vip_link: Option<String>,
    /// Masquerade what leaves the Romana networks.
    #[arg(long, env = "ROMANA_AGENT_NAT", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    nat: Option<bool>,
    /// Masquerade only what leaves through this interface.
    #[arg(long, env = "ROMANA_AGENT_NAT_INTERFACE", value_name = "NAME")]
    nat_interface: Option<String>,
    /// Set the sysctls that forwarding needs, for the families that have a network, not only check them.
    #[arg(long, env = "ROMANA_AGENT_SET_SYSCTLS", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    set_sysctls: Option<bool>,
    /// Directory with the host's sysctls, of which those below net/ are used [default: /proc/sys]. In a container,
    /// /proc/sys is read-only: mount the host's /proc/sys/net at DIR/net.
    #[arg(long, env = "ROMANA_AGENT_SYSCTL_DIR", value_name = "DIR")]
    sysctl_dir: Option<PathBuf>,
    /// Address of /healthz, /readyz, /status and /metrics [default: 127.0.0.1:9607].
    #[arg(long, env = "ROMANA_AGENT_METRICS", value_name = "ADDR:PORT")]
    metrics: Option<SocketAddr>,
    /// Log lines for people or for programs [default: text].
    #[arg(long, env = "ROMANA_AGENT_LOG_FORMAT", value_name = "FORMAT")]
    log_format: Option<Form>,
    /// What to log: a level or target=level,… [default: info].
    #[arg(long, env = "ROMANA_AGENT_LOG", value_name = "FILTER")]
    log: Option<String>,
}

/// The validated configuration.
#[derive(Clone, Debug)]
pub struct Config {
    pub servers: Vec<Server>,
    pub host: HostName,
    /// Directory for persistent state.
    pub state_dir: PathBuf,
    /// Whether to program routes.
    pub routes: bool,
    pub route_table: u32,
    /// Whether to route through gateways as well.
    pub multihop: bool,
    /// Whether to use all addresses of a host as next hops.
    pub ecmp: bool,
    /// How to register this host; `None`: do not register it.
    pub register: Option<Registration>,
    /// Socket for the plugin.
    pub socket: PathBuf,
    /// This agent takes over after another agent of the host has been silent for this time.
    pub takeover_after: Duration,
    /// Default MTU of containers' links.
    pub mtu: Option<u32>,
    /// Policy enforcement.
    pub policy: Settings,
    /// Whether to answer for virtual IPs.
    pub vips: bool,
    /// The link for virtual IPs; `None`: that of their subnet.
    pub vip_link: Option<String>,
    /// What to masquerade; `None`: nothing.
    pub nat: Option<Nat>,
    /// Whether to set the sysctls that forwarding needs.
    pub set_sysctls: bool,
    /// The host's sysctls.
    pub sysctls: Sysctls,
    /// Address of the metrics endpoint.
    pub metrics: SocketAddr,
    /// Format of log lines.
    pub log_format: Form,
    /// Log filter.
    pub log: String,
}

/// Data for the registration of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The host's addresses, main address first; empty: the global addresses of the default route's link.
    pub ips: Vec<IpAddr>,
    pub labels: romana_statemachine::command::Labels,
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
    pub fn load(args: Args) -> Result<Self, ConfigError> {
        Self::check(given(&args)?)
    }

    fn check(given: Given) -> Result<Self, ConfigError> {
        let wrong = |key, why: String| ConfigError::Value { key, why };
        let servers = given.server.unwrap_or_default();
        let servers = Server::list(&servers.join(","), API_PORT);
        let servers = servers.map_err(|error| wrong("server", error.to_string()))?;
        if servers.is_empty() {
            return Err(wrong("server", "none is given; write http://HOST:9600".into()));
        }
        let host = HostName::from(given.hostname.map_or_else(kernel_name, Ok)?);
        host.check().map_err(|refusal| wrong("hostname", refusal.to_string()))?;
        let route_table = given.route_table.unwrap_or(MAIN_TABLE);
        if RESERVED_TABLES.contains(&route_table) {
            let why = format!("table {route_table} is the kernel's own: choose 1 to 252, or 254");
            return Err(wrong("route_table", why));
        }
        let mark = given.policy_mark_bit.unwrap_or(MARK_BIT);
        let Some(mark) = 1_u32.checked_shl(mark) else {
            return Err(wrong("policy_mark_bit", format!("{mark} is not 0 to 31")));
        };
        let policy = Settings {
            enabled: given.policy.unwrap_or(true),
            backend: given.iptables.unwrap_or_default(),
            mark,
            log_group: given.policy_log_group.unwrap_or(LOG_GROUP),
            options: Options {
                log: given.policy_log.unwrap_or(false),
                failsafe: servers.iter().map(Server::port).collect(),
            },
        };
        let interface = given.nat_interface;
        if let Some(name) = &interface
            && !is_interface(name)
        {
            return Err(wrong("nat_interface", format!("{name:?} is no name of an interface")));
        }
        if let Some(name) = given.vip_link.as_deref().filter(|name| !is_interface(name)) {
            return Err(wrong("vip_link", format!("{name:?} is no name of an interface")));
        }
        if let Some(mtu) = given.mtu.filter(|mtu| !MTU_BOUNDS.contains(mtu)) {
            let why = format!("{mtu} is not {} to {}", MTU_BOUNDS.start(), MTU_BOUNDS.end());
            return Err(wrong("mtu", why));
        }
        let labels = labels(given.host_labels.unwrap_or_default());
        let labels = labels.map_err(|why| wrong("host_labels", why))?;
        let registration = Registration { ips: given.host_ip.unwrap_or_default(), labels };
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, METRICS_PORT));
        Ok(Self {
            servers,
            host,
            state_dir: given.state_dir.unwrap_or_else(|| PathBuf::from(ownership::STATE_DIR)),
            routes: given.routes.unwrap_or(true),
            route_table,
            multihop: given.multihop_blocks.unwrap_or(false),
            ecmp: given.ecmp.unwrap_or(false),
            register: given.register.unwrap_or(false).then_some(registration),
            socket: given.socket.unwrap_or_else(|| PathBuf::from(ownership::SOCKET)),
            takeover_after: Duration::from_secs(given.takeover_after.unwrap_or(TAKEOVER_SECONDS)),
            mtu: given.mtu,
            policy,
            vips: given.vips.unwrap_or(true),
            vip_link: given.vip_link,
            nat: given.nat.unwrap_or(false).then_some(Nat { interface }),
            set_sysctls: given.set_sysctls.unwrap_or(false),
            sysctls: Sysctls::at(given.sysctl_dir.unwrap_or_else(|| SYSCTL_DIR.into())),
            metrics: given.metrics.unwrap_or(loopback),
            log_format: given.log_format.unwrap_or_default(),
            log: given.log.unwrap_or_else(|| "info".into()),
        })
    }

    /// Creates a client of the control plane with a request timeout of `timeout`; `None`: the default.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn client(&self, timeout: Option<Duration>) -> Result<Client, ClientError> {
        let usual = ClientConfig::new(self.servers.clone());
        let attempt = usual.attempt_timeout;
        self.client_of(timeout.unwrap_or(usual.timeout), attempt)
    }

    /// Creates a client whose requests take `timeout` at most, and which asks another replica after `attempt`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn client_of(&self, timeout: Duration, attempt: Duration) -> Result<Client, ClientError> {
        let usual = ClientConfig::new(self.servers.clone());
        let actor = format!("agent:{}", self.host);
        let attempt_timeout = attempt;
        Ok(Client::new(ClientConfig { actor, timeout, attempt_timeout, ..usual })?)
    }
}

/// The address that `romana-agent status` queries, from the same flags, variables and file as the agent's.
///
/// # Errors
/// [`ConfigError`].
pub fn metrics_address(args: &Args) -> Result<SocketAddr, ConfigError> {
    Ok(given(args)?
        .metrics
        .unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, METRICS_PORT))))
}

/// The state directory of this host's agent, for commands that use it while no agent runs.
///
/// # Errors
/// [`ConfigError`].
pub fn state_dir(args: &Args) -> Result<PathBuf, ConfigError> {
    Ok(given(args)?.state_dir.unwrap_or_else(|| PathBuf::from(ownership::STATE_DIR)))
}

/// Flags and environment take precedence over the file.
fn given(args: &Args) -> Result<Given, ConfigError> {
    Ok(args.given.over_file(args.config.as_deref())?)
}

fn kernel_name() -> Result<String, ConfigError> {
    let name = rustix::system::uname().nodename().to_str().map(str::to_owned);
    name.map_err(|_| ConfigError::Value {
        key: "hostname",
        why: "the kernel's name of this host is no text: give one".into(),
    })
}

/// Whether a name is a valid interface name: it becomes part of a rule.
fn is_interface(name: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@".contains(&byte);
    (1..=15).contains(&name.len()) && !name.starts_with('-') && name.bytes().all(letter)
}

fn labels(given: Vec<String>) -> Result<romana_statemachine::command::Labels, String> {
    let pair = |text: String| match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not KEY=VALUE")),
    };
    given.into_iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Config, ConfigError> {
        let mut all = vec!["romana-agent"];
        for (flag, value) in [("--server", "http://10.0.0.1:9600"), ("--hostname", "h1")] {
            if !args.contains(&flag) {
                all.extend([flag, value]);
            }
        }
        all.extend(args);
        Config::load(Args::parse_from(all))
    }

    #[test]
    fn flags_go_before_the_file_and_the_file_before_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("agent.toml");
        std::fs::write(&file, "hostname = \"other\"\nroute_table = 10\necmp = true\n").unwrap();
        let config = parse(&["--config", file.to_str().unwrap(), "--route-table", "11"]).unwrap();
        assert_eq!((config.host.as_str(), config.route_table), ("h1", 11));
        assert!(config.ecmp && config.routes && config.register.is_none());
    }

    #[test]
    fn the_annotated_file_says_every_key_and_is_accepted() {
        let text = include_str!("../../deploy/config/agent.toml");
        let all = text
            .replace("# hostname", "hostname")
            .replace("# host_", "host_")
            .replace("# mtu", "mtu")
            .replace("# nat_", "nat_")
            .replace("# vip_", "vip_");
        let said: toml::Table = all.parse().unwrap();
        let given: Given = toml::from_str(&all).unwrap();
        // Check every key, by its name in the debug form.
        let shown = format!("{given:?}");
        assert!(!shown.contains("None"), "a key is missing: {shown}");
        assert_eq!(said.len(), shown.matches("Some(").count());
        let config = Config::check(toml::from_str(text).unwrap()).unwrap();
        assert_eq!((config.route_table, config.routes, config.mtu), (MAIN_TABLE, true, None));
    }

    #[test]
    fn bad_values_say_which_and_why() {
        for (args, wanted) in [
            (["--route-table", "255"], "route_table"),
            (["--hostname", "a b"], "hostname"),
            (["--nat-interface", "a b"], "nat_interface"),
            (["--vip-link", "a b"], "vip_link"),
            (["--policy-mark-bit", "32"], "policy_mark_bit"),
            (["--host-labels", "rack"], "host_labels"),
            (["--server", "ftp://x"], "server"),
            (["--mtu", "0"], "mtu"),
            (["--mtu", "67"], "mtu"),
            (["--mtu", "65536"], "mtu"),
        ] {
            let error = parse(&args).unwrap_err();
            let ConfigError::Value { key, .. } = error else { panic!("{args:?}: {error}") };
            assert_eq!(key, wanted);
        }
        assert!(Config::load(Args::parse_from(["romana-agent"])).is_err(), "no server");
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("agent.toml");
        std::fs::write(&file, "sever = \"http://x\"\n").unwrap();
        let error = parse(&["--config", file.to_str().unwrap()]).unwrap_err();
        assert!(error.to_string().ends_with("agent.toml is not a valid configuration"), "{error}");
    }
}
