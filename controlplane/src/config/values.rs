//! Checks of single values of the configuration, and of values that do not go together.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use romana_statemachine::limits::SERVICE_RANGES_MAX;
use romana_statemachine::name::NetworkName;

use super::{Cloud, ConfigError, InitialTopology};
use crate::kubernetes::Access;

pub(super) fn invalid(
    key: &'static str,
    value: impl Into<String>,
    why: impl Into<String>,
) -> ConfigError {
    ConfigError::Invalid { key, value: value.into(), why: why.into() }
}

pub(super) fn required<T>(
    given: Option<T>,
    dev: Option<T>,
    key: &'static str,
    flag: &'static str,
) -> Result<T, ConfigError> {
    given.or(dev).ok_or(ConfigError::Missing { key, flag })
}

pub(super) fn within<T: PartialOrd + ToString>(
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
pub(super) fn kubernetes(
    wanted: bool,
    kubeconfig: Option<PathBuf>,
) -> Result<Option<Access>, ConfigError> {
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

pub(super) fn founders(pairs: Vec<(String, String)>) -> Result<BTreeMap<u64, String>, ConfigError> {
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

pub(super) fn check_address(key: &'static str, address: &str) -> Result<(), ConfigError> {
    let (host, port) =
        address.rsplit_once(':').ok_or_else(|| invalid(key, address, "write it as HOST:PORT"))?;
    let port: u16 = port.parse().map_err(|_| invalid(key, address, "the port is not a number"))?;
    let bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    if host.is_empty() || bare_v6 || host.contains(char::is_whitespace) || port == 0 {
        return Err(invalid(key, address, "write it as HOST:PORT or [IPV6]:PORT"));
    }
    Ok(())
}

pub(super) fn cidrs(
    pairs: Vec<(String, String)>,
) -> Result<BTreeMap<NetworkName, IpNet>, ConfigError> {
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
pub(super) fn service_ranges(given: Option<String>) -> Result<Vec<IpNet>, ConfigError> {
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
pub(super) fn own_id(join: &[String], given: Option<u64>, dev: bool) -> Result<u64, ConfigError> {
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
pub(super) fn servers(key: &'static str, urls: Vec<String>) -> Result<Vec<String>, ConfigError> {
    let server = |url: String| {
        let server = url.trim().trim_start_matches("http://").trim_end_matches('/').to_owned();
        check_address(key, &server).map(|()| server)
    };
    urls.into_iter().map(server).collect()
}

/// Peer address of this replica: as configured, else from the list of founders, else the listen address.
pub(super) fn own_address(
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
pub(super) fn api_beside(peer: &str, listen: SocketAddr) -> Option<String> {
    if !listen.ip().is_unspecified() {
        return None; // where it is served, which is known when it is
    }
    let (host, _) = peer.rsplit_once(':')?;
    Some(format!("{host}:{}", listen.port()))
}

pub(super) fn initial_topology(
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

/// Refuses an API address and a peer address that cannot both be served.
pub(super) fn check_ports(api: SocketAddr, peers: SocketAddr) -> Result<(), ConfigError> {
    let overlap =
        api.ip() == peers.ip() || api.ip().is_unspecified() || peers.ip().is_unspecified();
    if api.port() == peers.port() && api.port() != 0 && overlap {
        let why = format!("the API has this port as well (listen = {api}): choose another one");
        return Err(invalid("peer_listen", peers.to_string(), why));
    }
    Ok(())
}

/// Refuses two sources of a new cluster's state.
pub(super) fn check_restore(restore: Option<&PathBuf>, awaits: bool) -> Result<(), ConfigError> {
    match restore {
        Some(file) if awaits => {
            let why = "await_restore (--await-restore) waits for a backup over the network instead: choose one";
            Err(invalid("restore", file.display().to_string(), why))
        }
        _ => Ok(()),
    }
}

/// Refuses a region that has no effect.
pub(super) fn check_region(
    region: Option<&String>,
    topology: &InitialTopology,
) -> Result<(), ConfigError> {
    match (region, topology) {
        (None, _) | (_, InitialTopology::Aws(_)) => Ok(()),
        (Some(region), _) => {
            let why = "it chooses a built-in topology, with cloud = \"aws\" (--cloud aws) and no initial_network";
            Err(invalid("region", region, why))
        }
    }
}
